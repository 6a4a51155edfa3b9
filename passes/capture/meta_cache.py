"""A cache of evaluated calls: the same operation on the same shapes and types gives the same shapes and types.

torch runs many operations on meta tensors in Python (a batch norm takes a millisecond), and a deep network repeats its
layers. So of calls with the same signature (operation, shapes, types, other arguments) one is evaluated. The others get
a result like it: new tensors, views of an argument, an argument itself (an in-place operation, a dropout in eval mode),
or a plain value such as a shape. Calls with other results are evaluated each time, and so are calls on real tensors,
whose values may matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.utils import _pytree as pytree

from fxteleport.passes.capture.meta_eval import Evaluator
from fxteleport.passes.capture.meta_values import META, MetaValues
from fxteleport.passes.capture.patching import among_plain_values
from fxteleport.passes.graph.leaf_modules import hooked
from fxteleport.passes.graph.module_clone import PATH
from fxteleport.passes.graph.node_info import Trust
from fxteleport.passes.graph.structure import PLAIN


class Memo:
    """Evaluates calls, each signature once."""

    def __init__(self) -> None:
        self._evaluator = Evaluator()
        self._known: dict[Any, _Form] = {}

    @property
    def values(self) -> MetaValues:
        """What is known of the meta tensors among arguments and results."""
        return self._evaluator.values

    def run(
        self,
        op: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        real: Callable[..., Any] | None = None,
    ) -> tuple[Any, Trust]:
        """As `Evaluator.run`."""
        tensors: list[Tensor] = []
        try:
            what = _settings(target, tensors) if op == "call_module" else target
            key = op, what, _form(args, tensors), _form(kwargs, tensors)
            if self.values.has_examples and any(map(self.values.has_example, tensors)):
                raise _Unlike
            known = self._known.get(key)
        except (_Unlike, TypeError):  # a TypeError: something has no hash
            return self._evaluator.run(op, target, args, kwargs, real)
        if known is not None and known.holds(tensors):
            return known.again(tensors), Trust.KNOWN
        versions, forms = [t._version for t in tensors], [(t.shape, t.stride()) for t in tensors]
        value, trust = among_plain_values(self._evaluator.run, op, target, args, kwargs, real)
        if trust is Trust.KNOWN and forms == [(t.shape, t.stride()) for t in tensors]:
            written = [i for i, t in enumerate(tensors) if t._version != versions[i]]
            learned = next((f for kind in _KINDS if (f := kind.learn(value, tensors, written)) is not None), None)
            if learned is not None:
                self._known[key] = learned
        return value, trust


@dataclass(frozen=True, slots=True)
class _New:
    """A result of new tensors, alone or in tuples and lists, which share no memory with others."""

    structure: pytree.TreeSpec | None  # None for a tensor alone
    forms: list[tuple[Sequence[int], Sequence[int], torch.dtype]]

    @classmethod
    def learn(cls, value: Any, tensors: Sequence[Tensor], written: Sequence[int]) -> _New | None:
        parts, structure = pytree.tree_flatten(value) if type(value) in (tuple, list) else ([value], None)
        if written or not all(map(_is_plain, parts)):
            return None
        made = _storages(parts)
        if len(made) != len(parts) or not made.isdisjoint(_storages(tensors)):
            return None
        return cls(structure, [(t.shape, t.stride(), t.dtype) for t in parts])

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        return True

    def again(self, tensors: Sequence[Tensor]) -> Any:
        parts = [torch.empty_strided(shape, stride, dtype=dtype, device=META) for shape, stride, dtype in self.forms]
        return parts[0] if self.structure is None else pytree.tree_unflatten(parts, self.structure)


@dataclass(frozen=True, slots=True)
class _Given:
    """A result that is an argument, which the call may have written to."""

    number: int
    written: bool

    @classmethod
    def learn(cls, value: Any, tensors: Sequence[Tensor], written: Sequence[int]) -> _Given | None:
        number = next((i for i, t in enumerate(tensors) if t is value), None)
        if number is None or written not in ([], [number]):
            return None
        found = cls(number, bool(written))
        return found if found.holds(tensors) else None

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """True unless an argument that is written to shares memory with others."""
        return not self.written or len(_storages(tensors)) == len(tensors)

    def again(self, tensors: Sequence[Tensor]) -> Any:
        if self.written:
            increment_version(tensors[self.number])
        return tensors[self.number]


@dataclass(frozen=True, slots=True)
class _Views:
    """A result that is a view of an argument, or a tuple or a list of them."""

    number: int
    kind: type
    forms: list[tuple[Sequence[int], Sequence[int], int]]

    @classmethod
    def learn(cls, value: Any, tensors: Sequence[Tensor], written: Sequence[int]) -> _Views | None:
        parts = value if type(value) in (tuple, list) else [value]
        if written or not parts or not all(map(_is_plain, parts)):
            return None
        memory = parts[0].untyped_storage()._cdata
        viewed = [i for i, t in enumerate(tensors) if t.untyped_storage()._cdata == memory]
        if len(viewed) != 1 or _storages(parts) != {memory} or any(t.dtype != tensors[viewed[0]].dtype for t in parts):
            return None
        start = tensors[viewed[0]].storage_offset()
        return cls(viewed[0], type(value), [(t.shape, t.stride(), t.storage_offset() - start) for t in parts])

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        return True

    def again(self, tensors: Sequence[Tensor]) -> Any:
        viewed = tensors[self.number]
        start = viewed.storage_offset()
        parts = [viewed.as_strided(shape, stride, start + offset) for shape, stride, offset in self.forms]
        return parts[0] if self.kind is Tensor else self.kind(parts)


@dataclass(frozen=True, slots=True)
class _Value:
    """A result without a tensor: a shape, a size, a type."""

    value: Any

    @classmethod
    def learn(cls, value: Any, tensors: Sequence[Tensor], written: Sequence[int]) -> _Value | None:
        return cls(value) if type(value) in _PLAIN and not written else None

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        return True

    def again(self, tensors: Sequence[Tensor]) -> Any:
        return self.value


_Form = _New | _Given | _Views | _Value
_KINDS = (_Value, _Given, _New, _Views)


def _is_plain(x: Any) -> bool:
    return type(x) is Tensor and x.is_meta and x.layout is torch.strided


def _storages(tensors: Sequence[Tensor]) -> set[int]:
    return {t.untyped_storage()._cdata for t in tensors}


class _Unlike(Exception):
    """Calls of the same signature may differ: this one is not cached."""


_PLAIN = PLAIN | {torch.Size}
_BASE = frozenset(vars(nn.Module())) - {"training"} | {PATH}  # what every module has
_OTHER = _BASE | {"_flat_weights", "_flat_weight_refs"}  # and a recurrent one: its parameters in another order


def _form(x: Any, tensors: list[Tensor]) -> Any:
    """The part of a call's signature that an argument structure gives; its tensors are appended to `tensors`."""
    kind = type(x)
    if kind is Tensor or kind is nn.Parameter:
        if not x.is_meta or x.layout is not torch.strided or x.dtype.is_complex:
            raise _Unlike
        tensors.append(x)
        return x.shape, x.stride(), x.dtype
    if kind in _PLAIN:
        return kind, x  # 1, 1.0 and True are equal, and give other results
    if kind is tuple or kind is list:
        return kind, *((*x, *map(type, x)) if _PLAIN.issuperset(map(type, x)) else [_form(v, tensors) for v in x])
    if kind is dict:
        return kind, *[(k, _form(v, tensors)) for k, v in x.items()]
    if kind is slice:
        return kind, _form(x.start, tensors), _form(x.stop, tensors), _form(x.step, tensors)
    raise _Unlike


def _settings(module: nn.Module, tensors: list[Tensor]) -> Any:
    """The part of a call's signature that a torch layer gives."""
    cls, state = type(module), vars(module)
    if not cls.__module__.startswith("torch.nn.modules.") or hooked(module):
        raise _Unlike
    own = [
        (k, type(v), v) if type(v) in _PLAIN else (k, _form(v, tensors)) for k, v in state.items() if k not in _OTHER
    ]
    held = [(k, _form(t, tensors)) for table in (state["_parameters"], state["_buffers"]) for k, t in table.items()]
    return cls, *own, *held, *[(k, m and _settings(m, tensors)) for k, m in state["_modules"].items()]
