"""Ranks: guards on the number of axes of the inputs.

A graph names axes by their numbers. Code that counts them from the right (a linear layer, `x[..., :k]`, elementwise
operations) does the same on inputs with more or fewer leading axes. A graph with other code is run on inputs of other
ranks, on meta tensors: if it runs, the emitted network gets a guard on the captured rank, and the plan a condition.
With `squeeze` a size decides a rank, so the axes that it removes are guarded in the same way.

What is tried: one axis of an input fewer, or one more; for `squeeze`, each axis of an input with other sizes, 1 among
them. A graph that runs only on yet other inputs gets no guard.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, fx

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.capture.replay import depending, other_ranks, other_sizes, runs
from fxteleport.passes.constrain.sizing import Sizing
from fxteleport.passes.domain.size import Size
from fxteleport.passes.graph.conditions import Condition
from fxteleport.passes.graph.grad_mode import switch
from fxteleport.passes.graph.guards import GUARDS, expect_ones, expect_tensor, guard
from fxteleport.passes.graph.node_info import info, is_described, name_apart
from fxteleport.passes.graph.ops import leaves_of, name_of
from fxteleport.passes.graph.source_location import quoted
from fxteleport.passes.rules.axes import Axes
from fxteleport.passes.rules.registry import lookup

_TURNING = frozenset("transpose swapaxes swapdims movedim moveaxis permute unsqueeze squeeze flatten unflatten".split())
_FACTS = frozenset({"shape", "dtype", "device", "mT", "mH"})
_CUTTING = frozenset(
    "chunk split split_with_sizes tensor_split unbind narrow select index_select repeat_interleave".split()
)


def insist_on_ranks(captured: Captured) -> Captured:
    """Add to the captured graphs guards on the ranks that they assume, and the conditions."""
    found: list[Condition] = []
    named = {graph: set(graph.nodes) for graph in captured.graphs}
    for graph in captured.graphs:
        inputs = _inputs(graph)
        after = depending(graph, inputs)
        found += _of_inputs(captured, graph, inputs, after)
        found += _of_sizes(captured, graph, inputs, after)
    for i, graph in enumerate(captured.graphs[1:]):
        name_apart([n for n in graph.nodes if n not in named[graph]], f"in_graph_{i}")
    if not found:
        return captured
    said = {(c.kind, c.path, c.value): c for c in (*captured.conditions, *found)[::-1]}  # the first of those alike
    new = [c for c in found if said[c.kind, c.path, c.value] is c]
    return dataclasses.replace(captured, conditions=(*captured.conditions, *new))


def _of_inputs(
    captured: Captured, graph: fx.Graph, inputs: Sequence[fx.Node], after: set[fx.Node]
) -> Iterator[Condition]:
    """Guard the ranks of inputs, where the graph runs on other ranks and names other axes there."""
    if all(_counts_from_the_right(captured, n, after) for n in graph.nodes if n in after) or _knows_ranks(graph):
        return
    if not any(runs(captured.modules, captured.opaque, graph, shapes) for shapes in other_ranks(inputs)):
        return
    for node in inputs:
        rank = info(node).value.ndim
        with graph.inserting_after(inputs[-1]):
            guard(graph, expect_tensor, node, rank, None, node.name)
        name = node.target if node.op == "placeholder" else node.name
        yield Condition("form", node.name, "", "", f"'{name}' has {rank} axes")


def _of_sizes(
    captured: Captured, graph: fx.Graph, inputs: Sequence[fx.Node], after: set[fx.Node]
) -> Iterator[Condition]:
    """Guard which axes `squeeze` removes, where the inputs' sizes decide it and later nodes depend on it."""
    squeezes = [n for n in graph.nodes if n in after and n.op != "call_module" and name_of(n.target) == "squeeze"]
    if not squeezes:
        return
    sizing, sizes_at = Sizing(captured), {}
    for node in graph.nodes:
        if node in squeezes:  # before later nodes teach `sizing` the example's rank
            sizes_at[node] = sizing.current(node.args[0]).sizes
        sizing.at[node] = sizing.visit(node)
    for node in squeezes:
        source, sizes = node.args[0], sizes_at[node]
        given = [*node.args[1:], *node.kwargs.values()]
        dims = [int(info(d).value) if isinstance(d, fx.Node) else d for d in leaves_of(given)] or range(len(sizes))
        axes = [d % len(sizes) for d in dims] if sizes else []
        unknown = [i for i in axes if type(sizes[i]) is Size]
        known = [i for i, n in enumerate(sizes) if type(n) is int and n > 1]
        if not unknown:
            continue
        later = depending(graph, [node])
        asked = _knows_ranks(graph)
        if not asked and all(_counts_from_the_right(captured, n, later) for n in later if n is not node):
            first = min(known, default=len(sizes))
            unknown = [i for i in unknown if i > first]  # axes before all known ones do not matter
        assert isinstance(source, fx.Node)
        shape = tuple(info(source).value.shape)
        requires = {source: functools.partial(_has_other_ones, shape=shape, axes=unknown)}
        others = other_sizes(inputs) if unknown else ()
        if not asked and not any(
            runs(captured.modules, captured.opaque, graph, shapes, requires=requires) for shapes in others
        ):
            continue
        with graph.inserting_before(node):
            guard(graph, expect_ones, source, len(shape), {i: shape[i] == 1 for i in unknown}, node.name)
        where, line = info(node).path, quoted(info(node).source)
        yield Condition("form", node.name, where, line, f"{node.name} takes the axes of size 1 out of {shape}")


def _has_other_ones(value: Tensor, shape: Sequence[int], axes: Sequence[int]) -> bool:
    """True where a squeeze removes other ones of these axes than in the example."""
    return any((value.shape[i] == 1) is not (shape[i] == 1) for i in axes)


def _inputs(graph: fx.Graph) -> list[fx.Node]:
    """The tensors among a graph's inputs, or inside them."""
    given: list[fx.Node] = []
    structures: set[Any] = set()
    for node in graph.nodes:
        read = node.target in (operator.getitem, getattr) and node.args[0] in structures
        if (node.op == "placeholder" or read) and is_described(node):
            if isinstance(info(node).value, Tensor):
                given.append(node)
            else:
                structures.add(node)
    return given


def _knows_ranks(graph: fx.Graph) -> bool:
    """True where Python code has read a rank, so that the inputs' ranks are guarded anyway."""
    return any(n.target is expect_tensor and n.args[1] is not None for n in graph.nodes)


def _counts_from_the_right(captured: Captured, node: fx.Node, after: set[fx.Node]) -> bool:
    """True where a node does the same with more or fewer leading axes."""
    if node.op in ("placeholder", "output") or node.target in GUARDS or node.target is switch:
        return True
    module = captured.modules[str(node.target)] if node.op == "call_module" else None
    source = node.args[0] if node.args else None
    name = "" if module is not None else name_of(node.target)
    if isinstance(source, fx.Node) and not isinstance(info(source).value, Tensor):
        return True  # a size, or a part of a structure
    if node.target is getattr:
        return node.args[1] in _FACTS
    if name in ("size", "numel", "nelement"):
        return True
    if not any(isinstance(info(n).value, (Tensor, tuple, list)) for n in node.all_input_nodes):
        return True  # numbers
    rule = None if node.target in captured.opaque else lookup(node.op, module if module is not None else node.target)
    if rule is None:
        return True  # around it everything is pinned
    if rule.axes is Axes.FROM_THE_RIGHT:
        return True
    if rule.name == "matmul":  # with a vector it contracts another axis
        first, second = node.args[0], node.args[1]
        return first in after and (second not in after or info(second).value.ndim > 2)  # type: ignore[arg-type]
    if name == "stack" and not _dim_of(node, 1):  # and unbound again: leading axes stay with the items
        return all(_takes_apart(n) for n in node.users)
    if _takes_apart(node) and isinstance(source, fx.Node) and name_of(source.target) == "stack":
        return not _dim_of(source, 1)
    if name == "getitem":
        index: Any = node.args[1]
        return index is ... or (isinstance(index, tuple) and index[:1] == (...,))
    given: Any = [*node.args[1:], *node.kwargs.values()]
    if name in _TURNING:
        return (name == "squeeze" and not given) or _negative([x for x in given if isinstance(x, int)] or 0)
    if name in _CUTTING or rule.axes is Axes.BY_DIM:
        names = [parameter for parameter, _ in rule.parameters]
        position = names.index("dim") if "dim" in names else _PLACES.get(name, 1)
        default = dict(rule.parameters).get("dim", 0)
        dim = node.kwargs.get("dim", node.kwargs.get("axis", getattr(module, "dim", default)))
        dim = node.args[position] if len(node.args) > position else dim
        return _negative(dim) or (dim is None and name in _OF_ALL)
    return False


def _takes_apart(node: fx.Node) -> bool:
    """True for a call that takes one item, or all items, along axis 0."""
    item = node.target is operator.getitem and type(node.args[1]) is int
    return item or (name_of(node.target) == "unbind" and not _dim_of(node, 1))


def _dim_of(node: fx.Node, position: int) -> Any:
    """The axis that a call names, 0 if none."""
    return node.args[position] if len(node.args) > position else node.kwargs.get("dim", 0)


_PLACES = dict.fromkeys("chunk split split_with_sizes tensor_split repeat_interleave".split(), 2)
_OF_ALL = frozenset("mean sum nansum nanmean prod var std norm vector_norm amax amin max min".split())


def _negative(dims: Any) -> bool:
    """True for an axis, or several, counted from the right."""
    return all(type(d) is int and d < 0 for d in (dims if isinstance(dims, (list, tuple)) else [dims]))
