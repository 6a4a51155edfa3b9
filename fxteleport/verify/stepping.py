"""Stepping: runs the original and a teleported network node by node, and compares each value with original * tau."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list

from fxteleport.passes.capture.data_guards import data_guards
from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.errors import DataGuardError, InputError
from fxteleport.passes.graph.containers import held, parts
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.source_location import written
from fxteleport.passes.rewrite.any_names import plain
from fxteleport.passes.rewrite.other_graphs import takes
from fxteleport.passes.rewrite.rewrite import original
from fxteleport.passes.rewrite.wraps import factors_inside, slots_of
from fxteleport.passes.rules.operand import carries
from fxteleport.passes.rules.registry import named
from fxteleport.plan.caches import teleport_inputs
from fxteleport.plan.factors import tau
from fxteleport.plan.teleportation import Teleportation, teleportation_of
from fxteleport.verify.compare import difference, equal
from fxteleport.verify.outputs import dense
from fxteleport.verify.random_numbers import Draws
from fxteleport.verify.report import Difference
from fxteleport.verify.running import own_copy
from fxteleport.verify.underflow import Carried
from fxteleport.verify.undisturbed import evaluating, may_write_weights, undisturbed


def no_one(value: NodeValue) -> None:
    """A watch that does nothing."""


Watch = Callable[["NodeValue"], None]


def compare_nodes(
    teleportation: Teleportation,
    gm: fx.GraphModule,
    inputs: Any,
    keyword_inputs: Any,
    tolerance: float,
    watch: Watch = no_one,
    carried: Carried | None = None,
) -> tuple[dict[str, float], int, Difference | None]:
    """Compare every value with original * tau: each node's relative error, the number of nodes, the first that differs.

    If one differs, there are no errors: the nodes after it are not measured.
    """
    errors: dict[str, float] = {}
    compared, first = 0, None
    for value in _stepped(teleportation, gm, inputs, keyword_inputs, carried):
        compared += 1
        watch(value)
        if first is not None:
            continue
        if tolerance == 0.0 and equal(value.expected, value.actual):
            errors.setdefault(value.node, 0.0)
            continue
        gap, relative, at = difference(value.expected, value.actual)
        errors[value.node] = max(relative, errors.get(value.node, 0.0))
        if relative > tolerance or tolerance == 0.0:
            rule = teleportation.plan.constrained.rules.get(value.node, value.source.op)
            first = Difference(
                value.node, value.op, value.path, rule, gap, relative,
                _number(value.expected, at), _number(value.actual, at), written(info(value.source).source),
            )  # fmt: skip
    return ({} if first is not None else errors), compared, first


@dataclass(frozen=True, slots=True, eq=False)
class NodeValue:
    """One tensor of one node, in the original and in the teleported network.

    Attributes:
        node, op, path: the node of the captured graph, its operation and its module path.
        source: the node itself, as a copy.
        original, actual: the values in the two networks.
        expected: `original * tau`, which `actual` should be.
    """

    node: str
    op: str
    path: str
    source: fx.Node
    original: Tensor
    expected: Tensor
    actual: Tensor

    @property
    def error(self) -> float:
        """The largest difference of `actual` from `expected`, relative to the largest magnitude of `expected`."""
        return difference(self.expected.detach(), self.actual.detach())[1]


@torch.no_grad()
def in_step(gm: fx.GraphModule, *inputs: Any, **keyword_inputs: Any) -> Iterator[NodeValue]:
    """Run the original and a teleported network node by node, in eval mode, on given inputs.

    Raises:
        InputError: `gm` has no plan and CoB (any more).
    """
    teleportation = teleportation_of(gm)
    if teleportation is None:
        raise InputError("in_step needs a network from plan.rewrite: this one does not remember its plan and its CoB")
    yield from _stepped(teleportation, gm, inputs, keyword_inputs, None)


@torch.no_grad()
def _stepped(
    teleportation: Teleportation, gm: fx.GraphModule, inputs: Any, keyword_inputs: Any, carried: Carried | None
) -> Iterator[NodeValue]:
    model = teleportation.plan.captured.model
    with undisturbed(model, gm, weights=may_write_weights(gm)), evaluating(gm), Draws(gm).kept():
        yield from _in_step(teleportation, gm, inputs, keyword_inputs, carried)


def _in_step(
    teleportation: Teleportation, gm: fx.GraphModule, inputs: Any, keyword_inputs: Any, carried: Carried | None
) -> Iterator[NodeValue]:
    plan = teleportation.plan
    reference: fx.GraphModule = original(plan.captured)
    reference.eval()
    symbols = tau(plan, teleportation.cob).detach()
    maps = {node.name: cob for node, cob in plan.constrained.maps.items()}
    values = {node.name: info(node).value for graph in plan.captured.graphs for node in graph.nodes}
    reference, gm = _for_these(reference, gm, inputs, keyword_inputs)
    left = _Stepper(reference, inputs, keyword_inputs)
    right = _Stepper(gm, *teleport_inputs(plan, teleportation.cob, *inputs, **keyword_inputs))
    sources = {info(n).captured: n for n in reference.graph.nodes}
    restored = {info(n).restores for n in gm.graph.nodes} - {""}
    # The maps in a norm that keeps its epsilon.
    slots = (slot for _, slot in slots_of(gm.graph) if slot.captured in plan.sides)
    inside = factors_inside(slots, plan.sides, symbols)
    held: dict[str, Any] = {}
    draws = Draws(gm)
    resized = False  # an input has another shape than in the plan
    for node in gm.graph.nodes:
        name = info(node).captured
        if not name:
            value = right.step(node)
        else:
            source = sources[name]
            held[name], value = draws.same(functools.partial(left.step, source), functools.partial(right.step, node))
            if name in restored:
                continue  # the node after it has the CoB
        name = name or info(node).restores
        if not name:
            continue
        source, before = sources[name], held.pop(name)
        if source.op == "get_attr":
            cob_map = plan.constrained.tensors.get(plan.captured.canonical.get(str(source.target), ""))
        else:
            cob_map = maps.get(name)
        planned = [x.shape for x, _, _ in _leaves(values[name], values[name], None)]
        leaves = _leaves(before, value, cob_map)
        resized = resized or (source.op == "placeholder" and [a.shape for a, _, _ in leaves] != planned)
        for i, (a, b, cob) in enumerate(leaves):
            if cob is not None and cob.folds and resized:
                continue  # its map has the plan's input size; later nodes are compared
            scale = None if cob is None else cob.scale(symbols)
            if scale is not None and not _fits(scale, a) and a.shape not in planned[i : i + 1]:
                continue
            scale = None if scale is None else scale.to(device=a.device, dtype=_real(a.dtype))
            expected = a if scale is None else a * scale
            expected = expected * inside[name][i] if name in inside else expected
            if carried is not None and a is before and scale is not None and name not in inside:
                rest, expected = carried.of(a, expected, b, scale)
                left.put(source, rest)
            op, path = _op_name(source, reference), info(source).path
            yield NodeValue(name, op, path, source, a, expected, b)


def _for_these(
    reference: fx.GraphModule, gm: fx.GraphModule, inputs: Any, keyword_inputs: Any
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The graphs of two networks of one plan that run on given data: the first ones, or variants."""
    pairs = [(reference, gm), *zip(getattr(reference, "variants", ()), getattr(gm, "variants", ()), strict=True)]
    pairs = [pair for pair in pairs if takes(pair[1].graph, inputs, keyword_inputs)] or pairs[:1]
    for pair in pairs:
        guards = data_guards(pair[1].graph)
        stepper = _Stepper(pair[1], inputs, keyword_inputs) if guards else None
        try:
            for node in pair[1].graph.nodes if stepper is not None else ():
                stepper.step(node)  # type: ignore[union-attr]
                if node is guards[-1]:
                    break
        except DataGuardError:
            continue
        return pair
    return pairs[0]


def _fits(scale: Tensor, value: Tensor) -> bool:
    return all(n in (1, size) for n, size in zip(scale.shape[::-1], value.shape[::-1], strict=False))


class _Interpreter(fx.Interpreter):
    """Passes new lists and dictionaries to modules, as the generated code does: some write into theirs."""

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return tuple(map(_fresh, args)), {k: _fresh(v) for k, v in kwargs.items()}


def _fresh(x: Any) -> Any:
    if isinstance(x, immutable_list):
        return [_fresh(v) for v in x]
    return {k: _fresh(v) for k, v in x.items()} if isinstance(x, immutable_dict) else x


_UNFILLED = frozenset(named("empty empty_like new_empty empty_strided new_empty_strided"))


class _Stepper:
    """Runs a graph node by node, and frees values that are no longer needed.

    Uninitialised memory is filled with zeros, since it would differ between two networks.
    """

    def __init__(self, module: fx.GraphModule, args: Any, kwargs: Any) -> None:
        self.run = _Interpreter(plain(module), graph=module.graph)
        names = [str(n.target) for n in module.graph.nodes if n.op == "placeholder"]
        given = list(args) + [kwargs[n] for n in names[len(args) :] if n in kwargs]
        self.run.args_iter = iter(own_copy(given))
        self.gradients = torch.is_grad_enabled()  # a node may switch: for this network only

    def put(self, node: fx.Node, value: Any) -> None:
        """Replace the value of a node, if a later node reads it."""
        if node in self.run.env:
            self.run.env[node] = value

    def step(self, node: fx.Node) -> Any:
        with torch.set_grad_enabled(self.gradients):
            value = self.run.env[node] = self.run.run_node(node)
            self.gradients = torch.is_grad_enabled()
        if node.op in ("call_function", "call_method") and node.target in _UNFILLED:  # a module may have such a name
            value.zero_()
        for done in self.run.user_to_last_uses.get(node, []):
            self.run.env.pop(done, None)
        return value


def _leaves(a: Any, b: Any, cob: Any) -> list[tuple[Tensor, Tensor, CobMap | None]]:
    """The tensors of one node with their maps."""
    if isinstance(a, Tensor):
        cob = cob if isinstance(cob, CobMap) else None
        return [(dense(a), dense(b), cob)] if isinstance(b, Tensor) and carries(a) else []
    pairs = zip(parts(a), held(b), strict=False)
    return [leaf for (key, x), y in pairs for leaf in _leaves(x, y, _part(cob, key))]


def _part(cob: Any, key: Any) -> Any:
    """The map of a part of a structure, where there is one."""
    known = key in cob if isinstance(cob, dict) else isinstance(cob, (list, tuple)) and key in range(len(cob))
    return cob[key] if known else None


def _number(x: Tensor, at: int) -> float:
    flat = x.reshape(-1)
    if at >= len(flat):  # the two differ in shape
        return math.nan
    return float(flat[at].real if x.is_complex() else flat[at])


def _real(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_complex else dtype


def _op_name(node: fx.Node, module: nn.Module) -> str:
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__
    target = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
