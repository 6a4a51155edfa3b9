"""Streams: iterators, generators and sources of random numbers. Each run of a model takes the next items.

The clone of a module has copies of its streams, at the same position, so that neither takes items from the other.
"""

from __future__ import annotations

import collections.abc
import copy
import random
import types
import weakref
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch

from fxteleport.passes.errors import ModelError
from fxteleport.passes.graph.class_cache import once_per_class

_SOURCES = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator)


@once_per_class
def is_iterator(kind: type) -> bool:
    """True for a class of Python's own iterators. A user's iterator counts as an ordinary object."""
    if kind in weakref.ProxyTypes or not issubclass(kind, collections.abc.Iterator):  # those have all methods
        return False
    return not hasattr(kind, "__slots__") and "__dict__" not in dir(kind)


@once_per_class
def is_source(kind: type) -> bool:
    """True for a class of sources of random numbers."""
    return issubclass(kind, _SOURCES)


def position(source: Any) -> Any:
    """The state of a source of random numbers."""
    if isinstance(source, torch.Generator):
        return source.get_state()
    if isinstance(source, random.Random):
        return source.getstate()
    return copy.deepcopy(source.get_state() if isinstance(source, np.random.RandomState) else _bits(source).state)


def is_at(source: Any, state: Any) -> bool:
    """True where a source is still in this state."""
    now = position(source)
    if isinstance(source, torch.Generator):
        return torch.equal(now, state)
    return bool(now == state) if isinstance(source, random.Random) else repr(now) == repr(state)


def put(source: Any, state: Any) -> None:
    """Put a source back into an earlier state."""
    if isinstance(source, torch.Generator):
        source.set_state(state)
    elif isinstance(source, random.Random):
        source.setstate(state)
    elif isinstance(source, np.random.RandomState):
        source.set_state(state)
    else:
        _bits(source).state = state


def copied(stream: Any) -> Any:
    """A copy of a stream, which gives the same items and leaves the original where it is."""
    if isinstance(stream, torch.Generator):
        made = torch.Generator(stream.device)
        made.set_state(stream.get_state())
        return made
    if isinstance(stream, types.GeneratorType):
        return _NoCopy()
    try:
        return copy.deepcopy(stream)
    except Exception:  # it leads to a generator, or to what is written in C
        return _NoCopy()


def _bits(source: Any) -> Any:
    return source.bit_generator if isinstance(source, np.random.Generator) else source


class _NoCopy:
    """Stands in for a generator, which cannot be copied: taking an item raises."""

    def __iter__(self) -> _NoCopy:
        return self

    def __next__(self) -> NoReturn:
        raise ModelError(
            "its forward takes the next item of a generator, which cannot be copied: hold a list, or an iterator of"
            " itertools, instead"
        )


class Watched:
    """Stands in for an iterator while a forward is traced: taking an item raises."""

    def __init__(self, iterator: Any, refusal: Callable[[], Exception]) -> None:
        self.iterator, self._refusal = iterator, refusal

    def __iter__(self) -> Watched:
        return self

    def __next__(self) -> NoReturn:
        raise self._refusal()
