"""Sizing: which numbers and axes of a graph come from the sizes of its inputs.

Every axis of an input is an unknown (`size.py`), and every node is visited once. A shape or an arithmetic expression
gives polynomials of the unknowns; an operation's shape function gives the sizes of its result. An operation without one
is run on other sizes, and axes that do not change are known (`probing.py`). Any other size is a new unknown, which is
always sound: the rules assume nothing of it.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.capture.opaque_leaves import Given
from fxteleport.passes.constrain.probing import probed, sized_leaves
from fxteleport.passes.domain.size import Size, Sizes, product
from fxteleport.passes.graph.guards import GUARDS, expect
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.ops import call_of, holds_tensor, same_items
from fxteleport.passes.rules.operand import carries
from fxteleport.passes.rules.operands import of_nodes
from fxteleport.passes.rules.registry import bound, lookup
from fxteleport.passes.rules.shape_functions import OF_INPUTS, At, Repeated, Sized


@dataclass
class Sizing:
    """What is known of each node: a `Sized` for a tensor, an int or a `Size` for a number, lists of them."""

    captured: Captured
    sizes: Sizes = field(default_factory=Sizes)
    at: dict[fx.Node, Any] = field(default_factory=dict)
    _settled: dict[fx.Node, Any] = field(default_factory=dict)  # a cache of `at` with learned equations substituted
    _learned: int = 0  # `sizes.learned` when the cache was valid

    def run(self, graph: fx.Graph, given: Sequence[Sized] | None = None) -> Any:
        """Visit the nodes of a graph, and return what is known of its output.

        Args:
            given: for the body of a call, the tensors that its placeholders stand for.
        """
        tensors = iter(given or ())
        for node in graph.nodes:
            inner = given is not None and node.op == "placeholder" and isinstance(info(node).value, Tensor)
            self.at[node] = next(tensors, None) or self.opened(info(node).value) if inner else self.visit(node)
            if given is not None:  # another call of the same body has other sizes
                self._settled.pop(node, None)
        return self.at[graph.output_node()]

    def visit(self, node: fx.Node) -> Any:
        known = info(node)
        value = known.value
        if node.op == "placeholder":
            return self.opened(value)
        if node.op == "get_attr":
            return Sized(value, tuple(value.shape)) if isinstance(value, Tensor) else value
        if node.op == "output":
            return self.convert(node.args[0])
        args, kwargs = self.convert(node.args), self.convert(node.kwargs)
        if node.target in GUARDS:
            return self.insist(args[0], args[1], node.args[0]) if node.target is expect else None
        first = args[0] if args else None
        if type(first) is Sized and node.target in _ASKING and (told := _asked(node, first, args, kwargs)) is not None:
            return told
        if node.target in (operator.getitem, getattr) and isinstance(first, (list, dict)):
            return self.part(node, first, args[1], value)
        if node.target in (operator.getitem, getattr) and _is_in_object(node, first, value):
            return self.opened(value)
        if node.target is torch.Size and isinstance(first, list):
            return first
        leaves = sized_leaves((*args, kwargs) if kwargs else args)
        rests = bool(known.trust) or node in self.captured.branches or any(map(_rests_on_sizes, leaves))
        rests = rests or any(isinstance(x, Repeated) for x in args)
        if node.target is operator.mul and isinstance(value, (list, tuple)) and any(type(x) is Size for x in args):
            held = next(x for x in args if isinstance(x, (list, tuple)))
            return Repeated(held[i % len(held)] for i in range(len(value))) if held else self.opened(value)
        if isinstance(value, Tensor) or holds_tensor(value):
            return self.result(node, value, args, kwargs, leaves) if rests else _known(value)
        plain = type(value) in (int, float) and not kwargs and not known.trust
        if plain and all(type(x) in (int, float, Size) for x in args):
            return self.sizes.apply(call_of(node.op, node.target), args, value)
        return self.opened(value) if rests else value

    def insist(self, size: Any, expected: Any, source: Any) -> None:
        """Learn from a guard: it ensures a number, the equality of two, or that of two shapes."""
        pairs = [(size, int(expected) if expected is False else expected)] if type(size) is Size else []
        if isinstance(source, fx.Node) and source.target in _EQUALITIES and expected is _EQUALITIES[source.target]:
            sides = self.convert(source.args)
            pairs = list(zip(*sides, strict=True)) if source.target is same_items else [sides]
        elif isinstance(source, fx.Node) and source.target is operator.gt and expected is False:
            larger, smaller = self.convert(source.args)
            pairs = [(larger, 0)] if smaller == 0 and self.sizes.is_rest(larger) else []
        for a, b in pairs:
            if type(a) in (int, Size) and type(b) in (int, Size):
                self.sizes.insist(a, b)

    # -- tensors ---------------------------------------------------------------------------------------

    def result(self, node: fx.Node, value: Any, args: Any, kwargs: Any, leaves: Sequence[Any]) -> Any:
        """The result of an operation on unknown sizes."""
        path = str(node.target) if node.op == "call_module" else ""
        if path in self.captured.opaque:
            return self.opened(value)
        if node in self.captured.branches:
            tensors = [x for x in leaves if type(x) is Sized]
            outs = [self.run(graph, tensors) for graph in self.captured.branches[node]]
            if isinstance(backward := self.captured.backwards.get(node), fx.Graph):
                self.run(backward, [*tensors, *[x for x in sized_leaves(outs[0]) if type(x) is Sized]])
            return outs[0] if all(_alike(outs[0], out) for out in outs[1:]) else self.opened(value)
        target = self.captured.modules.get(path, node.target)
        if isinstance(target, Given):  # the layer's shape function finds its tensors among the arguments
            named = {k: v for k, v in kwargs.items() if type(v) is not Sized or carries(v.value)}
            shapes = told(self.captured, self.sizes, node, target.layer, value, args, named)
        else:
            shapes = told(self.captured, self.sizes, node, target, value, args, kwargs)
        if shapes is None and not info(node).trust and not any(isinstance(x, Repeated) for x in args):
            fn: Any = target if node.op == "call_module" else call_of(node.op, node.target)
            shapes = probed(self.sizes, fn, value, args, kwargs)
        if shapes is None:
            return self.opened(value)
        unsure = bool(info(node).trust) or any(type(x) is Size or (type(x) is Sized and x.uncertain) for x in leaves)
        return _sized(value, shapes, unsure)

    # -- structures ------------------------------------------------------------------------------------

    def convert(self, x: Any) -> Any:
        """An argument structure with what is known of each node in its place."""
        return of_nodes(x, self.current)

    def current(self, node: fx.Node) -> Any:
        """What is known of a node, with all equations learned so far; None for one that was not visited."""
        if self._learned != self.sizes.learned:
            self._learned = self.sizes.learned
            self._settled.clear()
        if node in self._settled:
            return self._settled[node]
        if node not in self.at:
            return None
        held = self._settled[node] = self.at[node] = self.put_in(self.at[node])
        return held

    def put_in(self, held: Any) -> Any:
        """Substitute the learned equations."""
        kind = type(held)
        if kind is Sized:
            known = Size not in map(type, held.sizes)
            return held if known else Sized(held.value, tuple(map(self.sizes.settled, held.sizes)), held.uncertain)
        if kind is list:
            return [self.put_in(x) for x in held]
        return {k: self.put_in(x) for k, x in held.items()} if kind is dict else self.sizes.settled(held)

    def part(self, node: fx.Node, held: Any, key: Any, value: Any) -> Any:
        """An item of a list or a dictionary, or a field of a named tuple."""
        if node.target is getattr:
            items = info(node.args[0]).value  # type: ignore[arg-type]
            key = next((i for i, x in enumerate(items) if x is value), None) if isinstance(items, tuple) else None
        try:
            return held[key]
        except (KeyError, IndexError, TypeError):  # a dictionary that finds items by other keys, say
            return self.opened(value)

    def opened(self, value: Any) -> Any:
        """A value with each size and number in it a new unknown."""
        if isinstance(value, Tensor):
            return Sized(value, tuple(map(self.sizes.fresh, value.shape)), not value.is_meta)
        if isinstance(value, dict):
            return {k: self.opened(v) for k, v in value.items()}
        if isinstance(value, (tuple, list)):
            return [self.opened(v) for v in value]
        return self.sizes.fresh(value) if type(value) in (int, float) else value


# Comparisons, and what they are where both sides are equal.
_EQUALITIES: dict[Any, bool] = {operator.eq: True, operator.ne: False, same_items: True}
_ASKING = frozenset({getattr, "size", "numel", "nelement"})


def _asked(node: fx.Node, tensor: Sized, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The sizes that a node reads of a tensor's own axes; None where it reads something else."""
    if node.target is getattr:
        return list(tensor.sizes) if args[1] == "shape" else None
    if node.target != "size":
        return product(tensor.sizes)
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    return list(tensor.sizes) if dim is None else tensor.sizes[dim]


def _is_in_object(node: fx.Node, held: Any, value: Any) -> bool:
    """True for tensors that are read out of an object among the inputs, which holds others in other runs."""
    if type(held) is Sized or not holds_tensor(value):
        return False
    holder: Any = node.args[0]
    while isinstance(holder, fx.Node) and holder.target in (operator.getitem, getattr):
        holder = holder.args[0]
    return isinstance(holder, fx.Node) and holder.op == "placeholder"


def _rests_on_sizes(x: Any) -> bool:
    """True for an unknown number, and for a tensor with unknown axes or values."""
    return type(x) is Size or (type(x) is Sized and (x.uncertain or Size in map(type, x.sizes)))


def _alike(a: Any, b: Any) -> bool:
    """True where two bodies of one call give the same sizes."""
    pairs = list(itertools.zip_longest(sized_leaves(a), sized_leaves(b)))
    return all(x.sizes == y.sizes if type(x) is Sized and type(y) is Sized else x is y or x == y for x, y in pairs)


def _known(value: Any) -> Any:
    """What is known of a value that is the same on every input, but for the contents of its tensors."""
    if isinstance(value, Tensor):
        return Sized(value, tuple(value.shape))
    if isinstance(value, dict):
        return {k: _known(v) for k, v in value.items()}
    return [_known(v) for v in value] if isinstance(value, (tuple, list)) else value


def told(captured: Captured, sizes: Sizes, node: fx.Node, target: Any, value: Any, args: Any, kwargs: Any) -> Any:
    """The shapes that the operation's shape function gives; None where it does not cover this call."""
    rule = lookup(node.op, target)
    if rule is None or rule.shape is None:
        return None
    module = target if node.op == "call_module" else None

    def attribute(name: str) -> Sized:
        tensor = captured.metas[captured.canonical[f"{node.target}.{name}"]]
        return Sized(tensor, tuple(tensor.shape))

    try:
        if kwargs or (module is not None and rule.shape not in OF_INPUTS):
            args, kwargs = bound(rule, args, kwargs, module, attribute)
        shapes = rule.shape(At(target, value, sizes), *args, **kwargs)
    except Exception:  # torch takes these arguments, and the shape function does not
        return None
    return shapes if shapes is not None and _agree(value, shapes) else None


def _agree(value: Any, shapes: Any) -> bool:
    """True where all known sizes are those of the example."""
    if not isinstance(shapes, (tuple, list)):
        return shapes is None and not isinstance(value, Tensor)
    if isinstance(value, Tensor):
        pairs = zip(shapes, value.shape, strict=False)
        return len(shapes) == value.ndim and all(type(n) is not int or n == m for n, m in pairs)
    return isinstance(value, (tuple, list)) and len(value) == len(shapes) and all(map(_agree, value, shapes))


def _sized(value: Any, shapes: Any, uncertain: bool) -> Any:
    """A value with its shapes as sizes."""
    if isinstance(value, Tensor):
        return Sized(value, tuple(shapes), uncertain and not value.is_meta)
    if isinstance(value, (tuple, list)):
        return [_sized(v, s, uncertain) for v, s in zip(value, shapes, strict=True)]
    return value
