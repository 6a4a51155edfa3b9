"""Shadow modules: clones whose calls go to the tracer, and whose tensors are proxies made on first use."""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from fxteleport.passes.capture import training_mode
from fxteleport.passes.capture.exported_modules import without_checks
from fxteleport.passes.graph.leaf_modules import is_leaf
from fxteleport.passes.graph.module_clone import clone
from fxteleport.passes.graph.settings import note_reads

if TYPE_CHECKING:
    from fxteleport.passes.capture.tracer import Tracer


def shadow(tracer: Tracer, module: nn.Module, path: str, training: bool) -> nn.Module:
    """The clone of a module that records what its forward does."""
    made = clone(
        module,
        lambda name, _: _Lazy(tracer, name),
        path,
        class_of=functools.partial(_traced_class, tracer),
        table=functools.partial(Table, tracer),
        training=training,
    )
    without_checks(made)
    return made


def path_of(module: nn.Module) -> str:
    """The dotted name that a clone carries."""
    return str(module.__dict__["_path"])


def reassigned(module: nn.Module) -> dict[str, Any]:
    """What forward has put in the place of a clone's own parameters and buffers, by their dotted names."""
    path = module.__dict__.get("_path")
    if path is None:
        return {}
    tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
    found = [(name, x) for table in tables for name, x in dict.items(table) if type(x) is not _Lazy and x is not None]
    return {f"{path}.{name}" if path else name: x for name, x in found}


class _Lazy:
    """Stands in a clone's table for a tensor whose proxy is made on first use."""

    __slots__ = ("name", "tracer")

    def __init__(self, tracer: Tracer, name: str) -> None:
        self.tracer, self.name = tracer, name


def holds_its_own(module: nn.Module) -> bool:
    """True where a shadow's parameters and buffers are those that it was made with."""
    return all(table.is_its_own() for table in (module._parameters, module._buffers) if type(table) is Table)


class Table(dict):  # type: ignore[type-arg]
    """A module's parameter or buffer table that turns `_Lazy` entries into proxies when they are read.

    Assignments are noted; a tensor of its own that is put back (by `torch.func.functional_call`) is one again.
    """

    def __init__(self, tracer: Tracer, given: dict[str, Any]) -> None:
        super().__init__(given)
        self._tracer, self._given = tracer, given

    def is_its_own(self) -> bool:
        return len(self) == len(self._given) and all(map(operator.is_, dict.values(self), self._given.values()))

    def __setitem__(self, key: str, value: Any) -> None:
        own = self._given.get(key)
        if type(own) is _Lazy and value is not None and value is self._tracer.read(own.name):
            value = own
        if value is not dict.get(self, key, self):
            self._tracer.writes.note(self, key)
            dict.__setitem__(self, key, value)

    def __delitem__(self, key: str) -> None:
        self._tracer.writes.note(self, key)
        dict.__delitem__(self, key)

    def pop(self, key: str, *default: Any) -> Any:
        value = self.get(key, *default) if key in self or default else self[key]
        if key in self:
            del self[key]
        return value

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __getitem__(self, key: str) -> Any:
        value = dict.__getitem__(self, key)
        return value.tracer.attribute(value.name) if type(value) is _Lazy else value

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 it is this method

    def items(self) -> Any:
        return [(k, self[k]) for k in self]

    def values(self) -> Any:
        return [self[k] for k in self]


class _TracedCall:
    """Mixed into the class of every shadow module: a call goes to the tracer."""

    _tracer: Tracer

    def __init_subclass__(cls) -> None:
        """A shadow is no class of the user's: a base that registers or checks its subclasses is not told of it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "training":
            self._tracer.writes.note(vars(self), name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._tracer.writes.note(vars(self), name)
        super().__delattr__(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = super().__call__  # type: ignore[misc]
        if _is_made_by_forward(self):
            return forward(*args, **kwargs)
        return self._tracer.call_module(self, forward, args, kwargs)  # type: ignore[arg-type]


def _is_made_by_forward(module: Any) -> bool:
    """True for a module that is no clone, though of the class of one: a slice of a `Sequential`, say."""
    return "_path" not in module.__dict__


def _traced_class(tracer: Tracer, module: nn.Module) -> type:
    cls = type(module)
    found = tracer.shadows.get(cls)
    if found is None:
        members: dict[str, Any] = {name: _helper(fn) for name, fn in _helpers(cls).items()}
        members |= {"_tracer": tracer, "__module__": cls.__module__}
        if not any("training" in vars(c) for c in cls.__mro__):
            members["training"] = training_mode.attribute(tracer)
        found = tracer.shadows[cls] = type(cls.__name__, (_TracedCall, cls), members)
    elif is_leaf(module):  # all of one class have the same attributes
        return found
    note_reads(found, module)
    return found


def _helpers(cls: type) -> dict[str, Any]:
    """The methods that a user's class adds to `nn.Module`."""
    own = [c for c in cls.__mro__ if issubclass(c, nn.Module) and not c.__module__.startswith("torch.")]
    return {
        name: member
        for c in reversed(own)
        for name, member in vars(c).items()
        if isinstance(member, types.FunctionType) and name != "forward" and not name.startswith("__")
    }


def _helper(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_made_by_forward(self):
            return fn(self, *args, **kwargs)
        return self._tracer.call_helper(self, fn, args, kwargs)

    return method
