"""Ranks: how many axes a graph takes for granted.

A graph names axes by their numbers. Code that counts them from the right (a linear layer, `x[..., :k]`, whatever goes
element by element) does the same on inputs with more axes in front, or with fewer. Other code is run on inputs of other
ranks, on tensors without values: where it runs, the emitted network insists on the rank that was captured, and the plan
says so. `squeeze` makes a rank out of a size, so what it takes away is insisted on in the same way.

What is tried: one axis of an input fewer, or one more; for `squeeze`, each axis of an input with other sizes, 1 among
them. An original that runs on inputs of yet another form only is not noticed.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from fxteleport.passes import evaluate
from fxteleport.passes.grad_mode import switch
from fxteleport.passes.guards import GUARDS, expect_ones, expect_tensor, guard
from fxteleport.passes.rules import lookup
from fxteleport.passes.shape_functions import spelt

if TYPE_CHECKING:
    from fxteleport.passes.tracer import Tracer

Shapes = dict[fx.Node, tuple[int, ...]]

# Rules of operations that go element by element, or over the last axes.
_FROM_THE_RIGHT = frozenset(
    "elementwise add where masked_fill lerp mul div addcmul reciprocal square power rectify maximum linear embedding"
    " layer_norm pointwise tanh hardtanh clamp clamp_min clamp_max rounded equal compared constant_like fill attention"
    " multihead_attention convolution transposed_convolution padded padded_by_module average_pool1d average_pool2d"
    " average_pool3d max_pool1d max_pool2d max_pool3d".split()
)
# Rules of operations along the axis `dim`, which are so where it is counted from the right.
_ALONG = frozenset(
    "reduced accumulated variance multiplied vector_norm deviation extreme middle running normalize gated largest place"
    " places sorted_ largest_few kth shifted concatenated joined pinned_in_place".split()
)
_TURNING = frozenset("transpose swapaxes swapdims movedim moveaxis permute unsqueeze squeeze flatten unflatten".split())
_FACTS = frozenset({"shape", "dtype", "device", "mT", "mH"})
_CUTTING = frozenset(
    "chunk split split_with_sizes tensor_split unbind narrow select index_select repeat_interleave".split()
)
_MANY_INPUTS = 4  # beyond which their ranks are changed all together only


def insist_on_ranks(tracer: Tracer, inputs: Sequence[fx.Node]) -> None:
    """Add guards of ranks to a finished graph that runs with others, and means something else by its axes there."""
    graph = tracer.graph
    inputs = [n for n in inputs if not n._erased]
    after = _depending(graph, inputs)
    names_axes = not all(_counts_from_the_right(tracer, n, after) for n in graph.nodes if n in after)
    if names_axes and not tracer.asks_rank and any(_run(tracer, after, s)[1] for s in _other_ranks(inputs)):
        for node in inputs:
            rank = node.meta["val"].ndim
            with graph.inserting_after(inputs[-1]):
                guard(graph, expect_tensor, node, rank, None, node.name)
            tracer.rest_on("form", f"'{node.name}' has {rank} axes", node, "")
    squeezed = [n for n in graph.nodes if n in after and n.op != "call_module" and spelt(n.target) == "squeeze"]
    for node in _by_size(tracer, inputs, after, squeezed) if squeezed else ():
        source = node.args[0]
        assert isinstance(source, fx.Node)
        sizes = tuple(source.meta["val"].shape)
        with graph.inserting_before(node):
            guard(graph, expect_ones, source, _ones(sizes), node.name)
        tracer.rest_on("form", f"{node.name} takes the axes of size 1 out of {sizes}", node, node.meta["path"])


def _by_size(
    tracer: Tracer, inputs: Sequence[fx.Node], after: set[fx.Node], squeezed: Sequence[fx.Node]
) -> Iterator[fx.Node]:
    """The squeezes of which the inputs' sizes decide what they take away, where that matters for what comes after.

    Where Python has asked how many axes there are, it would have been told another number: what comes after is unknown.
    """
    runs = [run for shapes in _other_sizes(inputs) if (run := _run(tracer, after, shapes))[1] or tracer.asks_rank]
    for node in squeezed:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        shape = source.meta["val"].shape
        others = [values[source].shape if node in values else None for values, _ in runs]
        if all(other is not None and _ones(other) == _ones(shape) for other in others):
            continue
        later = _depending(tracer.graph, [node])
        known = [other for other in others if other is not None]
        fixed = [i for i, n in enumerate(shape) if n > 1 and all(other[i] == n for other in known)]
        comes = [i for i, n in enumerate(shape) if any((other[i] == 1) is not (n == 1) for other in known)]
        in_front = max(comes, default=0) < min(fixed, default=len(shape))  # no features are left of it
        after_it = [n for n in tracer.graph.nodes if n in later and n is not node]
        if tracer.asks_rank or not (in_front and all(_counts_from_the_right(tracer, n, later) for n in after_it)):
            yield node


def _ones(shape: Sequence[int]) -> list[bool]:
    return [n == 1 for n in shape]


def _other_ranks(inputs: Sequence[fx.Node]) -> Iterator[Shapes]:
    """Inputs with an axis fewer or more, all of them or one."""
    together = [list(inputs), *([n] for n in inputs if 1 < len(inputs) <= _MANY_INPUTS)]
    for changed in together:
        for change in (lambda s: s[1:], lambda s: (*s[:1], *s[2:]), lambda s: (1, *s), lambda s: (2, *s)):
            yield {n: tuple(change(tuple(n.meta["val"].shape))) for n in changed}


def _other_sizes(inputs: Sequence[fx.Node]) -> Iterator[Shapes]:
    """Inputs with another size along an axis, all that have it or one."""
    shapes = {n: tuple(n.meta["val"].shape) for n in inputs}
    axes = {(i, size) for shape in shapes.values() for i, size in enumerate(shape)}
    for i, size in sorted(axes):
        having = [n for n in inputs if shapes[n][i : i + 1] == (size,)]
        for changed in [having, *([n] for n in having if 1 < len(having) <= _MANY_INPUTS)]:
            for other in (2, 1, 2 * size):
                if other != size:
                    yield {n: (*shapes[n][:i], other, *shapes[n][i + 1 :]) for n in changed}


def _depending(graph: fx.Graph, sources: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes that depend on some, these among them."""
    found = set(sources)
    for node in graph.nodes:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _run(tracer: Tracer, after: set[fx.Node], shapes: Shapes) -> tuple[Mapping[fx.Node, Any], bool]:
    """The values of a graph's nodes for inputs of other shapes, as far as they are known, and whether it runs there."""
    values: dict[fx.Node, Any] = {}

    def value_of(node: fx.Node) -> Any:
        return values[node] if node in values else node.meta["val"]

    for node in tracer.graph.nodes:
        if node in shapes:
            values[node] = node.meta["val"].new_empty(shapes[node], device=evaluate.META)
        if node in shapes or node not in after or node.op in ("placeholder", "output"):
            continue
        if node.target in tracer.opaque or "trust" in node.meta:
            return values, True  # for all that is known
        target = tracer.twins[str(node.target)] if node.op == "call_module" else node.target
        args, kwargs = evaluate.tree_map(_on_meta, map_arg((node.args, node.kwargs), value_of))  # type: ignore[arg-type]
        try:
            values[node] = evaluate.call_of(node.op, target)(*args, **kwargs)
        except Exception:  # whatever an operation raises, or a guard
            return values, False
    return values, True


def _on_meta(x: Any) -> Any:
    return x.to(evaluate.META) if isinstance(x, Tensor) else evaluate.META if isinstance(x, torch.device) else x


def _counts_from_the_right(tracer: Tracer, node: fx.Node, after: set[fx.Node]) -> bool:
    """True where a node means the same by its axes whatever is in front of them."""
    if node.op in ("placeholder", "output") or node.target in GUARDS or node.target is switch:
        return True
    module = tracer.twins[str(node.target)] if node.op == "call_module" else None
    source = node.args[0] if node.args else None
    name = "" if module is not None else spelt(node.target)
    if isinstance(source, fx.Node) and not isinstance(source.meta["val"], Tensor):
        of_shape = type(source.meta["val"]) is not tuple and node.target is operator.getitem
        return not of_shape or _negative(node.args[1])
    if node.target is getattr:
        return node.args[1] in _FACTS
    if name in ("size", "numel", "nelement"):
        return name != "size" or _negative([*node.args[1:], *node.kwargs.values()] or 0)
    if not any(isinstance(n.meta["val"], (Tensor, tuple, list)) for n in node.all_input_nodes):
        return True  # numbers
    found = None if node.target in tracer.opaque else lookup(node.op, module if module is not None else node.target)
    if found is None:
        return False
    if found.name in _FROM_THE_RIGHT:
        return True
    if found.name == "matmul":  # of vectors it means something else
        first, second = node.args[0], node.args[1]
        return first in after and (second not in after or second.meta["val"].ndim > 2)  # type: ignore[union-attr]
    if name == "getitem":
        index = node.args[1]
        return index is ... or (isinstance(index, tuple) and index[:1] == (...,))
    given: Any = [*node.args[1:], *node.kwargs.values()]
    if name in _TURNING:
        return (name == "squeeze" and not given) or _negative([x for x in given if isinstance(x, int)] or 0)
    if name in _CUTTING or found.name in _ALONG:
        names = [parameter for parameter, _ in found.parameters]
        place = names.index("dim") if "dim" in names else _PLACES.get(name, 1)
        default = dict(found.parameters).get("dim", 0)
        dim = node.kwargs.get("dim", node.kwargs.get("axis", getattr(module, "dim", default)))
        dim = node.args[place] if len(node.args) > place else dim
        return _negative(dim) or (dim is None and name in _OF_ALL)
    return False


_PLACES = dict.fromkeys("chunk split split_with_sizes tensor_split repeat_interleave".split(), 2)
_OF_ALL = frozenset("mean sum nansum nanmean prod var std norm vector_norm amax amin max min".split())


def _negative(dims: Any) -> bool:
    """True for an axis, or several, counted from the right."""
    return all(type(d) is int and d < 0 for d in (dims if isinstance(dims, (list, tuple)) else [dims]))
