"""Proxies that carry the value of their node.

A proxy stands for a node while Python runs the model's `forward`. It answers what Python insists on knowing (`bool`,
`len`, `int`, `hasattr`; `isinstance` through `patching.py`) from the value, and records everything else as a node, so
that shapes which no branch depends on stay symbolic. One class for each kind of value, because Python looks for
methods on the class.
"""

from __future__ import annotations

import copy
import functools
import math
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxteleport.passes.capture.protocols import Trace
from fxteleport.passes.graph.node_info import Trust, info
from fxteleport.passes.graph.ops import same_items, setitem
from fxteleport.passes.graph.structure import PLAIN, mapped_table, refill

# The rank never changes with the batch size, so these are constants of the graph.
_RANK = frozenset({"dim", "ndimension"})
_SYMBOLIC_PROPERTIES = frozenset({"shape", "dtype", "device"})
_PLACES = frozenset({"is_meta", "is_cpu", "is_cuda", "is_xpu", "is_mps"})
_TEXTUAL = (int, float, str, torch.Size, torch.dtype, torch.device)


_set = object.__setattr__


class Proxy:
    """A node under construction and its value; the base of the kinds below."""

    __slots__ = ("_node", "_trace", "_value")

    _node: fx.Node
    _trace: Trace
    _value: Any

    def __init__(self, node: fx.Node, trace: Trace, value: Any) -> None:
        _set(self, "_node", node)  # past what the kinds below make of an assignment
        _set(self, "_trace", trace)
        _set(self, "_value", value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._node.name})"

    def __format__(self, spec: str) -> str:
        """Of a size or a setting, the text that Python would see: code builds messages and names of it."""
        known = isinstance(self._value, _TEXTUAL) and not info(self._node).trust
        return format(self._trace.values.said(self) if known else repr(self), spec)

    def __str__(self) -> str:
        return format(self)

    def __copy__(self) -> Proxy:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self._trace.record("call_method", "clone", (self,), {}) if isinstance(self._value, Tensor) else self

    def __getattr__(self, name: str) -> Any:
        if name in _SYMBOLIC_PROPERTIES and isinstance(self._value, Tensor):
            return self._trace.record("call_function", getattr, (self, name), {})
        value = getattr(self._value, name)  # AttributeError is the right answer where there is none
        if isinstance(self._value, Tensor):
            if name == "ndim":
                return self._trace.inputs.ranked(value)
            if name in _RANK:
                return lambda: self._trace.inputs.ranked(self._value.dim())
            if name == "requires_grad":
                return self._trace.requires_grad(self._node, sys._getframe(1))
            if name in _PLACES:
                return name == f"is_{self._trace.device.type}"  # a meta tensor stands for one over there
        if callable(value):
            return Method(self, name)
        if isinstance(value, Tensor) or not isinstance(self._value, Tensor):
            return self._trace.record("call_function", getattr, (self, name), {})
        return value


class Method:
    """A bound method of a proxy: calling it records a `call_method` node."""

    def __init__(self, owner: Proxy, name: str) -> None:
        self.owner, self.name = owner, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.owner._trace.record("call_method", self.name, (self.owner, *args), kwargs)


class Overriding:
    """What torch's functions know by `__torch_function__`, whichever argument it is."""

    __slots__ = ()

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        trace = find_trace((args, kwargs))
        return past(func, args, kwargs) if trace is None else overridden(trace, func, args, kwargs)


class NumericProxy(Proxy):
    """What Python can turn into a number of its own; the graph then depends on it."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return self._trace.values.specialize(self, bool(self._value))

    def __int__(self) -> int:
        return self._trace.values.number(self, int)

    def __float__(self) -> float:
        return self._trace.values.number(self, float)

    def __index__(self) -> int:
        return self._trace.values.number(self, operator.index)


class TensorProxy(Overriding, NumericProxy):
    """A tensor. Code may put attributes of its own on it, as on any tensor."""

    __slots__ = ("__dict__", "__weakref__")  # torch's recurrent layers refer to their weights weakly

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(torch.Tensor, name):
            raise AttributeError(f"'{name}' of a tensor is assigned to")
        object.__setattr__(self, name, value)

    def __bool__(self) -> bool:
        if self._value.is_meta:
            return self._trace.values.checked(self)
        return bool(self._trace.record("call_function", operator.truth, (self,), {}))

    def __getitem__(self, index: Any) -> Any:
        return self._trace.record("call_function", operator.getitem, (self, index), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        self._trace.record("call_function", setitem, (self, index, value), {})

    def __len__(self) -> int:
        return int(self._trace.record("call_method", "size", (self, 0), {}))

    def __iter__(self) -> Iterator[Any]:
        if not self._trace.lengths.takes_apart():
            len(self)
        return iter(self._trace.record("call_method", "unbind", (self, 0), {}))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """For numpy's functions: the numbers of a tensor that is made of sizes, on which the graph then depends."""
        if self._value.is_meta:
            raise RuntimeError(f"an array is made of '{self._node.name}', whose values depend on the data")
        numbers = self._trace.record("call_method", "tolist", (self,), {})
        plain = pytree.tree_map(lambda x: x.__array__() if is_proxy(x) else x, numbers)
        return np.asarray(plain, dtype=dtype or self._value.numpy().dtype)

    def register_hook(self, hook: Callable[..., Any]) -> Any:
        return self._trace.hook_gradient(self, hook)

    def retain_grad(self) -> None:
        """Nothing that a run computes depends on it."""

    def __hash__(self) -> int:
        return id(self)


class NumberProxy(NumericProxy):
    """An int or a float, mostly a size. What it decides is recorded as specialised.

    The parser of torch's functions asks numbers of unknown classes for `__index__`, which fixes them. Symbolic ones it
    hands on as they are, to `patches.Recording`: so ours claim to be symbolic (`IntProxy`, `FloatProxy`).
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return bool(self._trace.record("call_function", operator.truth, (self,), {}))

    def __hash__(self) -> int:
        return self._trace.values.hashed(self)

    def __ceil__(self) -> Any:
        return self._trace.record("call_function", math.ceil, (self,), {})

    def __floor__(self) -> Any:
        return self._trace.record("call_function", math.floor, (self,), {})

    def __trunc__(self) -> Any:
        return self._trace.record("call_function", math.trunc, (self,), {})

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """For numpy's functions: `np.sqrt(x.shape[-1])`."""
        return np.asarray(self._trace.values.forced(self, self._value), dtype=dtype)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __round__(self, digits: int | None = None) -> Any:
        return self._trace.record("call_function", round, (self, digits), {})


class _Constant:
    """What torch's C++ code asks a symbolic number for, where it is no function's argument: the number itself."""

    def __init__(self, handle: NumberProxy) -> None:
        self.handle = handle

    def is_int(self) -> bool:
        return isinstance(self.handle._value, int)

    def is_float(self) -> bool:
        return isinstance(self.handle._value, float)

    def is_bool(self) -> bool:
        return False

    def is_symbolic(self) -> bool:
        return False

    def is_nested_int(self) -> bool:
        return False

    def maybe_as_int(self) -> int:
        return int(self.handle)

    def guard_int(self, file: str, line: int) -> int:
        return int(self.handle)

    def guard_float(self, file: str, line: int) -> float:
        return float(self.handle)


class IntProxy(NumberProxy, torch.SymInt):
    """A whole number."""

    __slots__ = ()

    @property
    def node(self) -> Any:  # type: ignore[override]
        return _Constant(self)


class FloatProxy(NumberProxy, torch.SymFloat):  # type: ignore[misc]
    """A number with fractions."""

    __slots__ = ()

    @property
    def node(self) -> Any:  # type: ignore[override]
        return _Constant(self)


class SettledProxy(Overriding, NumberProxy):
    """A number that has outlived its trace, in a global table, say: any function takes it as the number that it was."""


class SequenceProxy(Overriding, Proxy):
    """A tuple or a list (a shape, the parts of a split): indexing records, slicing gives a plain tuple."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            positions = range(len(self._known()))[index]
            return tuple(self._trace.record("call_function", operator.getitem, (self, i), {}) for i in positions)
        return self._trace.record("call_function", operator.getitem, (self, operator.index(index)), {})

    def __len__(self) -> int:
        return len(self._known())

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self._known())))

    def _known(self) -> Any:
        """The value, for its length; how many sizes a shape has never depends on the data."""
        return (
            self._trace.inputs.ranked(self._value)
            if isinstance(self._value, torch.Size)
            else self._trace.lengths.unpacked(self)
        )

    def __contains__(self, item: Any) -> bool:
        return any(bool(x == item) for x in self)

    def __add__(self, other: Any) -> Any:
        return [*self, *other] if isinstance(self._value, list) else (*self, *other)

    def __radd__(self, other: Any) -> Any:
        if isinstance(self._value, list):
            return [*other, *self]
        return NotImplemented if isinstance(other, list) else (*other, *self)  # `list += parts` extends the list

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (tuple, list)):
            return False
        return bool(self._trace.record("call_function", same_items, (self, other), {}))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return self._trace.values.hashed(self)


class Held(Overriding, Proxy):
    """What holds values under names or keys. Code may assign to it: from then on it is an object of the trace's own.

    Attributes:
        _own: an object like the value, of what was read out of that, once something was assigned to it.
    """

    __slots__ = ("_own",)

    def __init__(self, node: fx.Node, trace: Trace, value: Any) -> None:
        self._own: Any = None
        super().__init__(node, trace, value)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if self._own is None else getattr(self._own, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OF_PROXIES:
            object.__setattr__(self, name, value)
        else:
            setattr(self._made_own(), name, value)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._made_own()[key] = value

    def _made_own(self) -> Any:
        """The object that is assigned to."""
        if self._own is None:
            self._own = self._opened()
        return self._own

    def _opened(self) -> Any:
        made, read = copy.copy(self._value), self._trace.record
        for name in vars(self._value):
            object.__setattr__(made, name, read("call_function", getattr, (self, name), {}))
        return made


_OF_PROXIES = frozenset({"_node", "_trace", "_value", "_own"})


class DictProxy(Held):
    """A dictionary, such as an opaque module returns: its keys are plain values, its items are recorded."""

    __slots__ = ()

    def _opened(self) -> Any:
        items = {key: self[key] for key in self}
        of = {id(x): items[key] for key, x in dict.items(self._value)}
        read = functools.partial(self._trace.record, "call_function", getattr)
        made = mapped_table(self._value, lambda x: x)
        refill(made, items)
        for name, x in getattr(self._value, "__dict__", {}).items():
            made.__dict__[name] = of[id(x)] if id(x) in of else read((self, name), {})
        return made

    def __getitem__(self, key: Any) -> Any:
        if self._own is not None:
            return self._own[key]
        return self._trace.record("call_function", operator.getitem, (self, key), {})

    def __len__(self) -> int:
        return len(self._keys())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._keys())

    def __contains__(self, item: Any) -> bool:
        return item in self._keys()

    def _keys(self) -> Any:
        return self._trace.lengths.unpacked(self) if self._own is None else self._own

    def keys(self) -> list[Any]:
        return list(self)

    def values(self) -> list[Any]:
        return [self[k] for k in self]

    def items(self) -> list[tuple[Any, Any]]:
        return [(k, self[k]) for k in self]

    def get(self, key: Any, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 it is this method

    def __hash__(self) -> int:
        return id(self)


class ObjectProxy(Held):
    """Any other value, such as the data class that an opaque module returns."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        return self._trace.record("call_function", operator.getitem, (self, index), {})

    def __len__(self) -> int:
        return len(self._trace.lengths.unpacked(self))

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self._trace.lengths.unpacked(self))))

    def __contains__(self, item: Any) -> bool:
        return item in self._trace.values.known(self)

    def __bool__(self) -> bool:
        return self._trace.values.specialize(self, bool(self._value))

    def __eq__(self, other: object) -> bool:
        return self._trace.values.specialize(self, bool(self._value == plain(other)))

    def __hash__(self) -> int:
        return hash(self._trace.values.specialize(self, self._value))


def make(node: fx.Node, trace: Trace, value: Any) -> Proxy:
    """The proxy of the kind that fits the value."""
    kind = next((_KINDS[base] for base in type(value).__mro__ if base in _KINDS), ObjectProxy)
    return kind(node, trace, value)


_KINDS: dict[type, type[Proxy]] = {
    Tensor: TensorProxy,
    int: IntProxy,
    float: FloatProxy,
    tuple: SequenceProxy,
    list: SequenceProxy,
    dict: DictProxy,
}


# What code takes apart by its structure: a proxy's type is none of those that pytree knows.
pytree.register_pytree_node(
    SequenceProxy, lambda x: (list(x), list if isinstance(x._value, list) else tuple), lambda parts, kind: kind(parts)
)
pytree.register_pytree_node(
    DictProxy, lambda x: (x.values(), x.keys()), lambda values, keys: dict(zip(keys, values, strict=True))
)


def node_of(handle: Proxy) -> fx.Node:
    """The node that a proxy stands for: after its tensor was written to in place, the node that wrote."""
    return handle._node


def value_of(handle: Proxy) -> Any:
    """The value behind a proxy. (No attribute of its own: those are its value's.)"""
    return handle._value


def trace_of(handle: Proxy) -> Trace:
    """The trace that a proxy belongs to."""
    return handle._trace


def trust_of(handle: Proxy) -> Trust:
    """What may rest on the value behind a proxy."""
    return info(handle._node).trust


def rebind(handle: Proxy, node: fx.Node, value: Any) -> None:
    """Have a proxy stand for another node."""
    handle._node, handle._value = node, value


def own_of(handle: Proxy) -> Any:
    """The object of the trace's own that a proxy stands for since code has assigned to it; None for any other."""
    return handle._own if issubclass(type(handle), Held) else None  # type: ignore[attr-defined]


def is_proxy(x: object) -> bool:
    """True for a proxy of a trace under way; `isinstance` cannot tell, since a proxy claims the class of its value."""
    return issubclass(type(x), Proxy) and not x._trace.finished  # type: ignore[attr-defined]


def is_left(x: object) -> bool:
    """True for a proxy that has outlived its trace, in a global table, say: it is its value."""
    return issubclass(type(x), Proxy) and x._trace.finished  # type: ignore[attr-defined,no-any-return]


def is_named_tuple(kind: type) -> bool:
    """True for a class of named tuples, such as packed sequences (made by `_make`: their constructor asks more)."""
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def plain(x: Any) -> Any:
    """The value behind a proxy (also inside tuples, lists, dictionaries and slices)."""
    if issubclass(type(x), Proxy):
        return x._value if own_of(x) is None else plain(own_of(x))
    kind = type(x)
    if kind is tuple or kind is list or kind is torch.Size:
        return kind([plain(v) for v in x])
    if is_named_tuple(kind):
        return kind._make(map(plain, x))  # type: ignore[attr-defined]
    if issubclass(kind, dict):
        return mapped_table(x, plain)
    if kind is slice:
        return slice(plain(x.start), plain(x.stop), plain(x.step))
    return x


def overridden(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record a function of torch's, as `__torch_function__` names it."""
    if not torch.overrides.is_tensor_method_or_property(func):
        return trace.call_function(func, args, kwargs)
    name = func.__name__
    if name == "__get__":  # a property such as Tensor.T
        return trace.record("call_function", getattr, (args[0], func.__self__.__name__), {})
    if name in _OPERATORS:
        return trace.record("call_function", _OPERATORS[name], args, kwargs)
    return trace.record("call_method", name, args, kwargs)


def of_own(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call on a tensor of the model's that code did not get from its module, as one on its proxy."""
    name = func.__name__
    if name in ("__get__", "__set__"):
        of = func.__self__.__name__
        return getattr(args[0], of) if name == "__get__" else setattr(args[0], of, args[1])
    if name.startswith("__") and hasattr(type(args[0]), name):
        return getattr(args[0], name)(*args[1:], **kwargs)
    return overridden(trace, func, args, kwargs)


def past(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call on proxies that have outlived their trace: sizes are numbers.

    Raises:
        RuntimeError: one of them stands for a tensor, which has no values.
    """
    args, kwargs = plain(args), plain(kwargs)
    if any(isinstance(x, Tensor) and x.is_meta for x in pytree.tree_leaves((args, kwargs))):
        raise RuntimeError("a tensor is left over from planning this model: its forward keeps tensors in a global")
    return fn(*args, **kwargs)


def find_trace(x: Any) -> Trace | None:
    """The trace of the first proxy found in an argument structure, or None."""
    if is_proxy(x):  # an object that was assigned to, too
        return x._trace  # type: ignore[no-any-return]
    kind = type(x)
    if kind is slice:
        x = (x.start, x.stop, x.step)
    elif issubclass(kind, dict):
        x = x.values()
    elif kind is not tuple and kind is not list and kind is not torch.Size and not is_named_tuple(kind):
        return None
    for part in x:
        if type(part) not in PLAIN and (found := find_trace(part)) is not None:
            return found
    return None


_OPERATORS = {"__getitem__": operator.getitem, "__setitem__": setitem}  # those that no method of torch's names


def _binary(fn: Callable[..., Any], reflected: bool) -> Callable[..., Any]:
    def method(self: Proxy, other: Any) -> Any:
        if other is None:
            return NotImplemented
        turned = reflected and not (fn is operator.mul and isinstance(other, Tensor))  # torch's own is the product
        args = (other, self) if turned else (self, other)
        return self._trace.record("call_function", fn, args, {})

    return method


def _inplace(fn: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Proxy, other: Any) -> Any:
        self._trace.record("call_function", fn, (self, other), {})
        return self  # Python rebinds the name to what is returned: the same handle, now at the new node

    return method


def _unary(fn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self: self._trace.record("call_function", fn, (self,), {})


_ARITHMETIC = "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift".split()
_COMPARISON = "eq ne lt le gt ge".split()
for _kind in (TensorProxy, NumberProxy):
    for _name in _ARITHMETIC:
        _bare = _name.rstrip("_")
        setattr(_kind, f"__{_bare}__", _binary(getattr(operator, _name), reflected=False))
        setattr(_kind, f"__r{_bare}__", _binary(getattr(operator, _name), reflected=True))
        if _kind is TensorProxy:
            setattr(_kind, f"__i{_bare}__", _inplace(getattr(operator, f"i{_bare}")))
    for _name in _COMPARISON:
        setattr(_kind, f"__{_name}__", _binary(getattr(operator, _name), reflected=False))
    for _name in ("neg", "pos", "abs", "invert"):
        setattr(_kind, f"__{_name}__", _unary(getattr(operator, _name)))


def _of_value(name: str) -> property:
    return property(lambda self: Proxy.__getattr__(self, name))


# What a symbolic number of torch's has, and ours must ask its value for.
for _kind in (IntProxy, FloatProxy):
    for _name in set(dir(_kind)) - set(dir(NumberProxy)) - {"node"}:
        if not _name.startswith("_"):
            setattr(_kind, _name, _of_value(_name))
