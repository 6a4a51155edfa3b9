"""Node facts: the data of each node of the rewritten graph, for the HTML page and the Model Explorer export."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxteleport.passes.capture.leaf_table import WHOLE
from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.graph.containers import leaves
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.rewrite.own_epsilon import OwnEpsilon, OwnEpsilonCall, OwnEpsilonNorm
from fxteleport.passes.rewrite.teleported_modules import Operation, Rescale, TeleportedActivation
from fxteleport.passes.rules.operand import carries
from fxteleport.plan.plan import Plan
from fxteleport.tools.checking.session import Run
from fxteleport.tools.models.determinism import deterministic
from fxteleport.verify import in_step

ADDED, WRAPPED, OWN_EPSILON = "added", "wrapped", "own epsilon"
_CHANGES = {Rescale: ADDED, TeleportedActivation: WRAPPED, OwnEpsilon: OWN_EPSILON}


@dataclass(frozen=True, slots=True)
class Spread:
    """The CoB of a value: the range of |tau|, the mean of |log2 |tau|| (1: a factor of two), the share below 0."""

    low: float
    high: float
    doublings: float
    negative: float


_ONE = Spread(1.0, 1.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node of the rewritten graph.

    Attributes:
        name, op: the node and its operation.
        path: the module that it is (for a module), or is in.
        modules: the modules it is in, outermost first.
        inputs: names of the nodes it reads.
        shape: its value, such as "float32 [2, 64, 56, 56]".
        groups: numbers of the groups that its neurons belong to; none where all are pinned without a group.
        kind: "free", "dependent", "pinned", or "none" where the value carries no CoB.
        cob: the CoB of its value, or None.
        parameters: the number of its parameter elements.
        moved: the share of them whose factor is not structurally 1; None without parameters.
        error: largest difference from `original * tau`, relative to the largest value; None where not compared.
        change: "" as in the original, "wrapped" for another operation, "added" for a new node.
    """

    name: str
    op: str
    path: str
    modules: tuple[str, ...]
    inputs: tuple[str, ...]
    shape: str
    groups: tuple[int, ...]
    kind: str
    cob: Spread | None
    parameters: int
    moved: float | None
    error: float | None
    change: str


def node_facts(done: Run) -> list[NodeFacts]:
    """The facts of every node of the rewritten graph, in execution order."""
    return list(_facts(done))


def _facts(done: Run) -> Iterator[NodeFacts]:
    known = Cobs(done)
    errors = node_errors(done)
    sources = {n.name: n for n in done.plan.captured.graph.nodes}
    nodes = list(done.network.graph.nodes)
    restored = {info(n).restores for n in nodes} - {""}
    shapes: dict[str, str] = {}
    for node in nodes:
        module = done.network.get_submodule(str(node.target)) if node.op == "call_module" else None
        change = next((word for kind, word in _CHANGES.items() if isinstance(module, kind)), "")
        name = info(node).captured or info(node).restores
        source = sources.get(name)
        groups, kind, spread = known.of(source)
        error = errors.get(name)
        inside = source is None or info(node).captured in restored  # between two rescalings it is the original's value
        if inside:
            groups, kind, spread, error = (), "pinned", _ONE, None
        read = tuple(n.name for n in node.all_input_nodes)
        shapes[node.name] = shapes[read[0]] if source is None and read else shape_of(source)
        parameters, moved = _moved(done.plan, source if change != ADDED else None)
        path = str(node.target if module is not None else info(node).path)
        within = tuple(path.split(".")) if path else ()
        yield NodeFacts(
            node.name, _called(node, module), path, within[:-1] if module is not None else within, read,
            shapes[node.name], groups, kind, spread, parameters, moved, error, change,
        )  # fmt: skip


def node_errors(done: Run) -> dict[str, float]:
    """Captured node -> largest difference from `original * tau`, relative to the node's largest value.

    The check has measured them; where the networks differ, they are run and compared once more, to the end.
    """
    if done.report.node_errors:
        return dict(done.report.node_errors)
    errors: dict[str, float] = {}
    with deterministic(done.loaded.device):
        for value in in_step(done.network, *done.loaded.args, **done.loaded.kwargs):
            errors[value.node] = max(value.error, errors.get(value.node, 0.0))
    return errors


class Cobs:
    """The CoB of every node's value under one teleportation."""

    def __init__(self, done: Run) -> None:
        self.plan = done.plan
        self.tau = done.plan.tau(done.cob).detach().cpu()
        self.group = torch.from_numpy(done.plan.grouping.of)
        self.kinds = {group.id: group.kind for group in done.plan.groups}

    def map_of(self, source: fx.Node | None) -> Any:
        """The CobMap of a captured node's value (or the structure of them)."""
        if source is None:
            return None
        if source.op == "get_attr":
            return self.plan.constrained.tensors.get(self.plan.captured.canonical.get(str(source.target), ""))
        return self.plan.constrained.maps.get(source)

    def of(self, source: fx.Node | None) -> tuple[tuple[int, ...], str, Spread | None]:
        """Group numbers, kind and spread of a captured node's value."""
        maps = [m for m in pytree.tree_leaves(self.map_of(source)) if isinstance(m, CobMap)]
        held = None if source is None else info(source).value
        if not maps or not any(carries(x) for x in leaves(held)):
            return (), "none", None
        symbols = [s.reshape(-1) for m in maps for s, _ in m.factors]
        ids = torch.cat([self.group[s] for s in symbols]).unique().tolist() if symbols else []
        groups = tuple(i for i in ids if i >= 0)
        kinds = {self.kinds[i] for i in groups}
        kind = next((k for k in ("free", "dependent") if k in kinds), "pinned")
        return groups, kind, self._spread(maps)

    def _spread(self, maps: list[CobMap]) -> Spread:
        scales = [s.reshape(-1) for m in maps if (s := m.scale(self.tau)) is not None]
        tau = torch.cat(scales) if scales else torch.ones(1, dtype=torch.float64)
        size = tau.abs()
        return Spread(
            float(size.min()), float(size.max()), float(size.log2().abs().mean()), float((tau < 0).double().mean())
        )


def shape_of(source: fx.Node | None) -> str:
    """The type and the shape of a captured node's value."""
    value = None if source is None else info(source).value
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    tensors = [x for x in leaves(value) if isinstance(x, Tensor)]
    return f"{len(tensors)} tensors" if tensors else type(value).__name__ if value is not None else ""


def _moved(plan: Plan, source: fx.Node | None) -> tuple[int, float | None]:
    names = _parameters(plan, source)
    total = sum(plan.captured.metas[n].numel() for n in names)
    return total, sum(plan.moved_elements(n) for n in names) / total if total else None


def _parameters(plan: Plan, source: fx.Node | None) -> list[str]:
    """The names of the parameters that a captured node holds."""
    if source is None or source.op not in ("call_module", "get_attr"):
        return []
    target = str(source.target)
    if source.op == "get_attr":
        return [target] if target in _trained(plan) else []
    module = plan.captured.modules.get(target)
    prefix = "" if target == WHOLE else f"{target}."
    names = [f"{prefix}{n}" for n, _ in module.named_parameters()] if module is not None else []
    return [n for n in names if n in plan.captured.metas]


@functools.lru_cache(maxsize=1)
def _trained(plan: Plan) -> frozenset[str]:
    return frozenset(n for n, _ in plan.captured.model.named_parameters(remove_duplicate=False))


def _called(node: fx.Node, module: nn.Module | None) -> str:
    """What a node calls; of a teleported activation, the activation."""
    inner = module.f if isinstance(module, TeleportedActivation) else module
    target = inner.fn if isinstance(inner, (Operation, OwnEpsilonCall)) else node.target
    if isinstance(inner, OwnEpsilonNorm):
        return inner.of.__name__
    if inner is not None and not isinstance(inner, (Operation, OwnEpsilonCall)):
        return type(inner).__name__
    if node.op in _OPS:
        return _OPS[node.op]
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


_OPS = {"placeholder": "input", "output": "output", "get_attr": "parameter"}
