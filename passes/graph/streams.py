"""Streams: iterators, generators and sources of random numbers, of which each run of a model takes what comes next.

A copy of a module has streams of its own, where the module's are now, so that neither takes from the other.
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
    """True for a class of iterators of Python's own; one of the user's has objects like any other."""
    if kind in weakref.ProxyTypes or not issubclass(kind, collections.abc.Iterator):  # those have all methods
        return False
    return not hasattr(kind, "__slots__") and "__dict__" not in dir(kind)


@once_per_class
def is_source(kind: type) -> bool:
    """True for a class of sources of random numbers."""
    return issubclass(kind, _SOURCES)


def position(source: Any) -> Any:
    """Where a source of random numbers is."""
    if isinstance(source, torch.Generator):
        return source.get_state()
    if isinstance(source, random.Random):
        return source.getstate()
    return copy.deepcopy(source.get_state() if isinstance(source, np.random.RandomState) else _bits(source).state)


def is_at(source: Any, place: Any) -> bool:
    """True where a source is still at a place."""
    now = position(source)
    if isinstance(source, torch.Generator):
        return torch.equal(now, place)
    return bool(now == place) if isinstance(source, random.Random) else repr(now) == repr(place)


def put(source: Any, place: Any) -> None:
    """Put a source back to a place."""
    if isinstance(source, torch.Generator):
        source.set_state(place)
    elif isinstance(source, random.Random):
        source.setstate(place)
    elif isinstance(source, np.random.RandomState):
        source.set_state(place)
    else:
        _bits(source).state = place


def copied(stream: Any) -> Any:
    """A stream that gives what another would, and is none of the user's."""
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
    """In the place of a generator, which cannot be copied."""

    def __iter__(self) -> _NoCopy:
        return self

    def __next__(self) -> NoReturn:
        raise ModelError(
            "its forward takes the next item of a generator, which cannot be copied: hold a list, or an iterator of"
            " itertools, instead"
        )


class Watched:
    """In the place of an iterator while a forward is traced, which may not take an item."""

    def __init__(self, iterator: Any, refusal: Callable[[], Exception]) -> None:
        self.iterator, self._refusal = iterator, refusal

    def __iter__(self) -> Watched:
        return self

    def __next__(self) -> NoReturn:
        raise self._refusal()
