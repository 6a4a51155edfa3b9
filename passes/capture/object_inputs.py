"""Inputs that are objects, as the cache of a language model: taken apart for the trace, which may change them.

`forward` gets an object of the same class whose tensors are read out of the one that is given. What it leaves in it
is put back into that one at the end of each run, and where it is returned, that one is: like the model itself does.
"""

from __future__ import annotations

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
from fxteleport.passes.graph.node_info import NodeInfo, describe


@dataclass(frozen=True, slots=True)
class _Opened:
    """An object, a list or a dictionary in the place of one that the network is given.

    Attributes:
        handle: the one that is given.
        fields: what it held at first: its attributes by name, or its items.
    """

    opened: Any
    handle: Proxy
    fields: Contents


class ObjectInputs:
    """The objects among the inputs of a trace, and what is in them."""

    def __init__(self, builder: GraphBuilder) -> None:
        self._builder = builder
        self._held: dict[int, _Opened] = {}

    def hold(self, opened: Any, handle: Proxy) -> Any:
        """Have an object, a list or a dictionary of the trace's stand for an input, or for a part of one."""
        self._held[id(opened)] = _Opened(opened, handle, Contents(_filled(opened)))
        return opened

    def node_of(self, x: Any) -> fx.Node | None:
        """The node of an input that an object stands for."""
        held = self._held.get(id(x))
        return None if held is None else node_of(held.handle)

    def given(self, x: Any) -> Any:
        """Arguments with the inputs themselves in place of what stands for them."""

        def is_held(x: Any) -> bool:
            return id(x) in self._held

        return pytree.tree_map(lambda x: self._held[id(x)].handle if is_held(x) else x, x, is_leaf=is_held)

    def reset(self) -> None:
        """Undo what code has done to them."""
        for held in self._held.values():
            held.fields.restore()

    def put_back(self, lower: Callable[[Any], Any]) -> None:
        """Append nodes that leave in the inputs what forward has left in what stands for them.

        Raises:
            DataDependent: it has deleted an attribute.
        """
        for held in list(self._held.values()):
            now, before = contents(_filled(held.opened)), held.fields.before
            if isinstance(held.opened, FILLED):
                if held.fields.changed():
                    self._append(refill, held.handle, lower(now))
                continue
            for name in before:
                if name not in now:
                    raise DataDependent(f"its forward deletes '{name}' of an input")
            for name, value in now.items():
                if name not in before or value is not before[name]:
                    self._append(setattr, held.handle, name, lower(value))

    def _append(self, target: Callable[..., Any], handle: Proxy, *args: Any) -> None:
        node = self._builder.graph.call_function(target, (node_of(handle), *args))
        describe(node, NodeInfo(has_effect=True))


def _filled(x: Any) -> Any:
    """What can be filled: a container itself, of an object its attributes."""
    return x if isinstance(x, FILLED) else vars(x)
