"""Meta tensors and the real tensors that belong to them, in any structure of arguments.

Most meta tensors have a shape and a type alone. One of integers or booleans (lengths, indices) keeps an example of its
values, from the example inputs or computed from them, since later operations may fail on other values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from fxteleport.passes.graph.containers import kind_of, mapped
from fxteleport.passes.graph.storage import memory
from fxteleport.passes.graph.structure import PLAIN, is_object, with_fields

META = torch.device("meta")
CPU = torch.device("cpu")


class MetaValues:
    """What is known of the meta tensors of one capture: their examples, and the constants that they stand for."""

    def __init__(self) -> None:
        self.has_examples = False  # of any tensor, so far
        self._examples = WeakIdKeyDictionary()
        self._stand_ins = WeakIdKeyDictionary()  # real tensor that was used with meta tensors -> its meta tensor

    def stand_in(self, given: Any) -> Any:
        """A meta tensor in place of an input's real one."""
        if not isinstance(given, Tensor):
            return given
        meta = given.detach().to(META)
        if not (given.is_meta or given.is_floating_point() or given.is_complex()):
            self.remember(meta, given.detach().cpu())
        return meta

    def constant(self, tensor: Tensor) -> Tensor:
        """The meta tensor that stands for a constant: always the same one, so that writes into views are noticed."""
        if tensor not in self._stand_ins:
            self._stand_ins[tensor] = self.stand_in(tensor)
        return self._stand_ins[tensor]  # type: ignore[no-any-return]

    def memory_of(self, tensor: Tensor) -> set[int]:
        """The memory that a tensor, and its stand-in on the meta device, lie in."""
        both = (tensor, self._stand_ins.get(tensor))
        return set().union(*(memory(t) for t in both if t is not None))

    def has_example(self, tensor: Tensor) -> bool:
        """True for a meta tensor that keeps an example of its values."""
        return self.has_examples and not tensor.dtype.is_floating_point and tensor in self._examples

    def is_at_hand(self, x: Any) -> bool:
        """True for a meta tensor with an example of its values."""
        return not isinstance(x, Tensor) or not x.is_meta or self.has_example(x)

    def remember(self, tensor: Tensor, example: Tensor) -> None:
        """Keep an example of a meta tensor's values."""
        self.has_examples = True
        self._examples[tensor] = example

    def made_up(self, fill: Callable[..., Tensor], x: Any, integer: int = 0) -> Any:
        """A new real CPU tensor in place of a meta one: filled by `fill`, or for integers and booleans its example.

        Integers without an example are `integer`: 0 is a valid index of any axis. Of booleans two in three are true on
        the first run, so that they select neither nothing nor all.
        """
        if not isinstance(x, Tensor):
            return x
        if not x.is_meta:
            return x.detach().clone()
        if not x.is_floating_point():
            example: Tensor | None = self._examples.get(x)
            if example is not None:
                return example.clone()
            if x.dtype is torch.bool and fill is not torch.zeros:
                return (torch.arange(x.numel()) % 3 < 2).view(x.shape)
            return torch.full(x.shape, integer, dtype=x.dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if x.layout is torch.strided and x.numel() and not x.is_contiguous() and 0 not in x.stride():
                length = 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
                flat = fill((length,), dtype=torch.float32).to(x.dtype)
                return flat.as_strided(x.shape, x.stride())  # some views fail on it
            made = fill(x.shape, dtype=torch.float32).to(x.dtype)
        return made if x.layout is torch.strided else made.to_sparse(layout=x.layout)


def tree_map(fn: Callable[[Any], Any], x: Any) -> Any:
    """`fn` of the leaves of a structure: of containers, objects, and classes that are registered with pytree."""
    if type(x) in PLAIN or type(x) is Tensor:
        return fn(x)
    inner = functools.partial(tree_map, fn)
    if kind_of(type(x)) is not None:
        return mapped(x, inner)
    if not isinstance(x, Tensor) and is_object(x):  # a class's registration with pytree may omit attributes
        return with_fields(x, {name: inner(value) for name, value in vars(x).items()})
    registered = type(x) in pytree.SUPPORTED_NODES
    return pytree.tree_map(inner, x, is_leaf=lambda part: part is not x) if registered else fn(x)


def to_meta(x: Any) -> Any:
    """A meta tensor in place of a real one that carries a CoB (floating point or complex)."""
    if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex()):
        return x.detach().to(META)
    return x
