"""Held objects: what a forward changes in objects that its modules refer to, and what it takes from streams.

Modules are traced as clones, which have copies of lists and dictionaries, but share other objects with the user's
modules. So the content of such an object is noted where a trace first reads it, and restored when the trace ends. Where
it was changed, the next run may compute something else (`next_run.py`); a run that takes an item of a stream always
does.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from fxteleport.passes.capture.control_flow import NextRunDiffers
from fxteleport.passes.capture.model_tensors import named_tensors
from fxteleport.passes.capture.recording_mode import unrecorded
from fxteleport.passes.errors import CaptureError
from fxteleport.passes.graph import arrays, streams
from fxteleport.passes.graph.code_state import state_of
from fxteleport.passes.graph.contents import FILLED
from fxteleport.passes.graph.holders import (
    Held,
    ShadowedClass,
    are_same,
    contents_of,
    holds_fields,
    leading_to,
    put_back,
)
from fxteleport.passes.graph.module_clone import BOOKKEEPING, COPIED
from fxteleport.passes.graph.structure import PLAIN

Place = tuple[str, str]  # a module's path, and the name of its attribute


@dataclass
class _Held:
    """An object with its content before the trace.

    Attributes:
        before: what it held; for a source of random numbers its state, for an array a copy.
        of_clone: the clone of a module has a copy of it.
        holders: what refers to it: ids of objects, and attributes of modules.
    """

    x: Any
    before: Any
    of_clone: bool
    holders: set[int | Place] = field(default_factory=set)

    @property
    def now(self) -> Held:
        held = contents_of(self.x)
        return {key: v.iterator if type(v) is streams.Watched else v for key, v in held.items()}

    @property
    def is_source(self) -> bool:
        return streams.is_source(type(self.x))

    @property
    def is_array(self) -> bool:
        return arrays.is_array(type(self.x))

    def is_changed(self) -> bool:
        if self.is_array:
            return not arrays.still_holds(self.x, self.before)
        return not (streams.is_at(self.x, self.before) if self.is_source else are_same(self.now, self.before))

    def put_back(self) -> None:
        """Restore its content."""
        if self.is_source:
            streams.put(self.x, self.before)
        elif self.is_array:
            arrays.put_into(self.x, self.before)
        elif not are_same(contents_of(self.x), self.before):
            put_back(self.x, self.before)


@dataclass(frozen=True)
class Left:
    """What a run has changed in the user's objects.

    Attributes:
        objects: the changed objects, with their contents before and after.
        arrays: the changed arrays, likewise.
        places: attributes whose lists or dictionaries (the clone's copies) hold a changed object at some depth.
        owners: the modules that refer to any of these.
        carriers: the objects, and those that refer to them: a copy of a module needs copies of these.
        differs: the next run computes something else in any case: it takes the next item of a stream.
        shared: a changed object that a copy of the model would still share, in words; or "".
    """

    objects: tuple[tuple[Any, Held, Held], ...] = ()
    arrays: tuple[tuple[Any, Any, Any], ...] = ()
    places: frozenset[Place] = frozenset()
    owners: frozenset[str] = frozenset()
    carriers: tuple[Any, ...] = ()
    differs: bool = False
    shared: str = ""

    def __bool__(self) -> bool:
        return bool(self.owners)

    def require_own(self) -> None:
        """Raise CaptureError where a copy of the model would share a changed object."""
        if self.shared:
            raise CaptureError(
                f"its forward changes {self.shared}, and may compute something else in the next run: no network has one"
                " of its own. Keep it in the module"
            )

    def with_values(self, stand_in: Callable[[Any], Any]) -> Left:
        """The same with what stands for the values that are new in the objects."""
        if not self.objects:
            return self
        return replace(self, objects=tuple((x, old, _changed(old, now, stand_in)) for x, old, now in self.objects))

    def leave(self, found: Callable[[Any], Any]) -> None:
        """Give the objects the contents that the run has left.

        Args:
            found: gives what the next run finds in place of a new value.
        """
        for x, _, now in self.arrays:
            arrays.put_into(x, now)
        for x, before, now in self.objects:
            put_back(x, _changed(before, now, found))

    def undo(self) -> None:
        """Give the objects their contents before the run."""
        for x, before, _ in self.arrays:
            arrays.put_into(x, before)
        for x, before, _ in self.objects:
            put_back(x, before)


def _changed(before: Held, now: Held, new: Callable[[Any], Any]) -> Held:
    """What an object holds now, with others in the place of the values that it did not hold before."""
    return {key: v if key in before and before[key] is v else new(v) for key, v in now.items()}


class HeldObjects:
    """The objects that one trace has read of modules.

    Args:
        parts: the model's modules by path.
        names: of its parameters and buffers, by their ids: those are no state of Python's.
        refuses: what asks an iterator for its next item gets an error.

    Attributes:
        refused: the error that was raised where code took an item of an iterator, in case that code has caught it.
    """

    def __init__(self, parts: Mapping[str, nn.Module], names: Mapping[int, str], refuses: bool = True) -> None:
        self._parts, self._names, self._refuses = parts, names, refuses
        self.refused: NextRunDiffers | None = None
        self._held: dict[int, _Held] = {}
        self._stand_ins: list[tuple[int, streams.Watched]] = []  # with the iterators' ids

    @unrecorded
    def read(self, path: str, name: str, value: Any) -> Any:
        """Note that an attribute of a module is read; returns what the trace gets for it."""
        if streams.is_iterator(type(value)):
            return self._watched(value, (path, name))
        waiting: list[tuple[Any, int | Place, bool]] = [(value, (path, name), True)]
        while waiting:
            x, holder, of_clone = waiting.pop()
            if type(x) in PLAIN:
                continue
            if id(x) not in self._held and not self._note(x, of_clone and type(x) in COPIED):
                continue
            known = self._held[id(x)]
            is_new = not known.holders
            known.holders.add(holder)
            if is_new and not (known.is_source or known.is_array):
                waiting += [(v, id(x), known.of_clone) for v in known.before.values()]
        return value

    def read_code(self, cls: type, shadow: type) -> None:
        """Note the state of a class's code, which will run on objects of the shadow class."""
        for x in (*state_of(cls), ShadowedClass(cls, shadow, frozenset(vars(shadow)))):
            self.read("", _CODE, x)

    def _note(self, x: Any, of_clone: bool) -> bool:
        """Note the content of an object; False where it has none."""
        if streams.is_source(type(x)):
            self._held[id(x)] = _Held(x, streams.position(x), of_clone)
            return True
        if arrays.is_array(type(x)):
            held = None if id(x) in self._names else arrays.held_by(x)
            if held is not None:
                self._held[id(x)] = _Held(x, held, of_clone)
            return held is not None
        contents = contents_of(x)
        if not contents and type(x) is not ShadowedClass and not _may_fill(type(x)):
            return False
        self._held[id(x)] = _Held(x, contents, of_clone)
        iterators = {key: self._watched(v, id(x)) for key, v in contents.items() if streams.is_iterator(type(v))}
        if iterators and self._refuses and isinstance(x, _FIXED):
            raise self._refusal(id(x))
        if iterators and self._refuses:
            put_back(x, contents | iterators)
        return True

    def _watched(self, iterator: Any, holder: int | Place) -> Any:
        if not self._refuses:
            return iterator
        known = self._held.setdefault(id(iterator), _Held(iterator, {}, False))
        known.holders.add(holder)
        stand_in = streams.Watched(iterator, lambda: self._refusal(id(iterator)))
        self._stand_ins.append((id(iterator), stand_in))
        return stand_in

    def _refusal(self, held: int) -> Exception:
        left = self._left_in([self._held[held]])
        self.refused = NextRunDiffers(left.owners, left.carriers)
        return self.refused

    def left(self) -> Left:
        """What the run has changed in objects."""
        return self._left_in([held for held in self._held.values() if held.is_changed()])

    def _left_in(self, changed: list[_Held]) -> Left:
        deeper = [h for h in changed if not (h.of_clone and all(type(holder) is tuple for holder in h.holders))]
        if not deeper:
            return Left()
        places = {id(h): self._places(h) for h in deeper}
        ids = {id(h.x) for h in deeper}
        ids |= {id(stand_in) for iterator, stand_in in self._stand_ins if iterator in ids}
        carriers: list[Any] = []
        owners: set[str] = set()
        for path, module in self._parts.items():
            held = [v for k, v in vars(module).items() if k not in BOOKKEEPING and type(v) not in PLAIN]
            leading = leading_to(held, ids) if held else []
            carriers += leading
            if leading:
                owners.add(path)
        for h in deeper:
            owners |= {path for path, _ in places[id(h)]}
        return Left(
            tuple((h.x, h.before, h.now) for h in deeper if not (h.is_source or h.is_array or h.of_clone)),
            tuple((h.x, h.before, arrays.copied(h.x)) for h in deeper if h.is_array),
            frozenset(place for h in deeper if h.of_clone for place in places[id(h)]),
            frozenset({_common(owners)}),
            tuple(carriers),
            any(h.is_source for h in deeper),
            next((_said(h) for h in deeper if ("", _CODE) in places[id(h)]), "") or self._sharing(deeper),
        )

    def _sharing(self, changed: list[_Held]) -> str:
        """A changed array that shares memory with another, which copies would not, in words; or ""."""
        written = [h.x for h in changed if h.is_array]
        if not written:
            return ""
        others = [h.x for h in self._held.values() if h.is_array]
        others += [t for _, t in named_tensors(self._parts) if t.layout is torch.strided and not t.is_meta]
        shared = (x for x in written for y in others if x is not y and arrays.overlap(x, y))
        return next((f"a {type(x).__name__} in the memory of another array" for x in shared), "")

    def _places(self, held: _Held) -> set[Place]:
        """The attributes of modules from which an object can be reached."""
        found: set[Place] = set()
        waiting, seen = [held], set()
        while waiting:
            for holder in waiting.pop().holders:
                if isinstance(holder, tuple):
                    found.add(holder)
                elif holder not in seen:
                    seen.add(holder)
                    waiting.append(self._held[holder])
        return found

    @unrecorded
    def restore(self) -> None:
        """Restore all objects."""
        for held in reversed(self._held.values()):  # of arrays that share memory, the first was noted unchanged
            if held.of_clone:
                continue
            held.put_back()


def _said(held: _Held) -> str:
    """A changed object in a few words."""
    keys = [k for k in held.now if k not in held.before or held.now[k] is not held.before[k]]
    name = next((k if type(k) is str else repr(k[1]) for k in keys), "")
    of = getattr(held.x, "of", held.x)
    where = of.__qualname__ if isinstance(of, (type, types.FunctionType)) else type(of).__name__
    where = of.get("__name__", where) if isinstance(of, dict) else where
    return (f"{name} of {where}" if name else f"a {where}") + ", which the whole program shares"


def _may_fill(kind: type) -> bool:
    """True for a class whose objects are mutable, so that an empty one may be filled."""
    return issubclass(kind, FILLED) or kind is types.FunctionType or holds_fields(kind)


_CODE = "<code>"
_FIXED = (tuple, frozenset, functools.partial, types.MethodType)  # immutable


def _common(paths: Iterable[str]) -> str:
    """The path of the innermost module that contains all of these."""
    first, *others = [path.split(".") for path in paths]
    for other in others:
        same = [a == b for a, b in zip(first, other, strict=False)]
        first = first[: same.index(False) if False in same else len(same)]
    return ".".join(first)
