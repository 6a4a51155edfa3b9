"""Data values: the values of a trace's nodes on the example inputs, where no weight or activation is involved.

Integers and booleans among the inputs (a padding mask, the graph that a node belongs to) and the model's buffers are
known at planning, and so is what is computed from them and from constants. Values are computed on demand.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from fxteleport.passes.capture.meta_cache import Memo
from fxteleport.passes.capture.meta_values import to_meta, tree_map
from fxteleport.passes.capture.recording_mode import unrecorded
from fxteleport.passes.graph.guards import GUARDS
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.ops import call_of, leaves_of
from fxteleport.passes.graph.storage import memory
from fxteleport.passes.graph.structure import PLAIN

_READING = frozenset({operator.getitem, getattr})
_FACTS = (*PLAIN, torch.Size)
_PICKING = frozenset(
    {operator.getitem, torch.masked_select, "masked_select", torch.repeat_interleave, "repeat_interleave"}
    | {torch.reshape, "reshape", "view", torch.flatten, "flatten"}
)  # indexed by integers alone, whose count decides the shape
_FORM = frozenset({"size", "dim", "numel", "__len__"})


class Unknown(Exception):
    """A value depends on weights or activations."""


class DataValues:
    """The values of one graph's nodes on the example inputs.

    Args:
        memo: evaluates calls.
        buffer: a buffer of the model's by its name; None for a parameter.
        constant: a constant of the trace by its name.
        inputs: values of the placeholders in place of the example's.
    """

    def __init__(
        self,
        graph: fx.Graph,
        memo: Memo,
        buffer: Callable[[str], Tensor | None],
        constant: Callable[[str], Any],
        inputs: Mapping[fx.Node, Any] | None = None,
    ) -> None:
        self._inputs = inputs
        self._graph, self._memo = graph, memo
        self._buffer, self._constant = buffer, constant
        self._known: dict[fx.Node, Any] = {}
        self._state: set[int] = set()  # the memory of buffers
        self._last: fx.Node | None = None

    def on(self, inputs: Mapping[fx.Node, Any]) -> DataValues:
        """The values on other inputs, by their placeholders."""
        return DataValues(self._graph, self._memo, self._buffer, self._constant, inputs)

    def examples(self) -> dict[int, Tensor]:
        """The example inputs that are known, by the id of the meta tensor in their place."""
        inputs = (x for node in self._graph.nodes if node.op == "placeholder" for x in _tensors(info(node).value))
        return {id(x): self._example(x) for x in inputs if self._memo.values.has_example(x)}

    @unrecorded
    def of(self, node: fx.Node) -> Any:
        """The value of a node on the example inputs; not to be written to.

        Raises:
            Unknown: it depends on weights or activations, or is drawn at random.
        """
        if self._last is not None and self._last._erased:  # erased nodes may have written to tensors
            self._last = None
            self._known.clear()
        for at in self._following():
            self._visit(at)
            self._last = at
        if node not in self._known or self._has_holes(self._known[node]):
            raise Unknown(f"weights or activations decide '{node.name}'")
        return self._known[node]

    def _following(self) -> Iterator[fx.Node]:
        """The nodes after the last that was visited."""
        if self._last is None:
            yield from self._graph.nodes
            return
        node = self._last.next
        while node.op != "root":
            yield node
            node = node.next

    def _visit(self, node: fx.Node) -> None:
        found = True
        try:
            self._known[node] = self._value(node)
        except Unknown:
            found = False
        if info(node).has_effect and node.target not in GUARDS:
            self._forget(node, only=self._state if found else None)

    def _value(self, node: fx.Node) -> Any:
        known = info(node)
        if node.op == "placeholder" and self._inputs is not None:
            return tree_map(_without_fractions, self._inputs.get(node, known.value))
        if node.op == "placeholder":
            return tree_map(self._example, known.value)
        if node.op == "get_attr":
            return self._attribute(str(node.target), known.value)
        if node.target in GUARDS or node.op not in ("call_function", "call_method"):
            raise Unknown
        if all(source in self._known for source in node.all_input_nodes):
            args, kwargs = map_arg((node.args, node.kwargs), self._known.__getitem__)  # type: ignore[arg-type]
            if args and isinstance(args[0], Tensor) and _asks_for_form(node):
                return call_of(node.op, node.target)(*args, **kwargs)
            if isinstance(args, tuple) and not self._has_holes((args, kwargs)):
                with contextlib.suppress(Exception):
                    value, trust = self._memo.run(node.op, node.target, tuple(args), dict(kwargs))
                    if not (trust or self._has_holes(value)):
                        return value
                raise Unknown
            with contextlib.suppress(Exception):  # a part of an input of which other parts are not known
                if node.target in _READING and not isinstance(args[0], Tensor):
                    return node.target(*args)
        if type(known.value) in _FACTS and not known.trust:  # a size
            return known.value
        if node.target in _PICKING:
            return self._picked(node)
        raise Unknown

    def _picked(self, node: fx.Node) -> Any:
        """The shape of what integers or booleans pick from a tensor, if these are known."""
        args, kwargs = map_arg((node.args, node.kwargs), lambda source: _with_form(source, self._known))
        if not args or not _has_fractions(args[0]) or self._has_holes((args, kwargs)):
            raise Unknown
        with contextlib.suppress(Exception):
            return to_meta(call_of(node.op, node.target)(*args, **kwargs))  # type: ignore[misc]
        raise Unknown

    def _example(self, x: Any) -> Any:
        """The example of an input's tensor: itself on the meta device where there is none."""
        if not isinstance(x, Tensor) or not x.is_meta:
            return x
        return self._memo.values.made_up(torch.zeros, x) if self._memo.values.has_example(x) else x

    def _attribute(self, name: str, value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_meta:
            held = self._buffer(name)
            if held is None or held.is_meta:
                raise Unknown
            copied = held.detach().cpu().clone()
            self._state |= memory(copied)
            return copied
        constant = self._constant(name)
        held = constant if isinstance(constant, Tensor) else self._buffer(name)
        if held is None or held.is_meta:
            raise Unknown
        return held.detach().clone()

    @staticmethod
    def _has_holes(x: Any) -> bool:
        return any(t.is_meta for t in _tensors(x))

    def _forget(self, node: fx.Node, only: set[int] | None) -> None:
        """Forget the values in memory that a call may have written to.

        Args:
            only: only this memory is no longer known; None: all that the call may have written to.
        """
        given = [t for source in node.all_input_nodes for t in _tensors(self._known.get(source))]
        touched = set().union(*map(memory, given))
        touched = touched if only is None else touched & only
        for known, value in list(self._known.items()) if touched else ():
            if any(not touched.isdisjoint(memory(t)) for t in _tensors(value)):
                del self._known[known]


def _without_fractions(x: Any) -> Any:
    """A real tensor if it carries no CoB; else it is unknown."""
    return to_meta(x.detach().cpu().clone()) if isinstance(x, Tensor) else x


def _tensors(x: Any) -> Iterator[Tensor]:
    return (t for t in leaves_of(x) if isinstance(t, Tensor))


def _asks_for_form(node: fx.Node) -> bool:
    is_shape = node.target is getattr and node.args[1] in ("shape", "ndim")
    return is_shape or (node.op == "call_method" and node.target in _FORM)


def _with_form(source: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """The known value of a node; for floating-point numbers the shape and type are enough.

    Raises:
        Unknown: these are not known either.
    """
    value = values.get(source, info(source).value)
    if source not in values and (info(source).trust or not _has_fractions(value)):
        raise Unknown
    return torch.zeros(value.shape, dtype=value.dtype) if _has_fractions(value) and value.is_meta else value


def _has_fractions(x: Any) -> bool:
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())
