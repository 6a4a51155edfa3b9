"""Inputs that are objects (the cache of a language model), lists or dictionaries, which forward may change.

During the trace `forward` gets a stand-in of the same class, with proxies in place of the tensors. What forward changes
in it, nodes at the end of the graph write into the given input; where forward returns it, the graph returns the input.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch.utils import _pytree as pytree

from fxteleport.passes.capture.control_flow import DataDependent
from fxteleport.passes.capture.graph_builder import GraphBuilder
from fxteleport.passes.capture.proxy import Proxy, node_of
from fxteleport.passes.graph.containers import refill
from fxteleport.passes.graph.contents import FILLED, Contents, contents
from fxteleport.passes.graph.guards import expect_apart, guard
from fxteleport.passes.graph.holders import contents_of, put_back
from fxteleport.passes.graph.node_info import NodeInfo, describe
from fxteleport.passes.graph.reachable import fields_of


@dataclass(frozen=True, slots=True)
class _Opened:
    """A stand-in for an object, a list or a dictionary that the network is given.

    Attributes:
        as_given: calls that take it get the given input in the graph.
        handle: the proxy of the given input.
        fields: its attributes before forward ran, by name.
        items: its items before forward ran, where it is a container.
    """

    opened: Any
    handle: Proxy
    fields: dict[str, Any]
    items: Contents | None
    as_given: bool

    @property
    def is_changed(self) -> bool:
        now = _fields(self.opened)
        is_filled = self.items is not None and self.items.changed()
        return is_filled or now.keys() != self.fields.keys() or any(now[k] is not x for k, x in self.fields.items())


class ObjectInputs:
    """The objects among the inputs of a trace, and their contents."""

    def __init__(self, builder: GraphBuilder) -> None:
        self._builder = builder
        self._held: dict[int, _Opened] = {}
        self._same: list[tuple[Proxy, Proxy]] = []
        self.are_shared = False  # a part of an input is given twice

    def hold(self, opened: Any, handle: Proxy, as_given: bool = True) -> Any:
        """Register the stand-in of an input, or of a part of one."""
        items = Contents(opened) if isinstance(opened, FILLED) else None
        self._held[id(opened)] = _Opened(opened, handle, _fields(opened), items, as_given)
        return opened

    def hold_again(self, opened: Any, handle: Proxy) -> Any:
        """Have a stand-in stand for another input, too, which is the same object."""
        self._same.append((self._held[id(opened)].handle, handle))
        return opened

    def node_of(self, x: Any) -> fx.Node | None:
        """The node of the input that a stand-in stands for."""
        held = self._held.get(id(x))
        return node_of(held.handle) if held is not None and held.as_given else None

    def given(self, x: Any) -> Any:
        """Arguments with the given inputs in place of their stand-ins."""

        def is_held(x: Any) -> bool:
            return id(x) in self._held

        return pytree.tree_map(lambda x: self._held[id(x)].handle if is_held(x) else x, x, is_leaf=is_held)

    def reset(self) -> None:
        """Restore the stand-ins as they were before forward ran."""
        for held in self._held.values():
            if held.items is not None:
                held.items.restore()
            put_back(held.opened, held.fields | _items(held.opened))

    def put_back(self, lower: Callable[[Any], Any]) -> None:
        """Append nodes that write into the inputs what forward has changed in their stand-ins.

        Raises:
            DataDependent: it has deleted an attribute, or a part of an input is given twice.
        """
        if any(held.is_changed for held in self._held.values()):
            if self.are_shared:
                raise DataDependent("its forward changes what it is given, and a part of that is given twice")
            handles = [node_of(held.handle) for held in self._held.values()]
            for one, other in self._same:
                guard(self._builder.graph, expect_apart, [node_of(one), node_of(other)], False)
            if len(handles) > 1:
                guard(self._builder.graph, expect_apart, handles, True)
        for held in list(self._held.values()):
            if held.items is not None and held.items.changed():
                self._append(refill, held.handle, lower(self.given(contents(held.opened))))
            now, before = _fields(held.opened), held.fields
            for name in before:
                if name not in now:
                    raise DataDependent(f"its forward deletes '{name}' of an input")
            for name, value in now.items():
                if name not in before or value is not before[name]:
                    self._append(setattr, held.handle, name, lower(self.given(value)))

    def _append(self, target: Callable[..., Any], handle: Proxy, *args: Any) -> None:
        node = self._builder.graph.call_function(target, (node_of(handle), *args))
        describe(node, NodeInfo(has_effect=True))


def _items(x: Any) -> dict[Any, Any]:
    """The current items of a container, as `put_back` compares them."""
    return {key: value for key, value in contents_of(x).items() if type(key) is tuple}


def _fields(x: Any) -> dict[str, Any]:
    fields = {name: getattr(x, name) for name in fields_of(x)}
    return {name: value for name, value in fields.items() if type(value) is not weakref.ReferenceType}  # to its holder
