"""Plans: what can be teleported in a model, and the teleportations themselves.

model -> capture -> constrain -> solve -> Plan;   Plan + ChangeOfBasis -> rewrite -> network
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import math
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxteleport.align.align import Alignment, align
from fxteleport.explain.groups import Group, Grouping, neuron_groups
from fxteleport.explain.joins import Link, Tie, group_links, group_ties
from fxteleport.explain.scalings import Use, group_uses
from fxteleport.landscape.objectives import Objective
from fxteleport.landscape.optimize import Optimized, optimize
from fxteleport.passes.capture.capture import Captured, capture
from fxteleport.passes.constrain.interpreter import Constrained, Opaque, constrain
from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.errors import CobError, ConditionError, ConditionWarning, InputError, ModelError
from fxteleport.passes.graph.conditions import Condition, in_short
from fxteleport.passes.graph.dtensor import is_sharded, local, put_back
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.rewrite.rewrite import TeleportedModule, live, rewrite
from fxteleport.passes.rewrite.wraps import Sides, cobs, settle, slots_of
from fxteleport.passes.scale import format_range, row_column_scaling
from fxteleport.passes.scale.recipe import Prepared, Recipe, recipe
from fxteleport.passes.solve.solution import POSITIVE, UNIT, Solution
from fxteleport.passes.solve.solve import solve
from fxteleport.plan.cob import ChangeOfBasis, sample_values
from fxteleport.plan.fingerprint import planned
from fxteleport.plan.model_snapshot import Held
from fxteleport.plan.teleported_point import Point

MODES = ("full", "weights")
NORM_STATS = ("fixed", "rescaled", "wrapped")


def plan(
    model: nn.Module, *example_inputs: Any, mode: str = "full", norm_stats: str = "fixed", **keyword_inputs: Any
) -> Plan:
    """Find which CoB values of a model are free. Reads and copies no weight; the model may be on meta.

    Args:
        model: any `nn.Module`.
        example_inputs, keyword_inputs: what its forward takes; tensors may be on meta.
        mode: "full" allows every non-zero CoB and emits teleported activations where needed; "weights" changes
            no operation, so that the result's state dict fits the original class.
        norm_stats: batch norm's running statistics: "fixed" (paper, condition 4), "rescaled" (frees the inputs,
            exact in eval mode only), or "wrapped" (frees them by dividing at run time; "full" mode only).

    Raises:
        InputError: an unknown mode or norm_stats.
        ModelError: the model is not a plain, materialised float `nn.Module`.
        CaptureError: the model does not run on these inputs.
    """
    if mode not in MODES:
        raise InputError(f"unknown mode '{mode}': choose one of {', '.join(MODES)}")
    if norm_stats not in NORM_STATS:
        raise InputError(f"unknown norm_stats '{norm_stats}': choose one of {', '.join(NORM_STATS)}")
    if mode == "weights" and norm_stats == "wrapped":
        raise InputError("norm_stats='wrapped' adds operations, which mode='weights' forbids: use 'rescaled'")
    seconds = {}
    ambient = torch.get_default_device().type
    with _collecting_later():
        clock = time.perf_counter()
        with _on_cpu(ambient == "meta"):  # constants that forward makes must have values
            captured = capture(model, example_inputs, keyword_inputs)
        seconds["capture"], clock = time.perf_counter() - clock, time.perf_counter()
        with _on_cpu(ambient != "cpu"):  # symbols live on the CPU
            found = constrain(captured, mode, norm_stats)
            seconds["constrain"], clock = time.perf_counter() - clock, time.perf_counter()
            solution = solve(found.system)
            seconds["solve"] = time.perf_counter() - clock
        return Plan(captured, found, solution, mode, norm_stats, seconds)


@contextlib.contextmanager
def _collecting_later() -> Iterator[None]:
    """Python's cycle collector rests: a graph stays, and walking it again and again as it grows doubles the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _on_cpu(switch: bool) -> contextlib.AbstractContextManager[Any]:
    """Make new tensors on the CPU, where the ambient default device is another (it costs time: not always)."""
    return torch.device("cpu") if switch else contextlib.nullcontext()


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
    **keyword_inputs: Any,
) -> TeleportedModule:
    """Teleport a model with a random CoB: `plan`, `sample` and `rewrite` in one call (their errors too).

    Raises:
        ConditionError: `strict`, and the plan rests on conditions (which are guards in the network otherwise).
    """
    found = plan(model, *example_inputs, mode=mode, norm_stats=norm_stats, **keyword_inputs)
    if strict:
        found.require_none()
    return found.rewrite(found.sample(cob_range, landscape, exact, seed))


class Plan:
    """The freedom of one model: its graph, its CoB maps and the solution of their constraints."""

    def __init__(
        self,
        captured: Captured,
        constrained: Constrained,
        solution: Solution,
        mode: str,
        norm_stats: str,
        seconds: dict[str, float],
    ) -> None:
        self.captured, self.constrained, self.solution = captured, constrained, solution
        self.mode, self.norm_stats, self.seconds = mode, norm_stats, seconds
        self._prepared: tuple[Held, Prepared] | None = None
        moving = frozenset(name for name, cob in constrained.tensors.items() if cob.factors)
        self.planned = planned(captured, moving)
        self._said = False  # what it rests on, in a warning

    def __repr__(self) -> str:
        name = type(self.captured.model).__name__
        return f"Plan({name}, mode={self.mode!r}, norm_stats={self.norm_stats!r}, num_free={self.num_free})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        return self  # it never changes

    # -- what is free ----------------------------------------------------------------------------------

    @property
    def num_free(self) -> int:
        """The number of independent CoB values."""
        return self.solution.num_free

    @functools.cached_property
    def moved(self) -> float:
        """The share of parameter elements whose factor is not structurally 1."""
        names = {self.captured.canonical[n]: p.numel() for n, p in self.captured.model.named_parameters()}
        total = sum(names.values())
        return sum(self.moved_elements(n) for n in names) / total if total else 0.0

    def moved_elements(self, name: str) -> int:
        """How many elements of a parameter have a factor that is not structurally 1.

        Every symbol gets a random 64-bit number that is additive over its monomial: a product of symbols is
        structurally 1 if and only if the sum is 0 (but for a chance of 2**-64).
        """
        cob = self.constrained.tensors.get(self.captured.canonical[name])
        numel = self.captured.metas[name].numel()
        if cob is None or not cob.factors or not numel:
            return 0
        keys: dict[torch.Size, Any] = {}
        for symbols, exponent in cob.factors:
            keys[symbols.shape] = keys.get(symbols.shape, 0) + self._keys[symbols.numpy()] * exponent
        still, total = _zero_sums(list(keys.values()))
        return (total - still) * (numel // total) if total else 0

    @functools.cached_property
    def _keys(self) -> Any:
        """See `Solution.keys`."""
        return self.solution.keys()

    @functools.cached_property
    def recipe(self) -> Recipe:
        """How to scale the model's tensors for any CoB."""
        known, canonical = self.constrained.tensors, self.captured.canonical
        maps = {name: known[canonical[name]] for name in self.captured.metas if canonical[name] in known}
        shapes = {name: t.shape for name, t in self.captured.metas.items()}
        return recipe(maps, shapes, self.solution.place, self.solution.half)

    @functools.cached_property
    def sides(self) -> dict[str, Sides]:
        """Which nodes may need another operation, and how its CoB is made."""
        return settle(self.constrained.wraps, self.solution)

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
        """For each group, why its members share their values: the operations that joined them, as a tree."""
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
        """Nodes that no rule knows, each with the reason."""
        return self.constrained.opaque

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What the plan rests on: branches, numbers, the form of inputs, modes (see `Condition`).

        With none, the function is kept on every input that the model takes. Else an emitted network refuses inputs
        that differ in one that a run can check; weights in the original class have no guard.
        """
        return (*self.captured.conditions, *self.constrained.conditions)

    @property
    def specialized(self) -> list[str]:
        """The conditions as text, "where: what"."""
        return list(dict.fromkeys(map(str, self.conditions)))

    def require_none(self) -> None:
        """Raise ConditionError, which lists them, where the plan rests on any conditions."""
        if self.conditions:
            said = in_short(self.conditions, len(self.conditions))
            raise ConditionError(
                f"this plan holds under conditions that strict=True does not allow: {said}. Teleport without strict if"
                " they hold wherever the network is used, or change the model's code there"
            )

    def admit(self, strict: bool) -> None:
        """Weights are about to go where no guard is: say once what they rest on.

        Raises:
            ConditionError: `strict`, and they rest on anything.
        """
        if strict:
            self.require_none()
        if self.conditions and not self._said:
            self._said = True
            said = in_short(self.conditions)
            warnings.warn(
                f"the teleported weights compute the same function under these conditions: {said} (plan.conditions)",
                ConditionWarning,
                stacklevel=3,
            )

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the model's parameters (names, shapes) and of the plan's solution."""
        sha = hashlib.sha256(f"{self.mode} {self.norm_stats} {self.num_free}".encode())
        for name, tensor in self.captured.metas.items():
            sha.update(f"{name}{tuple(tensor.shape)}".encode())
        for array in (self.solution.index, self.solution.exponent, self.solution.many_index, self.solution.allows):
            sha.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
        return sha.hexdigest()[:32]

    # -- changes of basis ------------------------------------------------------------------------------

    def sample(
        self,
        cob_range: float = 0.5,
        landscape: str = "intra",
        exact: bool = False,
        seed: int | None = None,
        center: float = 1.0,
    ) -> ChangeOfBasis:
        """Draw a CoB by one of the paper's laws (see `fxteleport.cob.sample_values`).

        Raises:
            CobError: an unknown law, or a range outside it.
        """
        values = sample_values(self.solution.allows, cob_range, landscape, exact, seed, center)
        return ChangeOfBasis(values, self.fingerprint)

    def identity(self) -> ChangeOfBasis:
        """The CoB that changes nothing."""
        return ChangeOfBasis(torch.ones(self.num_free, dtype=torch.float64, device="cpu"), self.fingerprint)

    def cob(self, values: Tensor) -> ChangeOfBasis:
        """A CoB from free values of your own, float64 [num_free].

        Raises:
            CobError: they are not valid for this plan.
        """
        found = ChangeOfBasis(torch.as_tensor(values, dtype=torch.float64), self.fingerprint)
        self.check(found)
        return found

    def check(self, cob: ChangeOfBasis) -> None:
        """Raise CobError unless the CoB is valid for this plan."""
        if cob.fingerprint != self.fingerprint:
            raise CobError(
                "this change of basis belongs to another plan (another model, mode or norm_stats):"
                " sample one from this plan"
            )
        values = cob.values.detach()
        if tuple(values.shape) != (self.num_free,):
            raise CobError(
                f"this plan has {self.num_free} free CoB values, got a tensor of shape {tuple(values.shape)}"
            )
        plain = values.cpu().numpy()
        if (plain > self.solution.lowest).all() and (plain < np.inf).all() and plain.all():
            return
        bad = ~torch.isfinite(values) | (values == 0)
        if bool(bad.any()):
            at = int(bad.nonzero()[0])
            raise CobError(f"CoB value {at} is {float(values[at])}: every value must be finite and not 0")
        allows = torch.from_numpy(self.solution.allows).to(values.device)
        wrong = ((allows == POSITIVE) & (values < 0)) | ((allows == UNIT) & (values.abs() != 1))
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            law = "positive" if int(allows[at]) == POSITIVE else "1 or -1"
            raise CobError(f"CoB value {at} is {float(values[at])}, but mode='{self.mode}' needs it to be {law}")

    def tau(self, cob: ChangeOfBasis) -> Tensor:
        """The CoB of every symbol, float64; differentiable in `cob.values`."""
        self.check(cob)
        return self.solution.tau(cob.values)

    def scales(self, cob: ChangeOfBasis) -> dict[str, Tensor]:
        """{parameter or buffer name: float64 factor broadcastable to it}, differentiable in `cob.values`.

        Names whose factor is 1 are left out.
        """
        tau = self.tau(cob)
        found = {}
        for name in self.captured.metas:
            cob_map = self.constrained.tensors.get(self.captured.canonical[name])
            factor = None if cob_map is None else cob_map.scale(tau)
            if factor is not None:
                found[name] = factor
        return found

    # -- number formats --------------------------------------------------------------------------------

    def require_range(self, cob: ChangeOfBasis, tensors: Mapping[str, Tensor], operations: bool = False) -> None:
        """Raise CobError if a CoB would push tensors out of their number formats (see `passes.ranges`).

        Args:
            tensors: by the model's names; their values are read where the CoB is far from 1. Of a sharded one no device
                has all values, and all devices are to decide alike: it is taken for one whose largest value is 1.
            operations: the CoBs in teleported operations must fit the formats of what they scale, too.
        """
        scaled = {name: t for name, t in tensors.items() if name in self.recipe.factors}
        dtypes = {t.dtype for t in scaled.values()} | {d for _, d in self._wrapped.values() if operations}
        if not self.has_room(dtypes, cob):
            sizes = {
                n: (1.0 if is_sharded(t) else format_range.largest(t.detach()), t.dtype) for n, t in scaled.items()
            }
            self.require_sizes(cob, sizes, operations)

    def has_room(self, dtypes: Iterable[torch.dtype], cob: ChangeOfBasis) -> bool:
        """True if this CoB is so near to 1 that no weight of these formats needs to be looked at."""
        return format_range.has_room(dtypes, format_range.widest(cob.values) * self._degree)

    def require_sizes(
        self, cob: ChangeOfBasis, sizes: Mapping[str, tuple[float, torch.dtype]], operations: bool = False
    ) -> None:
        """As `require_range`, of tensors whose largest magnitudes and formats are known."""
        maps = {name: self.constrained.tensors[self.captured.canonical[name]] for name in sizes}
        if operations:
            sizes = dict(sizes) | {name: (1.0, dtype) for name, (_, dtype) in self._wrapped.items()}
            maps |= {name: cob_map for name, (cob_map, _) in self._wrapped.items()}
        format_range.require_range(sizes, maps, self.tau(cob), self.solution)

    @functools.cached_property
    def _degree(self) -> int:
        """Of how many free values a factor is a product, at most."""
        maps = [self.constrained.tensors[self.captured.canonical[n]] for n in self.recipe.factors]
        maps += [cob_map for cob_map, _ in self._wrapped.values()]
        return max((format_range.map_degree(m, self.solution) for m in maps), default=0)

    @functools.cached_property
    def _wrapped(self) -> dict[str, tuple[CobMap, torch.dtype]]:
        """The CoBs whose size teleported operations divide or multiply by, and the formats of what they scale."""
        found = {}
        for node, wrap in self.constrained.wraps.items():
            dtype = info(node.args[wrap.position]).value.dtype  # type: ignore[arg-type]
            for end, cob_map in (("input", wrap.before), ("output", wrap.after)):
                if cob_map is not None and wrap.part != "sign":
                    found[f"{node.name}, its {end}"] = cob_map, dtype
        return found

    # -- teleportation ---------------------------------------------------------------------------------

    def rewrite(self, cob: ChangeOfBasis) -> TeleportedModule:
        """The teleported network; the model is not touched.

        Its state dict has the original's keys, and one for the CoB of every operation that is another.

        Raises:
            CobError: the CoB is not valid for this plan, or would push weights out of their number format.
            ModelError: the model is on the meta device, or is not what was planned any more.
        """
        self.check(cob)
        require_weights(self.captured.model)
        self.planned.require(self.captured.model)
        self.require_range(cob, Held(self.captured.model).tensors, operations=True)
        return self.emit(cob)

    def emit(self, cob: ChangeOfBasis) -> TeleportedModule:
        """`rewrite` without a look at the model, whose values are going to be replaced."""
        tau = self.tau(cob).detach()
        start = time.perf_counter()
        numbers = self.solution.numbers(cob.values.detach())
        module = rewrite(self.captured, self.sides, self.recipe, numbers, tau)
        self.seconds["rewrite"] = time.perf_counter() - start
        module.meta["planned_values"] = self.planned.values
        module.meta["teleportation"] = Teleportation(self, cob)
        return module

    def live(self, model: nn.Module) -> TeleportedModule:
        """The planned model, or a copy of it, as a network on the same tensors: what `Teleportable` teleports.

        Raises:
            ModelError: the model is not what was planned any more.
        """
        self.planned.require(model, itself=model is self.captured.model)
        network = live(self.captured, model, self.sides)
        network.meta["planned_values"] = self.planned.values
        return network

    def move_(self, network: TeleportedModule, cob: ChangeOfBasis) -> None:
        """Teleport the operations of a network of this plan (not its parameters) on from where they are."""
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        slots = (slot for _, slot in slots_of(*network.graphs))
        network.move_(cobs(slots, self.sides, self.tau(cob).detach(), device))

    def apply_(self, cob: ChangeOfBasis, model: nn.Module | None = None, strict: bool = False) -> nn.Module:
        """Scale the parameters of the planned model (or of a copy of it) in place and return it.

        Of sharded parameters (DTensor: FSDP2, tensor parallelism) every process scales its own shards, without
        communication; all are to be given the same CoB.

        The model's own class has no guards: the first time, a ConditionWarning lists the plan's conditions, if any.

        Raises:
            InputError: the plan's mode is not "weights".
            ConditionError: `strict`, and the plan rests on conditions; nothing was changed.
            CobError: the CoB is not valid for this plan, or would push weights out of their number format; then nothing
                was changed.
            ModelError: the model is not what was planned (its parameters, ties, modules, settings, index buffers), or
                parameters are sharded as partial sums; nothing was changed.
        """
        if self.mode != "weights":
            raise InputError("apply_ changes parameters only, which keeps the function in mode='weights': plan again")
        if strict or not self._said:
            self.admit(strict)
        target = self.captured.model if model is None else model
        if target is not self.captured.model:
            numbers = self._numbers(cob)
            put_back(target)
            held = Held(target)
            prepared = self._prepare(held)
            self.planned.require(target, itself=False)
            self._require_room(cob, prepared, held)
            prepared.scale_(numbers)
            return target
        numbers = self._numbers(cob, self._prepared[1].device if self._prepared else row_column_scaling.CPU)
        if self._prepared:
            self._prepared[1].look_up(numbers)  # a GPU does it while the model is looked at
        if self._prepared is None or not self._prepared[0].still():
            put_back(target)
            self.planned.require(target)
            held = Held(target, self.recipe.factors, self.planned)
            self._prepared = held, self._prepare(held)
            self._prepared[1].look_up(numbers)
        self._require_room(cob, self._prepared[1], self._prepared[0])
        self._prepared[1].multiply_()
        return target

    def _require_room(self, cob: ChangeOfBasis, prepared: Prepared, held: Held) -> None:
        if not self.has_room(prepared.dtypes, cob):
            self.require_range(cob, held.tensors)

    def _numbers(self, cob: ChangeOfBasis, device: torch.device = row_column_scaling.CPU) -> Tensor:
        """The numbers of a valid CoB, in one compiled pass where that can be; `check` says what is wrong."""
        values = cob.values.detach()
        if cob.fingerprint == self.fingerprint and values.shape == (self.num_free,) and not len(self.solution.many):
            found = row_column_scaling.numbers(values, self.solution.lowest, device)
            if found is not None:
                return found
        self.check(cob)
        return self.solution.numbers(values)

    def _prepare(self, held: Held) -> Prepared:
        """What a model holds on this device, with its factors."""
        tensors, positions = local(matching_tensors(self.captured, held.tensors))
        recipe = self.recipe.part(positions) if any(positions.values()) else self.recipe
        return recipe.prepare(tensors)

    # -- moving on purpose -----------------------------------------------------------------------------

    def at(self, cob: ChangeOfBasis) -> Point:
        """The model seen from another basis: weights, function and gradients there, differentiable in `cob.values`."""
        require_weights(self.captured.model)
        self.planned.require(self.captured.model)
        return Point(self.captured.model, self.scales(cob))

    def align(self, a: nn.Module | Mapping[str, Tensor], b: nn.Module | Mapping[str, Tensor]) -> Alignment:
        """The CoB that maps one set of weights onto another (see `fxteleport.align`; its errors too)."""
        return align(self, a, b)

    def optimize(self, cob: ChangeOfBasis, objective: Objective, steps: int = 100, lr: float = 0.05) -> Optimized:
        """Make an objective small over CoBs, from one on (see `fxteleport.optimize`; its errors too).

        Raises:
            ModelError: the model is on the meta device, or is not what was planned any more.
        """
        require_weights(self.captured.model)
        self.planned.require(self.captured.model)
        return optimize(self, cob, objective, steps, lr)

    def map_of(self, node: str) -> CobMap | Any:
        """The CobMap of a node's value (or the structure of them), by the node's name."""
        found = next((m for n, m in self.constrained.maps.items() if n.name == node), None)
        if found is None:
            raise InputError(f"the graph has no node '{node}'")
        return found


class Teleportation:
    """What an emitted network remembers of its making: the plan and the CoB."""

    def __init__(self, plan: Plan, cob: ChangeOfBasis) -> None:
        self.plan, self.cob = plan, cob

    def __deepcopy__(self, memo: dict[int, Any]) -> Teleportation:
        return self  # a plan never changes, and it holds the original model

    def __reduce__(self) -> tuple[Any, ...]:
        return _forgotten, ()  # a pickled network travels without its plan


def _zero_sums(keys: list[Any]) -> tuple[int, int]:
    """How many elements of the broadcast sum of some integer arrays are 0, and how many there are.

    Of rows and columns the sum is not made: it has the size of a weight.
    """
    shape = np.broadcast_shapes(*(k.shape for k in keys))
    if len(keys) == 2 and all(1 in pair for pair in zip(keys[0].shape, keys[1].shape, strict=True)):
        values, times = np.unique(keys[0], return_counts=True)
        others, other_times = np.unique(-keys[1], return_counts=True)
        _, at, other_at = np.intersect1d(values, others, assume_unique=True, return_indices=True)
        return int((times[at] * other_times[other_at]).sum()), math.prod(shape)
    return int((functools.reduce(np.add, keys) == 0).sum()), math.prod(shape)


def _forgotten() -> None:
    """What is left of a plan in a pickled network."""


def require_weights(model: nn.Module) -> None:
    """Raise ModelError for a model on the meta device: it has shapes, but no weights to scale."""
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ModelError(f"parameter '{name}' is on the meta device: load weights before teleporting the model")


def matching_tensors(captured: Captured, held: dict[str, Tensor]) -> dict[str, Tensor]:
    """The data of a model's tensors under the captured names; a tied one under its first name.

    Raises:
        ModelError: a name is missing, has another shape, or is on the meta device.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, meta in captured.metas.items():
        tensor = held.get(name)
        if tensor is None:
            raise ModelError(f"the model has no parameter '{name}', which the plan was made with: plan it again")
        if tensor.shape != meta.shape:
            raise ModelError(
                f"parameter '{name}' has shape {tuple(tensor.shape)}, the plan was made with {tuple(meta.shape)}:"
                " plan the model again"
            )
        if tensor.is_meta:
            raise ModelError(f"'{name}' is on the meta device: load weights before teleporting the model")
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.data
    return found
