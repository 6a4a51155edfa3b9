"""Capture: `nn.Module` + example inputs -> a graph whose nodes know their values.

The model's own `forward` runs once, on proxies (`proxy/`), in a structural clone of the model (`module_clone.py`,
`traced_modules.py`), so neither its weights nor its state are touched. `tracer.py` puts a trace together of its parts:
`module_calls.py` decides what is traced, `recorder.py` evaluates each call, `graph_builder.py` appends its node.

Leaves, which are `call_module` nodes: torch's own layers, and modules without tensors that read `self.training`
(drop path), so that `train()` and `eval()` work on the emitted network. A batch norm subclass contributes its
normalisation as such a node and the rest of its `forward` as ordinary ones. Where other code reads its mode, and does
something else in train mode, there is a second graph (`train_graph.py`). A submodule that cannot be traced is kept
whole: it becomes an opaque leaf, with a warning.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxteleport.passes.capture.control_flow import NextRunDiffers
from fxteleport.passes.capture.data_variants import variants_in_both
from fxteleport.passes.capture.inner_calls import is_below
from fxteleport.passes.capture.inner_graphs import Inner, inner_graphs
from fxteleport.passes.capture.leaf_table import WHOLE, names_in
from fxteleport.passes.capture.meta_cache import Memo
from fxteleport.passes.capture.mode_choice import Choice
from fxteleport.passes.capture.model_tensors import named_tensors
from fxteleport.passes.capture.model_trace import Arguments, Traced, trace_model
from fxteleport.passes.capture.next_run import next_run_is_alike
from fxteleport.passes.capture.patching import aware_of_proxies
from fxteleport.passes.capture.trace_settings import TraceSettings, retry
from fxteleport.passes.capture.tracer import Tracer
from fxteleport.passes.capture.train_graph import trace_training
from fxteleport.passes.errors import CaptureError, ModelError
from fxteleport.passes.graph.conditions import Condition
from fxteleport.passes.graph.dtensor import is_sharded
from fxteleport.passes.graph.module_clone import is_clone, modules_of, path_of
from fxteleport.passes.graph.node_info import name_apart
from fxteleport.passes.graph.reachable import Reached


@dataclasses.dataclass(frozen=True)
class Captured:
    """The graph of a model and what is needed to build modules from it.

    Attributes:
        graph: the nodes; a parameter or a buffer is a `get_attr` node, or belongs to a `call_module` node.
        model: the captured model (referred to, never changed).
        parts: the model's modules by path, a shared one under each of its paths.
        metas: every parameter and buffer of the model by name, as meta tensors (small integer ones are real).
        canonical: name -> the first name of the same tensor, so that tied weights are one.
        modules: the leaf modules by path, as clones on the meta device, for looking up their settings.
        classes: leaf path -> the class whose `forward` it runs, where that is not the module's own.
        added: modules (and constants) that capture made, by path.
        opaque: leaf path -> why it could not be traced.
        branches: call of a mode-dependent module -> its graphs in eval and in train mode.
        conditions: what the trace assumes.
        assigned: buffers (and parameters) that the model's own forward replaces by another tensor -> their tensors at
            planning. Networks are built from these, whatever the model's own runs have assigned.
        reached: leaf path -> what its code can read of the model outside it: that is pinned.
        held: tensors that traced code refers to directly (in a list, a closure), beside their modules.
        named: tensors that an opaque method names, and does not read on the example: an emitted network fails where it
            reads them after all.
        settings: (module's path, attribute) that the trace has read.
        state: (module's path, attribute) that it has changed: each run of the model does.
        overlapping: tensors that share memory with others (under other names, or held elsewhere), by their first names.
        backwards: call of a custom autograd function -> the graph of its backward, or why there is none.
        data: the example's integers and booleans, if a branch depended on them, by the id of their meta tensor.
        trained: parameters whose `requires_grad` the trace has read -> its value.
        training: the graph in train mode, where it differs.
        choice: what decides which of the two runs; None where one graph serves both modes.
        variants, training_variants: the graphs for data that take other branches than the example's, and of other
            calls, in each mode.
        inner: path of a module that an opaque leaf's code calls -> the module's graph.
        owners: the opaque leaves whose code calls those.
    """

    graph: fx.Graph
    model: nn.Module
    parts: dict[str, nn.Module]
    metas: dict[str, Tensor]
    canonical: dict[str, str]
    modules: dict[str, nn.Module]
    classes: dict[str, type]
    added: dict[str, nn.Module | Tensor]
    opaque: dict[str, str]
    branches: dict[fx.Node, tuple[fx.Graph, ...]]
    conditions: tuple[Condition, ...]
    assigned: dict[str, Tensor]
    reached: dict[str, Reached]
    held: frozenset[str]
    named: frozenset[str]
    overlapping: frozenset[str]
    backwards: dict[fx.Node, fx.Graph | str]
    settings: frozenset[tuple[str, str]]
    state: frozenset[tuple[str, str]]
    trained: dict[str, bool]
    data: dict[int, Tensor]
    training: fx.Graph | None = None
    choice: Choice | None = None
    variants: tuple[fx.Graph, ...] = ()
    training_variants: tuple[fx.Graph, ...] = ()
    inner: dict[str, fx.Graph] = dataclasses.field(default_factory=dict)
    owners: frozenset[str] = frozenset()

    @property
    def calls(self) -> tuple[fx.Graph, ...]:
        """The graphs of eval mode, and of train mode if it differs, with their variants."""
        trained = () if self.training is None else (self.training, *self.training_variants)
        return (self.graph, *self.variants, *trained)

    @property
    def graphs(self) -> tuple[fx.Graph, ...]:
        """Those of its calls, and the inner ones."""
        return (*self.calls, *self.inner.values())

    @property
    def followed(self) -> dict[str, str]:
        """Each module that capture added, with the model's own layer that it stands for, whose mode it follows."""
        owners = {
            path: getattr(leaf, "layer", leaf) for path, leaf in self.added.items() if isinstance(leaf, nn.Module)
        }
        return {path: path_of(owner) if is_clone(owner) else path.rpartition(".")[0] for path, owner in owners.items()}

    @property
    def beside_inner(self) -> frozenset[str]:
        """The tensors of opaque leaves that call modules with inner graphs, without the tensors of those modules."""
        prefixes = tuple("" if path == WHOLE else f"{path}." for path in self.owners)
        names = (name for name in self.metas if prefixes and name.startswith(prefixes))
        return frozenset(self.canonical[name] for name in names if not is_below(name, self.inner))

    @property
    def reached_names(self) -> frozenset[str]:
        """The tensors that the code of a leaf can read outside the leaf."""
        return frozenset(self.canonical[name] for reached in self.reached.values() for name in names_in(reached))

    @property
    def specialized(self) -> list[str]:
        """The conditions as text, "where: what"."""
        return list(dict.fromkeys(map(str, self.conditions)))


def capture(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    data_guards: bool = True,
    calls: Sequence[Arguments] = (),
) -> Captured:
    """Trace `model` on example inputs (tensors anywhere in nested lists, tuples and dicts).

    Args:
        data_guards: take a branch that the example's integers and booleans alone decide as they do, with a guard.
        calls: other ways in which it is called; each is a variant of the graph.

    Raises:
        ModelError: not an `nn.Module`, or scripted, quantised or not materialised.
        CaptureError: the model does not run on these inputs.
    """
    try:
        reject_unsupported(model)
        with torch.no_grad(), aware_of_proxies():
            return _captured(model, args, kwargs or {}, data_guards, calls)
    except RecursionError:
        raise CaptureError(
            f"the model's modules are nested too deeply for Python's recursion limit, {sys.getrecursionlimit()}, or its"
            " forward calls itself without end: in the first case, sys.setrecursionlimit helps"
        ) from None


def _captured(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], data_guards: bool, calls: Sequence[Arguments]
) -> Captured:
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    settings = TraceSettings(tensors[0].device if tensors else torch.device("cpu"), data_guards=data_guards)

    def run(started: Tracer) -> Traced:
        return trace_model(started, args, kwargs)

    def repeats(traced: Traced) -> bool:
        return next_run_is_alike(traced, lambda found: run(Tracer(model, found, traced.tracer.memo, {})))

    def evaluate(found: TraceSettings) -> Traced:
        traced = run(Tracer(model, found, Memo(), {}))
        if not repeats(traced):
            traced.objects.require_own()
            paths = traced.state | traced.objects.owners
            raise NextRunDiffers(paths or {path for path, _ in traced.left}, traced.objects.carriers)
        return traced

    traced = retry(evaluate, settings)
    tracer = traced.tracer
    if tracer.modes.started.computes:
        raise CaptureError(
            "the model's own train(False) computes with tensors, so it may change weights: call eval() first"
        )

    def start(found: TraceSettings) -> Tracer:
        return Tracer(model, found, tracer.memo, tracer.additions.held)

    other, choice = trace_training(traced, start, run, repeats)
    variants, trained, choice = variants_in_both(traced, other, choice, (args, kwargs), calls)
    for i, variant in enumerate((*variants.traces, *trained.traces), start=1):
        name_apart(variant.tracer.graph.nodes, f"variant_{i}")
    if other is not None:
        name_apart(other.tracer.graph.nodes, "in_training")
    traces = [traced, *variants.traces, *([] if other is None else [other, *trained.traces])]
    inner = inner_graphs(traced, traces[-1].tracer, (args, kwargs)) if tracer.leaves.opaque else Inner()
    for i, found in enumerate(inner.traces.values(), start=1):
        name_apart(found.tracer.graph.nodes, f"inner_{i}")
    traces += inner.traces.values()
    tracers = [t.tracer for t in traces]
    return Captured(
        graph=tracer.graph,
        model=model,
        parts=tracer.parts,
        metas=tracer.model_tensors.metas,
        canonical=tracer.model_tensors.canonical,
        modules=_merged(t.leaves.twins for t in reversed(tracers)),
        classes=_merged(t.leaves.classes for t in tracers),
        added=tracers[-1].additions.held,
        opaque=tracer.leaves.opaque,
        branches=_merged(t.calls.bodies for t in tracers),
        conditions=(*_conditions(tracers, variants.covered | trained.covered), *inner.conditions()),
        assigned=_merged(t.assigned for t in traces),
        reached=_merged(t.leaves.reached for t in tracers),
        held=frozenset().union(*(t.tensors.held for t in tracers)),
        named=frozenset().union(*(t.leaves.named for t in tracers)),
        overlapping=frozenset().union(*(t.model_tensors.overlapping for t in tracers)),
        backwards=_merged(t.functions.backwards for t in tracers),
        settings=frozenset().union(*(t.shadows.reads.read() for t in tracers)),
        state=frozenset().union(*(t.shadows.reads.changed() for t in tracers)),
        trained=_merged(t.required.asked for t in tracers),
        data=tracer.decisions.examples(),
        training=None if other is None else other.tracer.graph,
        choice=choice,
        variants=tuple(t.tracer.graph for t in variants.traces),
        training_variants=tuple(t.tracer.graph for t in trained.traces),
        inner={path: found.tracer.graph for path, found in inner.traces.items()},
        owners=frozenset(inner.owners),
    )


K = TypeVar("K")
V = TypeVar("V")


def _merged(tables: Iterable[Mapping[K, V]]) -> dict[K, V]:
    """The tables of several traces in one; where two have a key, the later one's value."""
    return {key: value for table in tables for key, value in table.items()}


def _conditions(tracers: Sequence[Tracer], covered: Container[Condition]) -> tuple[Condition, ...]:
    """The conditions of all traces, without repetitions (which may have other node names).

    Args:
        covered: conditions of one trace that another trace's graph covers.
    """
    first, *others = ({c: n for c, n in t.conditions.nodes.items() if c not in covered} for t in tracers)
    merged = dict(first)
    known = {dataclasses.replace(c, node="") for c in first}
    for condition, node in (item for other in others for item in other.items()):
        if dataclasses.replace(condition, node="") not in known:
            merged[dataclasses.replace(condition, node="" if node is None else node.name)] = node
    return tuple(merged)


_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
_FLOAT = (torch.ao.nn.quantized.FloatFunctional, torch.ao.nn.quantized.FXFloatFunctional)  # of networks to be quantised


def reject_unsupported(model: Any) -> None:
    """Raise ModelError for what has no graph of torch operations on parameters."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"expected an nn.Module, got {type(model).__name__}: pass a model instance")
    modules = modules_of(model)
    for path, module in modules.items():
        scripted = isinstance(module, torch.jit.ScriptModule)
        quantised = type(module).__module__.startswith(_QUANTISED) and not isinstance(module, _FLOAT)
        if scripted or quantised:
            what = (
                "scripted: its code is TorchScript's, which has no Python to trace. Pass the nn.Module that it was made"
                " from; of a loaded one, build that module and load_state_dict(scripted.state_dict())"
            )
            what = what if scripted else "quantised: teleport the float model before quantising it"
            raise ModelError(f"module '{path or 'the model itself'}' ({type(module).__name__}) is {what}")
    if type(model).forward is nn.Module.forward and "forward" not in vars(model):
        held = ", ".join(f"'{name}'" for name, _ in model.named_children()) or "none"
        raise ModelError(f"{type(model).__name__} has no forward: plan the network that it calls (its modules: {held})")
    for name, tensor in named_tensors(modules):
        if nn.parameter.is_lazy(tensor):
            raise ModelError(f"'{name}' is lazy and not materialised: run the model once on real inputs first")
        if is_sharded(tensor):
            raise ModelError(
                f"'{name}' is sharded (a DTensor): plan the model before it is, or a copy of it on the meta device,"
                " then plan.apply_(cob, model)"
            )
