"""Structural clones of a module: the same objects and attributes, other tensors.

Capture and rewriting both need a model that is not the user's: capture runs `forward` on one whose
parameters are proxies or meta tensors, rewriting emits one whose parameters are scaled. A clone copies the
bookkeeping of each module (a few microseconds) and no tensor, so nothing that `forward` assigns and no
`eval()` reaches the user's model.
"""

from __future__ import annotations

import collections
import copy
import functools
import itertools
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from fxteleport.passes.graph import arrays, streams
from fxteleport.passes.graph.containers import items_of, refill
from fxteleport.passes.graph.reachable import Reached, fields_of
from fxteleport.passes.graph.structure import PLAIN

TensorMap = Callable[[str, Tensor], Any]


def clone(
    module: nn.Module,
    tensors: TensorMap,
    path: str = "",
    *,
    class_of: Callable[[nn.Module], type] = type,
    table: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    training: bool | None = None,
    beside: Reached | None = None,
) -> nn.Module:
    """A clone of `module` and everything below it.

    Args:
        tensors: (dotted name, tensor) -> what the clone holds in its place.
        path: dotted name of `module` in the model; every clone carries its own (`path_of`).
        class_of: the clone's class (the module's own by default).
        table: makes the clone's `_parameters` and `_buffers` dictionaries.
        training: the mode of the clones, or None to keep each module's own.
        beside: what the module's code can reach of the model outside itself; it is linked to clones of that, which it
            keeps alive. The objects that lead there are copied too.
    """
    twins = _Twins(beside.carriers if beside is not None else frozenset())
    by_path: Iterable[tuple[str, nn.Module]] = modules_of(module, path).items()
    if beside:
        by_path = itertools.chain(by_path, beside.modules.items())
        twins.update({id(tensor): tensors(name, tensor) for name, tensor in beside.tensors.items()})
    clones: list[nn.Module] = []
    for name, old in by_path:
        if id(old) in twins:  # a shared one, under its first name
            continue
        cls = class_of(old)
        twin: nn.Module = object.__new__(cls)
        twins[id(old)] = twin
        clones.append(twin)
        prefix = name + "." if name else ""
        state = dict(old.__dict__)
        for kind in ("_parameters", "_buffers"):
            own = {k: None if t is None else tensors(prefix + k, t) for k, t in state[kind].items()}
            for key, tensor in state[kind].items():
                if isinstance(own[key], Tensor):  # lists of them (an LSTM's `_flat_weights`) hold the clone's, too
                    twins.setdefault(id(tensor), own[key])
            state[kind] = table(own)
        if training is not None:
            state["training"] = training
        state[PATH] = name
        state.pop("_compiled_call_impl", None)  # of `module.compile()`: it is bound to the original
        registries = {name: empty() for name, empty in _REGISTRIES}
        for filled in filter(state.get, _NAMES_OF_REGISTRIES):
            registries[filled] = state[filled].copy()
        state.update(registries)
        object.__setattr__(twin, "__dict__", state)
    for twin in clones:
        state = twin.__dict__
        state["_modules"] = {k: twins.get(id(m)) for k, m in state["_modules"].items()}
        for key in list(itertools.filterfalse(BOOKKEEPING.__contains__, state)):
            value = state[key]
            if type(value) not in PLAIN and (
                type(value) in _REFERRING
                or id(value) in twins.carriers
                or id(value) in twins
                or _is_stream(type(value))
            ):
                state[key] = _relink(value, twins)
        for key in _HOOKS:
            if state[key]:
                state[key] = _relink(state[key], twins)
    root: nn.Module = twins[id(module)]
    if beside:
        root.__dict__[BESIDE] = clones
    return root


def modules_of(module: nn.Module, path: str = "") -> dict[str, nn.Module]:
    """Every module by its path, a shared one under each of its paths; in a third of `named_modules`' time."""
    by_path: dict[str, nn.Module] = {}
    _find(path, module, by_path)
    return by_path


def _find(path: str, module: nn.Module, by_path: dict[str, nn.Module]) -> None:
    by_path[path] = module
    if parts := module._modules:
        prefix = f"{path}." if path else ""
        for name, part in parts.items():
            if part is not None:
                _find(prefix + name, part, by_path)


def is_clone(module: nn.Module) -> bool:
    """True for a clone, and for what was copied from one."""
    return PATH in module.__dict__


def path_of(module: nn.Module) -> str:
    """The dotted name, in the model, of the module that a clone is of."""
    path: str = module.__dict__[PATH]
    return path


def linked_to(module: nn.Module) -> list[nn.Module]:
    """The clones of a module, of its parts, and of what its code reaches outside it."""
    clones: list[nn.Module] = module.__dict__.get(BESIDE, [])
    return clones


class _Twins(dict[int, Any]):
    """What takes the place of an object in clones, by the object's id."""

    def __init__(self, carriers: frozenset[int]) -> None:
        super().__init__()
        self.carriers = carriers  # the ids of objects that refer to what is cloned, and are cloned too


PATH, BESIDE = "_path", "_beside"  # attributes that clones have and other modules do not
BOOKKEEPING = frozenset(vars(nn.Module()))  # what every module has, its hooks among it
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# What is registered with a clone later (a hook, mostly) does not reach the user's module, nor the other way round.
_REGISTRIES = tuple(
    (name, type(held))
    for name, held in vars(nn.Module()).items()
    if isinstance(held, (dict, set)) and name not in ("_parameters", "_buffers", "_modules")
)
_NAMES_OF_REGISTRIES = [name for name, _ in _REGISTRIES]
_TABLES = frozenset({dict, collections.OrderedDict, collections.defaultdict})
_REFERRING = (
    frozenset({list, tuple, set, collections.deque, types.MethodType, types.FunctionType, functools.partial})
    | {weakref.ReferenceType}
    | _TABLES
)


COPIED = _TABLES | {list, tuple, set, collections.deque}  # of which every clone has its own


def linked(value: Any, modules: Mapping[int, nn.Module]) -> Any:
    """`value` with the modules that it refers to replaced, by their ids."""
    twins = _Twins(frozenset())
    twins.update(modules)
    return _relink(value, twins)


def _relink(value: Any, twins: _Twins) -> Any:
    """`value` with the modules it refers to outside `_modules` replaced by their clones.

    `twins` also remembers containers and functions, so that a hook and its module go on sharing a list.
    """
    kind = type(value)
    if kind in weakref.ProxyTypes:
        held = value.__repr__.__self__
        copied = _relink(held, twins)
        return value if copied is held else weakref.proxy(copied)
    if isinstance(value, nn.Module) or id(value) in twins:
        return twins.get(id(value), value)
    if kind is types.MethodType:
        return types.MethodType(value.__func__, _relink(value.__self__, twins))
    if kind is types.FunctionType:
        refers = value.__closure__ or value.__defaults__ or value.__kwdefaults__
        return _relinked_function(value, twins) if refers else value
    if kind is functools.partial:
        keywords = {k: _relink(v, twins) for k, v in value.keywords.items()}
        return functools.partial(_relink(value.func, twins), *(_relink(v, twins) for v in value.args), **keywords)
    if kind in _TABLES:
        copied = twins[id(value)] = copy.copy(value)
        copied.update({k: _relink(v, twins) for k, v in value.items()})
        return copied
    if kind is list:
        copied = twins[id(value)] = list(value)
        if not PLAIN.issuperset(map(type, value)):
            copied[:] = [_relink(v, twins) for v in value]
        return copied
    if kind is set or kind is collections.deque:
        copied = twins[id(value)] = copy.copy(value)
        _refill(copied, [_relink(v, twins) for v in value])
        return copied
    if kind is tuple:
        return value if PLAIN.issuperset(map(type, value)) else tuple([_relink(v, twins) for v in value])
    if kind is weakref.ReferenceType:
        held = value()
        if isinstance(held, Tensor):  # so torch's RNNs see that their weights are new, and lay them out for cuDNN
            return value
        copied = _relink(held, twins)
        return value if copied is held else weakref.ref(copied)
    if _is_stream(kind):
        copied = twins[id(value)] = streams.copied(value)
        return copied
    if id(value) in twins.carriers and not isinstance(value, type):
        return _relinked_object(value, twins)
    return value


def _is_stream(kind: type) -> bool:
    return streams.is_source(kind) or streams.is_iterator(kind)


def _relinked_object(value: Any, twins: _Twins) -> Any:
    """A copy of an object that refers to modules or tensors of the model; the copy refers to their clones."""
    kind = type(value)
    if isinstance(value, (weakref.WeakSet, weakref.WeakValueDictionary, weakref.WeakKeyDictionary)):
        copied = twins[id(value)] = kind()
        for item in list(value) if isinstance(value, weakref.WeakSet) else list(value.items()):
            if isinstance(value, weakref.WeakSet):
                copied.add(_relink(item, twins))
            else:
                copied[_relink(item[0], twins)] = _relink(item[1], twins)
        return copied
    if isinstance(value, (tuple, frozenset)):
        items = [_relink(v, twins) for v in value]
        return kind._make(items) if hasattr(kind, "_make") else kind(items)  # type: ignore[attr-defined]
    if arrays.is_array(kind):
        copied = twins[id(value)] = arrays.copied(value)
        return copied
    copied = twins[id(value)] = copy.copy(value)
    if isinstance(value, dict):
        refill(copied, {k: _relink(v, twins) for k, v in items_of(value).items()})
    elif isinstance(value, (list, set, collections.deque)):
        _refill(copied, [_relink(v, twins) for v in value])
    for name in fields_of(value):
        object.__setattr__(copied, name, _relink(getattr(value, name, None), twins))
    return copied


def _refill(container: Any, items: list[Any]) -> None:
    container.clear()
    (container.update if isinstance(container, set) else container.extend)(items)


def _relinked_function(function: types.FunctionType, twins: _Twins) -> types.FunctionType:
    """A function whose closure and defaults hold clones, where they hold anything that has one."""
    cells = [
        twins.setdefault(id(cell), types.CellType()) for cell in function.__closure__ or ()
    ]  # others may have them
    copied = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, tuple(cells)
    )
    twins[id(function)] = copied
    same = True
    for old, new in zip(function.__closure__ or (), cells, strict=True):
        try:
            held = old.cell_contents
        except ValueError:  # it is not assigned yet
            continue
        new.cell_contents = _relink(held, twins)
        same &= new.cell_contents is held
    copied.__defaults__ = _relink(function.__defaults__, twins)
    named = function.__kwdefaults__ or {}
    copied.__kwdefaults__ = {k: _relink(v, twins) for k, v in named.items()} or None
    same &= id(function) not in twins.carriers
    pairs = [*zip(function.__defaults__ or (), copied.__defaults__ or (), strict=True)]
    pairs += [(v, (copied.__kwdefaults__ or {})[k]) for k, v in named.items()]
    if same and all(old is new for old, new in pairs):
        twins[id(function)] = function
        return function
    copied.__qualname__ = function.__qualname__
    copied.__dict__.update(function.__dict__)
    return copied
