"""The proxy of a tensor."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from fxteleport.passes.capture.control_flow import DataDependent
from fxteleport.passes.capture.proxy.access import is_proxy
from fxteleport.passes.capture.proxy.base import NumericProxy
from fxteleport.passes.capture.proxy.overriding import Overriding
from fxteleport.passes.graph.ops import setitem
from fxteleport.passes.graph.storage import is_same

_FEW = 64  # numbers, each with a guard


class TensorProxy(Overriding, NumericProxy):
    """A tensor. Code may set new attributes on it, as on any tensor."""

    __slots__ = ("__dict__", "__weakref__")  # torch's recurrent layers refer to their weights weakly

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data" and is_proxy(value) and is_same(self._value, value._value):
            return  # `x.data *= y` assigns the tensor that it has written to
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
        size = self._trace.record("call_method", "size", (self, 0), {})
        return self._trace.values.length(size) if is_proxy(size) else int(size)

    def __iter__(self) -> Iterator[Any]:
        if not self._trace.lengths.takes_apart():
            len(self)
        return iter(self._trace.record("call_method", "unbind", (self, 0), {}))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """For numpy's functions: the values of a tensor that is computed from sizes, with guards on them.

        The same holds for integers and booleans that the example inputs alone decide.
        """
        has_fractions = self._value.is_floating_point() or self._value.is_complex()
        if self._value.is_meta and (has_fractions or self._value.numel() > _FEW):
            raise DataDependent(f"an array is made of '{self._node.name}', whose values depend on the data")
        numbers = self._trace.record("call_method", "tolist", (self,), {})
        plain = pytree.tree_map(lambda x: x.__array__() if is_proxy(x) else x, numbers)
        return np.asarray(plain, dtype=dtype or torch.empty(0, dtype=self._value.dtype, device="cpu").numpy().dtype)

    def register_hook(self, hook: Callable[..., Any]) -> Any:
        return self._trace.hook_gradient(self, hook)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Recorded, but of a parameter: no node would set it before another one reads it.

        Raises:
            RuntimeError: it is a parameter.
        """
        if self._trace.tensors.is_parameter(self):
            raise RuntimeError("its forward changes which parameters are trained")
        return self._trace.record("call_method", "requires_grad_", (self, requires_grad), {})

    def retain_grad(self) -> None:
        """Ignored: no value depends on it."""

    def __hash__(self) -> int:
        return id(self)
