"""Lowering: from the arguments that Python code passes to the arguments of a node.

Proxies become nodes. A parameter, a buffer or a constant tensor becomes a `get_attr` node, one for all its names. An
object becomes a node that builds a new one.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.call_stack import CallStack
from fxteleport.passes.capture.graph_builder import GraphBuilder
from fxteleport.passes.capture.object_inputs import ObjectInputs
from fxteleport.passes.capture.proxy import Proxy, is_proxy, node_of, value_of
from fxteleport.passes.capture.tensor_table import TensorTable
from fxteleport.passes.graph.assembly import take_apart
from fxteleport.passes.graph.containers import is_named_tuple, is_record, leaves
from fxteleport.passes.graph.structure import PLAIN, is_spelt


class Lowering:
    """Lowers argument structures.

    Args:
        add_leaf: adds a module to the model under a path like the given one, and returns that.
    """

    def __init__(
        self,
        builder: GraphBuilder,
        tensors: TensorTable,
        stack: CallStack,
        add_leaf: Callable[[str, nn.Module], str],
        objects: ObjectInputs,
    ) -> None:
        self._builder, self._tensors, self._stack, self._add_leaf = builder, tensors, stack, add_leaf
        self._objects = objects

    def lower(self, x: Any) -> Any:
        """An argument structure with nodes in place of proxies, and constants as attributes."""
        kind = type(x)
        if kind in PLAIN:
            return x
        if issubclass(kind, Proxy):
            return self._behind(x)
        if (given := self._objects.node_of(x)) is not None:
            return given if not self._stack else self._refused(x)
        if kind is tuple or kind is list:
            return kind(map(self.lower, x))
        if kind is slice:
            return slice(self.lower(x.start), self.lower(x.stop), self.lower(x.step))
        if isinstance(x, (set, frozenset)) or (isinstance(x, dict) and proxy.find_trace(list(x))):
            return self._hashed(x)
        if isinstance(x, dict):
            return {k: self.lower(v) for k, v in x.items()} if kind is dict else self._table(x)
        if kind is MappingProxyType:
            return self._built(x, self.lower(dict(x)))
        if kind is PackedSequence:
            return self._built(proxy.plain(x), **self._fields(x._asdict()))
        if isinstance(x, tuple) and is_named_tuple(kind):
            fields = list(map(self.lower, x))
            # torch.fx up to 2.11 prints what forward returns by its repr, which does not name the class's module.
            return kind(*fields) if self._stack else self._built(x, *fields)
        if kind is torch.Size and (not self._stack or proxy.find_trace(x) is not None):
            return self._built(proxy.plain(x), list(map(self.lower, x)))
        if isinstance(x, tuple):
            return kind(map(self.lower, x))
        if isinstance(x, Tensor):
            return node_of(self._tensors.constant(x))
        if is_record(x):
            return self._built(x, **self._fields({f.name: getattr(x, f.name) for f in dataclasses.fields(x) if f.init}))
        if isinstance(x, np.generic):
            return x.item() if self._stack else self._built(x, x.item())
        if isinstance(x, np.ndarray) and x.dtype.kind in "biu":  # an index
            return node_of(self._tensors.constant(torch.from_numpy(x.copy())))
        return x if is_spelt(x) else self._assembled(x)

    def _hashed(self, x: Any) -> Any:
        """A set, or a dictionary's keys: sizes among them were hashed, so they are numbers with a guard."""
        if any(is_proxy(v) and not issubclass(type(v), proxy.NumberProxy) for v in leaves(list(x))):
            raise RuntimeError("a set, or the keys of a dictionary, hold values of the network")
        hashed = map(proxy.plain, x)
        return self.lower(dict(zip(hashed, x.values(), strict=True))) if isinstance(x, dict) else type(x)(hashed)

    def _behind(self, x: Proxy) -> Any:
        """The node of a proxy; a proxy whose trace has ended counts as its value."""
        if not is_proxy(x):
            return self.lower(value_of(x))
        if (own := proxy.own_of(x)) is not None:
            return self.lower(own)
        node = node_of(x)
        if node._erased:
            raise RuntimeError("a value of a part that could not be traced is still in use")
        return node

    def _assembled(self, x: Any) -> fx.Node:
        """A node that builds a new object around the network's values."""
        if self._stack and not isinstance(x, dict):
            self._refused(x)
        leaf, values = take_apart(x, is_proxy)
        path = self._add_leaf(f"_{type(x).__name__}", leaf)
        return self._builder.made("call_module", path, tuple(map(self.lower, values)), {}, x)

    @staticmethod
    def _refused(x: Any) -> NoReturn:
        raise RuntimeError(f"a {type(x).__name__} reaches it, which may change there: tensors and plain values do not")

    def _table(self, x: Any) -> fx.Node:
        """A node that builds a dictionary of another class."""
        fields: Any = dataclasses.fields(x) if dataclasses.is_dataclass(x) else None
        if fields is not None and all(vars(x).get(k) is v for k, v in x.items()):
            given = {f.name for f in fields if f.init}
            others = {k: v for k, v in vars(x).items() if k not in x and v is not None}
            if not others and given.issuperset(x):
                return self._built(x, **self._fields(dict(x)))
        elif type(x) is OrderedDict:
            return self._built(x, {k: self.lower(v) for k, v in x.items()})
        return self._assembled(x)

    def _fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The lowered fields of an object, without those that are None by default."""
        return {name: self.lower(value) for name, value in fields.items() if value is not None}

    def _built(self, value: Any, /, *args: Any, **fields: Any) -> fx.Node:
        """A node that builds an object (a data class, a packed sequence, an OrderedDict) from what is lowered."""
        return self._builder.made("call_function", type(value), args, fields, value)
