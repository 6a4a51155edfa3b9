"""Verify: do two networks compute the same function, end to end and at every node?

Under a CoB of powers of two the answer needs no tolerance (but in float16, which such a CoB can leave the range of):
every value must be the original's times tau to the last bit. Under any other CoB the teleported network may be no
further from the exact result than the original's own rounding explains.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list

from fxteleport.errors import InputError
from fxteleport.passes.call import carries
from fxteleport.passes.evaluate import tree_map
from fxteleport.passes.lowering import named_tensors
from fxteleport.passes.maps import CobMap
from fxteleport.passes.rewrite import original
from fxteleport.passes.rules import named
from fxteleport.passes.shadow import clone
from fxteleport.passes.source import written

# A teleported network rounds at other scales: it may be this much further from the exact result than the original.
_MARGIN = 16
FLOAT64 = 1e-9  # relative, for CoBs that are no powers of two


@dataclass(frozen=True, slots=True)
class Difference:
    """A node at which the teleported value is not `original * tau`.

    Attributes:
        node, op, path, rule: the node, its operation, its module path and the rule that was applied.
        max_abs, max_rel: the difference there.
        expected, actual: the values at the element with the largest difference.
        source: the line of the model's code that makes the call, as "file:number"; "" where it is not known.
    """

    node: str
    op: str
    path: str
    rule: str
    max_abs: float
    max_rel: float
    expected: float
    actual: float
    source: str = ""

    def __str__(self) -> str:
        return (
            f"node '{self.node}' ({self.op}, in '{self.path or 'the model'}', rule '{self.rule}'):"
            f" expected {self.expected:.9g}, got {self.actual:.9g}{f' ({self.source})' if self.source else ''}"
        )


@dataclass(frozen=True, slots=True)
class EquivalenceReport:
    """The result of a comparison.

    Attributes:
        passed: the networks compute the same function, and the comparison could have failed.
        bitwise_equal: outputs equal to the last bit (and every node, where nodes were compared).
        max_abs, max_rel: largest difference of the outputs; relative to the largest magnitude of an output.
        vacuous: a reference output is constant or not finite, so that the comparison proves nothing.
        nodes: how many nodes were compared (0: end to end only).
        first_difference: the first node that differs, or None.
        tolerance: what `max_rel` was held against; 0 means bitwise.
        rounding: the original's own relative rounding error, where it was measured.
        seconds: the time of the comparison.
    """

    passed: bool
    bitwise_equal: bool
    max_abs: float
    max_rel: float
    vacuous: bool
    nodes: int
    first_difference: Difference | None
    tolerance: float
    rounding: float | None
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)


@torch.no_grad()
def verify(model: nn.Module, gm: nn.Module, *inputs: Any, **keyword_inputs: Any) -> EquivalenceReport:
    """Compare a network with its teleported version in eval mode, on given inputs.

    Where `gm` was emitted by `plan.rewrite`, every node is compared too. Neither network is changed.

    Raises:
        InputError: there are no inputs, or the outputs have different structures.
    """
    if not inputs and not keyword_inputs:
        raise InputError("verify needs the inputs to compare the two networks on")
    start = time.perf_counter()
    made = getattr(gm, "meta", {}).get("teleportation") if isinstance(gm, fx.GraphModule) else None
    exact = made is None or (made.cob.is_exact and not any(p.dtype == torch.float16 for p in gm.parameters()))
    draws = Draws(gm)
    with evaluating(model), evaluating(gm), draws.kept():
        expected, actual = draws.same(
            lambda: _run(model, inputs, keyword_inputs), lambda: _run(gm, inputs, keyword_inputs)
        )
        pairs = paired(expected, actual)
        vacuous = not pairs or any(is_vacuous(a) for a, _ in pairs)
        bitwise = all(equal(a, b) for a, b in pairs)
        found = [difference(a, b) for a, b in pairs]
        max_abs, max_rel = max((f[0] for f in found), default=0.0), max((f[1] for f in found), default=0.0)
        rounding, tolerance = None, 0.0
        if not (bitwise if made is None else exact):
            tolerance = FLOAT64
            if any(a.dtype not in (torch.float64, torch.complex128) for a, _ in pairs):
                # A random network draws other numbers in float64: then its rounding is not known, and not allowed for.
                rounding = 0.0 if draws.drawn else _own_rounding(model, expected, inputs, keyword_inputs)
                tolerance = _MARGIN * rounding + 4 * max(torch.finfo(a.dtype).eps for a, _ in pairs)
        nodes, first = 0, None
        if made is not None:
            nodes, first = _compare_nodes(made, gm, inputs, keyword_inputs, tolerance)  # type: ignore[arg-type]
    passed = not vacuous and (max_rel <= tolerance if tolerance else bitwise and first is None)
    return EquivalenceReport(
        passed,
        bitwise and (first is None or bool(tolerance)),
        max_abs,
        max_rel,
        vacuous,
        nodes,
        None if passed else first,
        tolerance,
        rounding,
        time.perf_counter() - start,
    )


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in eval mode, each part's own mode restored afterwards; torch's fused fast paths are off."""
    modes = [(m, m.training) for m in module.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it takes another kernel than the captured graph
    try:
        module.eval()
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for m, training in modes:
            m.training = training


class Draws:
    """The random number generators that a network may draw from: two networks are to draw the same.

    Attributes:
        drawn: a network that ran has drawn.
    """

    def __init__(self, network: nn.Module) -> None:
        found = {t.get_device() for _, t in named_tensors(dict(network.named_modules())) if t.is_cuda}
        self.devices = sorted(found)
        self.drawn = False

    def kept(self) -> contextlib.AbstractContextManager[None]:
        """What is drawn inside leaves the generators as they were."""
        return torch.random.fork_rng(devices=self.devices)

    def same(self, first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
        """Both results; the second draws what the first has drawn."""
        before = self._state()
        one = first()
        if not all(map(torch.equal, before, self._state())):
            self.drawn = True
            torch.set_rng_state(before[0])
            for device, state in zip(self.devices, before[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
        return one, second()

    def _state(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self.devices)]


def _compare_nodes(
    made: Any, gm: fx.GraphModule, inputs: Any, keyword_inputs: Any, tolerance: float
) -> tuple[int, Difference | None]:
    """Hold every value against the original's times tau."""
    compared, first = 0, None
    for value in in_step(gm, *inputs, **keyword_inputs):
        compared += 1
        if first is not None or (tolerance == 0.0 and equal(value.expected, value.actual)):
            continue
        gap, relative, at = difference(value.expected, value.actual)
        if relative > tolerance or tolerance == 0.0:
            rule = made.plan.constrained.rules.get(value.node, value.source.op)
            first = Difference(
                value.node, value.op, value.path, rule, gap, relative,
                _number(value.expected, at), _number(value.actual, at), written(value.source.meta.get("source")),
            )  # fmt: skip
    return compared, first


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
        InputError: `gm` does not remember the plan and the CoB that made it.
    """
    made = getattr(gm, "meta", {}).get("teleportation")
    if made is None:
        raise InputError("in_step needs a network from plan.rewrite: this one does not remember its plan and its CoB")
    with evaluating(gm):
        yield from _in_step(made, gm, inputs, keyword_inputs)


def _in_step(made: Any, gm: fx.GraphModule, inputs: Any, keyword_inputs: Any) -> Iterator[NodeValue]:
    plan = made.plan
    reference = original(plan.captured)
    reference.eval()
    tau = plan.tau(made.cob).detach()
    maps = {node.name: cob for node, cob in plan.constrained.maps.items()}
    values = {node.name: node.meta.get("val") for node in plan.captured.graph.nodes}
    left, right = _Stepper(reference, inputs, keyword_inputs), _Stepper(gm, inputs, keyword_inputs)
    sources = {n.meta.get("captured"): n for n in reference.graph.nodes}
    restored = {n.meta["teleports"] for n in gm.graph.nodes if "teleports" in n.meta}
    held: dict[str, Any] = {}
    draws = Draws(gm)
    for node in gm.graph.nodes:
        name = node.meta.get("captured")
        if name is None:
            value = right.step(node)
        else:
            source = sources[name]
            held[name], value = draws.same(functools.partial(left.step, source), functools.partial(right.step, node))
            if name in restored:
                continue  # the node behind it carries the CoB
        name = name or node.meta.get("teleports")
        if name is None:
            continue
        source, before = sources[name], held.pop(name)
        if source.op == "get_attr":
            cob_map = plan.constrained.tensors.get(plan.captured.canonical.get(str(source.target)))
        else:
            cob_map = maps.get(name)
        planned = [x.shape for x, _, _ in _leaves(values[name], values[name], None)]
        for i, (a, b, cob) in enumerate(_leaves(before, value, cob_map)):
            scale = None if cob is None else cob.scale(tau)
            if scale is not None and not _fits(scale, a) and a.shape not in planned[i : i + 1]:
                continue  # another input size than the plan's, and a map that varies along a merged batch axis
            expected = a if scale is None else a * scale.to(device=a.device, dtype=_real(a.dtype))
            op, path = _op_name(source, reference), str(source.meta.get("path", ""))
            yield NodeValue(name, op, path, source, a, expected, b)


def _fits(scale: Tensor, value: Tensor) -> bool:
    return all(n in (1, size) for n, size in zip(scale.shape[::-1], value.shape[::-1], strict=False))


def own_copy(x: Any) -> Any:
    """A copy of inputs (tensors in any structure), for a network that may write into them."""
    return tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, x)


def _run(network: nn.Module, inputs: Any, keyword_inputs: Any) -> Any:
    return network(*own_copy(inputs), **own_copy(keyword_inputs))


class _Interpreter(fx.Interpreter):
    """Gives modules lists and dictionaries of their own, as the generated code does: some write into theirs."""

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return tuple(map(_fresh, args)), {k: _fresh(v) for k, v in kwargs.items()}


def _fresh(x: Any) -> Any:
    if isinstance(x, immutable_list):
        return [_fresh(v) for v in x]
    return {k: _fresh(v) for k, v in x.items()} if isinstance(x, immutable_dict) else x


_UNFILLED = frozenset(named("empty empty_like new_empty empty_strided new_empty_strided"))


class _Stepper:
    """Runs a graph node by node, and forgets values that are no longer needed.

    Memory that holds no value yet holds zeros: whatever else is in it would differ between two networks.
    """

    def __init__(self, module: fx.GraphModule, args: Any, kwargs: Any) -> None:
        self.run = _Interpreter(module)
        names = [str(n.target) for n in module.graph.nodes if n.op == "placeholder"]
        given = list(args) + [kwargs[n] for n in names[len(args) :] if n in kwargs]
        self.run.args_iter = iter(own_copy(given))
        self.gradients = torch.is_grad_enabled()  # a node may switch: for this network only

    def step(self, node: fx.Node) -> Any:
        with torch.set_grad_enabled(self.gradients):
            value = self.run.env[node] = self.run.run_node(node)
            self.gradients = torch.is_grad_enabled()
        if node.op in ("call_function", "call_method") and node.target in _UNFILLED:  # a module may have such a name
            value.zero_()
        for done in self.run.user_to_last_uses.get(node, []):
            self.run.env.pop(done, None)
        return value


def paired(expected: Any, actual: Any) -> list[tuple[Tensor, Tensor]]:
    """The output tensors that carry values, side by side."""
    a, b = _flat(expected), _flat(actual)
    if [x.shape for x in a] != [x.shape for x in b]:
        raise InputError(
            f"the two networks' outputs differ in shape: {[tuple(x.shape) for x in a]} and"
            f" {[tuple(x.shape) for x in b]}"
        )
    return list(zip(a, b, strict=True))


def _flat(x: Any) -> list[Tensor]:
    """Tensors in a structure of tuples, lists, dicts and data classes."""
    if isinstance(x, Tensor):
        return [_dense(x)] if carries(x) else []
    if isinstance(x, dict):
        return [t for v in x.values() for t in _flat(v)]
    if isinstance(x, (list, tuple)):
        return [t for v in x for t in _flat(v)]
    if hasattr(x, "__dataclass_fields__"):
        return [t for name in x.__dataclass_fields__ for t in _flat(getattr(x, name))]
    return []


def _leaves(a: Any, b: Any, cob: Any) -> list[tuple[Tensor, Tensor, CobMap | None]]:
    """The tensors of one node with their maps."""
    if isinstance(a, Tensor):
        cob = cob if isinstance(cob, CobMap) else None
        return [(_dense(a), _dense(b), cob)] if isinstance(b, Tensor) and carries(a) else []
    if isinstance(a, (list, tuple)):
        maps = cob if isinstance(cob, (list, tuple)) else [None] * len(a)
        return [leaf for x, y, m in zip(a, b, maps, strict=False) for leaf in _leaves(x, y, m)]
    if isinstance(a, dict):
        return [leaf for k in a for leaf in _leaves(a[k], b[k], None if cob is None else cob.get(k))]
    return []


def _dense(x: Tensor) -> Tensor:
    return x if x.is_meta or x.layout is torch.strided else x.to_dense()


def _own_rounding(model: nn.Module, expected: Any, inputs: Any, keyword_inputs: Any) -> float:
    """How far the original is from `precise`, relative to its largest output."""
    reference = precise(model, inputs, keyword_inputs)
    return max((difference(r, e)[1] for e, r in paired(expected, reference)), default=0.0)


def precise(model: nn.Module, inputs: Any, keyword_inputs: Any) -> Any:
    """The network's outputs in float64, with every parameter moved by one rounding.

    Teleportation rounds each parameter once more, hence the move.
    """
    generator = torch.Generator().manual_seed(0)

    def moved(tensor: Tensor) -> Tensor:
        noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device) * 2 - 1
        return tensor.double() * (1 + noise * torch.finfo(tensor.dtype).eps)

    try:
        wide = clone(model, lambda name, t: moved(t) if t.is_floating_point() else t)
        arguments = tree_map(lambda x: x.double() if carries(x) else x, (inputs, keyword_inputs))
        return wide(*arguments[0], **arguments[1])
    except RuntimeError:  # the model insists on a number format: then by the moved parameters alone
        near = clone(model, lambda name, t: moved(t).to(t.dtype) if t.is_floating_point() else t)
        return near(*own_copy(inputs), **own_copy(keyword_inputs))


def is_vacuous(x: Tensor) -> bool:
    """True for an output that proves nothing: constant, empty or not finite."""
    return (
        not bool(torch.isfinite(x).all()) or x.numel() == 0 or (x.numel() > 1 and bool((x == x.reshape(-1)[0]).all()))
    )


def equal(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit, in shape and format; NaN equals NaN."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


def difference(a: Tensor, b: Tensor) -> tuple[float, float, int]:
    """Largest absolute difference, the same relative to the largest |a|, and where."""
    if a.shape != b.shape or a.numel() == 0:
        return (float("inf"), float("inf"), 0) if a.shape != b.shape else (0.0, 0.0, 0)
    wide = torch.complex128 if a.is_complex() else torch.float64
    x, y = a.to(wide), b.to(wide)
    gap = torch.where(x == y, 0.0, (x - y).abs()).reshape(-1)
    gap = torch.where(gap.isnan(), torch.where((x.isnan() & y.isnan()).reshape(-1), 0.0, float("inf")), gap)
    at = int(gap.argmax())
    largest = float(torch.where(torch.isfinite(x), x, 0).abs().max())
    return float(gap[at]), float(gap[at]) / max(largest, torch.finfo(torch.float64).tiny), at


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
