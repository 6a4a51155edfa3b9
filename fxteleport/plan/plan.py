"""Plans: what can be teleported in a model, and the teleportations themselves.

    model -> capture -> constrain -> solve -> Plan;   Plan + ChangeOfBasis -> rewrite -> network

`analysis.py` has the data of a plan. Its methods are functions of the modules beside it, which `Plan` lists.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import nn

from fxteleport.checked import checked
from fxteleport.explain.groups import Group, Grouping, neuron_groups
from fxteleport.explain.joins import Link, Tie, group_links, group_ties
from fxteleport.explain.scalings import Use, group_uses
from fxteleport.passes.capture.capture import capture
from fxteleport.passes.check_graph import check_graph
from fxteleport.passes.constrain.constrain import constrain
from fxteleport.passes.constrain.interpreter import Opaque
from fxteleport.passes.constrain.ranks import insist_on_ranks
from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.errors import InputError
from fxteleport.passes.graph.exported import is_program
from fxteleport.passes.rewrite.teleported_network import TeleportedModule
from fxteleport.passes.solve.solve import solve
from fxteleport.plan import emission, factors, free_values, in_place, moved_share, teleported_point, unguarded
from fxteleport.plan.analysis import Analysis, Call
from fxteleport.plan.caches import teleport_inputs
from fxteleport.plan.choices import CACHED, MODES, NORM_STATS, NORMS
from fxteleport.plan.planned_model import planned_model

if TYPE_CHECKING:
    from torch.export import ExportedProgram

P = TypeVar("P", bound="Plan")


@checked
def plan(
    model: nn.Module | ExportedProgram,
    *example_inputs: Any,
    mode: str = "full",
    norm_stats: str = "fixed",
    checks: bool = False,
    data_guards: bool = True,
    norms: str = "exact",
    cached: str | Sequence[str] = "pinned",
    calls: Sequence[Call] = (),
    **keyword_inputs: Any,
) -> Plan:
    """Find which CoB values of a model are free. Reads and copies no weight; the model may be on meta.

    Args:
        model: any `nn.Module`, or an exported program (`torch.export`): then `plan.rewrite` gives a program again.
        *example_inputs: arguments of its forward; tensors may be on meta. A program has its own.
        mode: "full" allows every non-zero CoB and emits teleported activations where needed; "weights" changes
            no operation, so that the result's state dict fits the original class.
        norm_stats: batch norm's running statistics: "fixed" (paper, condition 4), "rescaled" (frees the inputs,
            exact in eval mode only), or "wrapped" (frees them by dividing at run time; "full" mode only).
        checks: check after each pass, each later `rewrite` included, what must be true of the graph
            (`passes/check_graph.py`): for rules and passes under development.
        data_guards: where integers and booleans among the inputs (or the model's buffers) alone decide a branch of
            forward, take the example's branch: a condition of kind "data", with a guard in emitted networks. Otherwise
            the code that branches is kept whole, which is right on all data.
        norms: "scaled" (`mode="weights"` only) lets the input of a layer, RMS, group, instance or L2 norm have one
            positive factor c, without scaling its epsilon, which no state dict has. The function is kept but for that:
            the norm's result has a relative difference of at most eps / (2 variance) * max(1, 1 / c^2). Each such norm
            is a condition of kind "norm". "exact" pins their inputs; `mode="full"` is always exact.
        cached: "teleported": an object that holds tensors (a cache of transformers, say), which a call takes and
            gives back, changed in place or in its output, has a CoB, the same for input and output. So an emitted
            network goes on with what it has given; `plan.teleport_inputs` takes a cache of the original there. Names of
            arguments: so have these, also tuples, lists or dictionaries. "pinned": caches stay the original's.
            `cache="teleported"` means the same; a forward's own argument `cache` is no such word.
        calls: other ways in which the model is called, each `(args, kwargs)`: one plan is right for all of them, and an
            emitted network takes each. So a prompt without a cache, and the next token with the cache, are one plan.
        **keyword_inputs: keyword arguments of its forward.

    Raises:
        InputError: an unknown mode, norm_stats, norms or cached, or two that do not go together; a cache that is to
            have a CoB, and is none.
        ModelError: the model is not a plain, materialised float `nn.Module`.
        CaptureError: the model does not run on these inputs, or one of `calls` has no graph beside the first.
        GraphError, RuleError: with `checks`, a pass has broken its contract, or a rule fails in another way than by
            declining; without, such a node is pinned, with the exception as the reason.
    """
    if mode not in MODES:
        raise InputError(f"unknown mode '{mode}': choose one of {', '.join(MODES)}")
    if norm_stats not in NORM_STATS:
        raise InputError(f"unknown norm_stats '{norm_stats}': choose one of {', '.join(NORM_STATS)}")
    if mode == "weights" and norm_stats == "wrapped":
        raise InputError("norm_stats='wrapped' adds operations, which mode='weights' forbids: use 'rescaled'")
    if norms not in NORMS:
        raise InputError(f"unknown norms '{norms}': choose one of {', '.join(NORMS)}")
    if mode == "full" and norms == "scaled":
        raise InputError(
            "norms='scaled' is approximate, and mode='full' needs no such thing: there norms get epsilons of their own,"
            " and the function is kept exactly"
        )
    if isinstance(keyword_inputs.get("cache"), str):
        cached = keyword_inputs.pop("cache")
    if isinstance(cached, str) and cached not in CACHED:
        raise InputError(
            f"unknown cached '{cached}': choose one of {', '.join(CACHED)}, or name arguments: cached=['past']"
        )
    cached = cached if isinstance(cached, str) else tuple(cached)
    if not all(isinstance(call, (tuple, list)) and list(map(type, call)) == [tuple, dict] for call in calls):
        raise InputError("'calls' holds pairs of a tuple of inputs and a dictionary of those by name: ((x,), {})")
    if is_program(model):
        from fxteleport.plan.programs import plan_program

        if cached != "pinned" or calls:
            raise InputError("an exported program is one call, and its cache keeps the CoB 1: plan the eager model")
        return plan_program(model, mode, norm_stats, example_inputs, keyword_inputs, checks, data_guards, norms)
    given = example_inputs, keyword_inputs
    return made(Plan, model, mode, norm_stats, *given, checks, data_guards, norms, cached, tuple(calls))


def made(
    kind: Callable[..., P],
    model: Any,
    mode: str,
    norm_stats: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    checks: bool,
    data_guards: bool,
    norms: str = "exact",
    cached: str | tuple[str, ...] = "pinned",
    calls: tuple[Call, ...] = (),
) -> P:
    """Run the passes on a module, and return their results as a plan of this class."""
    seconds = {}
    ambient = torch.get_default_device().type
    with _without_garbage_collection():
        clock = time.perf_counter()
        with _on_cpu(ambient == "meta"):  # constants that forward creates must have values
            captured = insist_on_ranks(capture(model, args, kwargs, data_guards, calls))
        if checks:
            check_graph(captured, "capture")
        seconds["capture"], clock = time.perf_counter() - clock, time.perf_counter()
        with _on_cpu(ambient != "cpu"):  # symbols live on the CPU
            constrained = constrain(captured, mode, norm_stats, checks, norms, cached)
            if checks:
                check_graph(captured, "constrain", constrained)
            seconds["constrain"], clock = time.perf_counter() - clock, time.perf_counter()
            solution = solve(constrained.system)
            seconds["solve"] = time.perf_counter() - clock
        moving = frozenset(name for name, cob_map in constrained.tensors.items() if cob_map.factors)
        planned = planned_model(captured, moving)
        how = mode, norm_stats, planned, seconds, checks, data_guards, norms, cached, calls
        return kind(captured, constrained, solution, *how)


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Switch off Python's cyclic garbage collector, which would walk the growing graph and double the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _on_cpu(switch: bool) -> contextlib.AbstractContextManager[Any]:
    """Create new tensors on the CPU, if `switch`: the ambient default device is another. (The context costs time.)"""
    return torch.device("cpu") if switch else contextlib.nullcontext()


@checked
def teleport(
    model: nn.Module,
    *example_inputs: Any,
    cob_range: float = 0.5,
    landscape: str = "intra",
    exact: bool = False,
    seed: int | None = None,
    mode: str = "full",
    norm_stats: str = "fixed",
    strict: bool = False,
    data_guards: bool = True,
    norms: str = "exact",
    **keyword_inputs: Any,
) -> TeleportedModule:
    """Teleport a model with a random CoB: `plan`, `sample` and `rewrite` in one call (their errors too).

    Raises:
        ConditionError: `strict`, and the plan has conditions (which are guards in the network otherwise).
    """
    settings: dict[str, Any] = {"norm_stats": norm_stats, "data_guards": data_guards, "norms": norms}
    planned = plan(model, *example_inputs, mode=mode, **settings, **keyword_inputs)
    if strict:
        planned.require_none()
    return planned.rewrite(planned.sample(cob_range, landscape, exact, seed))


@dataclass(frozen=True, eq=False, repr=False)
class Plan(Analysis):
    """The plan of one model: its analysis, with the functions that use it as methods.

    A plan never changes. Each function named here takes the plan as its first argument.
    """

    def __repr__(self) -> str:
        name = type(self.captured.model).__name__
        others: Any = (("norms", "exact", self.norms), ("cached", "pinned", self.cached))
        said = "".join(f", {what}={value!r}" for what, default, value in others if value != default)
        return f"Plan({name}, mode={self.mode!r}, norm_stats={self.norm_stats!r}{said}, num_free={self.num_free})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        return self  # it never changes

    # -- what may move, and why the rest may not -------------------------------------------------------

    moved = functools.cached_property(moved_share.moved)
    moved_elements = moved_share.moved_elements

    @property
    def groups(self) -> list[Group]:
        """Neuron groups, largest first: members, size, kind (free, dependent, pinned), why pinned."""
        return self.grouping.groups

    @functools.cached_property
    def grouping(self) -> Grouping:
        """The groups, and the group of every symbol."""
        return neuron_groups(self.captured, self.constrained, self.solution)

    @functools.cached_property
    def links(self) -> list[list[Link]]:
        """For each group, the operations that make its members share their values, as a tree."""
        return group_links(self.constrained.system, self.grouping)

    @functools.cached_property
    def ties(self) -> list[Tie]:
        """The operations that make some groups products of others."""
        return group_ties(self.constrained.system, self.grouping)

    def uses(self, cob: CobMap | None) -> list[Use]:
        """Which groups scale a tensor with this map, along which axes (see `map_of` and `constrained.tensors`)."""
        return group_uses(cob, self.grouping, self.solution)

    @property
    def opaque(self) -> list[Opaque]:
        """Nodes that no rule covers, each with the reason."""
        return self.constrained.opaque

    @property
    def specialized(self) -> list[str]:
        """The conditions as text, "where: what"."""
        return list(dict.fromkeys(map(str, self.conditions)))

    require_none = unguarded.require_none

    # -- changes of basis, and what they do ------------------------------------------------------------

    sample = free_values.sample
    identity = free_values.identity
    cob = free_values.from_values
    check = free_values.check
    tau = factors.tau
    scales = factors.scales
    at = teleported_point.at
    teleport_inputs = teleport_inputs
    rewrite = emission.rewrite
    apply_ = in_place.apply_

    # Set in `fxteleport/api.py`: `align` and `landscape` work on plans, so no plan imports them.
    align: ClassVar[Callable[..., Any]]  # fxteleport.align
    optimize: ClassVar[Callable[..., Any]]  # fxteleport.optimize
