"""The placeholders of a capture: one for each argument given, whatever its structure.

Nodes read the tensors out of lists, tuples, dicts, data classes and other objects, and `forward` gets a structure of
the same classes with proxies in it (`object_inputs.py`). All else in the structure is specialised: the emitted network
refuses another length, other keys and other plain values.
"""

from __future__ import annotations

import collections
import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils import _pytree as pytree

from fxteleport.passes.capture.graph_builder import GraphBuilder
from fxteleport.passes.capture.meta_values import MetaValues, tree_map
from fxteleport.passes.capture.object_inputs import ObjectInputs
from fxteleport.passes.capture.proxy import Proxy, node_of, value_of
from fxteleport.passes.capture.trace_conditions import TraceConditions
from fxteleport.passes.errors import CaptureError
from fxteleport.passes.graph.containers import SEQUENCES, held, is_record, kind_of, parts, spelled
from fxteleport.passes.graph.contents import FILLED
from fxteleport.passes.graph.guards import expect_form, guard
from fxteleport.passes.graph.structure import PLAIN, is_object, is_spelt, own_fields, with_fields

_BARE = frozenset({list, tuple, dict, set, collections.OrderedDict, collections.defaultdict})
_SAID = 4
_LONGEST = 200
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Placeholders:
    """Appends the placeholders of a trace, with guards on their structure.

    Args:
        record: records a node that reads a part.
        objects: the objects among the inputs.
    """

    def __init__(
        self,
        builder: GraphBuilder,
        conditions: TraceConditions,
        values: MetaValues,
        record: Callable[..., Any],
        objects: ObjectInputs,
    ) -> None:
        self._builder, self._conditions, self._values, self._record = builder, conditions, values, record
        self._objects = objects
        self._inside: list[int] = []  # the ids of all objects that it may change
        self._seen: dict[int, Any] = {}  # what forward gets for an object that it may change, by the given one's id

    def of_call(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call of `forward` as it sees them, with a placeholder for each.

        Raises:
            CaptureError: they do not fit, or no graph can hold them.
        """
        try:
            bound = inspect.signature(forward).bind(*args, **kwargs)
        except TypeError as error:
            raise CaptureError(f"the example inputs do not fit the model's forward: {error}") from error
        parameters = bound.signature.parameters.items()
        missing = [n for n, p in parameters if n not in bound.arguments and p.kind not in _VARIABLE]
        if missing:
            self._conditions.note("form", f"forward is not given {', '.join(missing)}", path="")
        names = _argument_names(bound)
        optional = _optional_tensors(bound)
        if optional:
            self._conditions.note("form", f"forward is given {', '.join(optional)}", path="")
        positional = tuple(self._placeholder(name, value) for name, value in zip(names, args, strict=False))
        taken = positional, {name: self._placeholder(name, value) for name, value in kwargs.items()}
        for node in self._builder.graph.find_nodes(op="placeholder"):
            if node.target in optional:  # Python asked whether it is None, and no one has seen that
                guard(self._builder.graph, expect_form, node, ..., node.target)
        return taken

    def _placeholder(self, name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._builder.placeholder(name, self._values.stand_in(value))
        try:
            form = form_of(value, name)
        except RecursionError:
            raise CaptureError(f"the input '{name}' holds itself, which no graph can read") from None
        handle = self._builder.placeholder(name, tree_map(self._values.stand_in, value))
        tensors = any(x is ... for x in pytree.tree_leaves(form))
        what = f"a {type(value).__name__} of this structure" if tensors else repr(value)
        self._conditions.note("form", f"input '{name}' is {what}"[:_LONGEST], node_of(handle), path="")
        guard(self._builder.graph, expect_form, node_of(handle), form, name)
        if id(value) in self._seen:
            return self._objects.hold_again(self._seen[id(value)], handle)
        self._inside += [id(x) for x in _holders_in(value)]
        self._objects.are_shared = len(set(self._inside)) < len(self._inside)
        opened = self._opened(handle)
        if _may_change(value):
            self._seen[id(value)] = opened
        return opened

    def _opened(self, handle: Proxy, in_object: bool = False) -> Any:
        """A structure like a placeholder's value, with proxies that are read out of it."""
        value = value_of(handle)
        if isinstance(value, Tensor):
            return handle
        if is_object(value):
            fields = {name: self._item(handle, getattr, name, x, True) for name, x in own_fields(value).items()}
            return self._objects.hold(with_fields(value, vars(value) | fields), handle)
        opened = self._container(handle, value, in_object)
        is_open = opened is not handle and (isinstance(value, FILLED) or is_record(value))
        return self._objects.hold(opened, handle, as_given=in_object) if is_open else opened

    def _container(self, handle: Proxy, value: Any, in_object: bool) -> Any:
        kind = kind_of(type(value))
        if kind is None:
            return handle if any(isinstance(x, Tensor) for x in pytree.tree_leaves(value)) else _own(value)
        items = [self._item(handle, kind.read, key, x, in_object) for key, x in parts(value)]
        return kind.like(value, items)

    def _item(self, handle: Proxy, read: Any, key: Any, value: Any, in_object: bool = False) -> Any:
        changes = isinstance(value, FILLED)  # writing into it needs a node
        if not (changes or any(_has_parts(x) for x in pytree.tree_leaves(value, is_leaf=is_object))):
            return _own(value)
        return self._opened(self._record("call_function", read, (handle, key), {}), in_object)


def _own(value: Any) -> Any:
    """A copy of a set, which forward may change; any other value itself."""
    return copy.copy(value) if isinstance(value, set) else value


def _has_parts(x: Any) -> bool:
    return isinstance(x, Tensor) or is_record(x) or is_object(x)


def _may_change(x: Any) -> bool:
    """True for a mutable input: a container, or an object that is taken apart."""
    return isinstance(x, FILLED) or (type(x) not in PLAIN and (is_record(x) or is_object(x)))


def _holders_in(x: Any) -> list[Any]:
    """The mutable containers and objects in an input, at any depth."""
    inner = vars(x).values() if kind_of(type(x)) is None and _may_change(x) and not isinstance(x, set) else held(x)
    return [*([x] if _may_change(x) else []), *(y for v in inner if type(v) not in PLAIN for y in _holders_in(v))]


def said(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The inputs' shapes and number formats, for a message: `(2, 5) float32`."""
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    words = [f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" for x in tensors[:_SAID]]
    return ", ".join(words + ["..."] * (len(tensors) > _SAID)) or "no tensor"


def form_of(value: Any, name: str) -> Any:
    """The structure of an input, as `guards.expect_form` takes it."""
    if isinstance(value, Tensor):
        return ...
    if (kind := kind_of(type(value))) is not None:
        forms = [(key, form_of(x, name + spelled(value, key))) for key, x in parts(value)]
        form = [form for _, form in forms] if kind in SEQUENCES else tuple(forms)
        return {"held": form, "fields": fields} if (fields := _other_fields(value, name)) else form
    if isinstance(value, np.generic):
        return value.item()
    if value is ...:
        return (("__class__", form_of(type(value), name)),)
    if isinstance(value, type):
        return (("__module__", value.__module__), ("__qualname__", value.__qualname__))
    if is_object(value):
        own = own_fields(value)
        fields = tuple((k, form_of(v, f"{name}.{k}") if k in own else ()) for k, v in vars(value).items())
        return (("__class__", form_of(type(value), name)), ("__dict__", fields))
    if is_spelt(value):
        return set(value) if isinstance(value, set) else value
    raise CaptureError(
        f"the input '{name}' is a {type(value).__name__}, which no graph can hold: wrap the model in a module"
        " whose forward takes tensors and plain values"
    )


def _other_fields(value: Any, name: str) -> tuple[tuple[str, Any], ...]:
    """The attributes of a container that are not among its items, which must be plain values."""
    if type(value) in _BARE:
        return ()
    items = set(map(id, held(value)))
    fields = {key: x for key, x in getattr(value, "__dict__", {}).items() if id(x) not in items}
    fields |= {"maxlen": value.maxlen} if isinstance(value, collections.deque) else {}
    if not isinstance(value, FILLED):
        return ()
    for key, x in fields.items():
        if not is_spelt(x):
            raise CaptureError(
                f"the input '{name}' is a {type(value).__name__} with the attribute '{key}', a {type(x).__name__},"
                " which no graph can hold: hold it in an item"
            )
    return tuple(fields.items())


def _optional_tensors(bound: inspect.BoundArguments) -> list[str]:
    """The names of the tensors that another call may omit, where forward may do something else."""
    names = []
    for name, value in bound.arguments.items():
        parameter = bound.signature.parameters[name]
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{name}_{i}" for i, x in enumerate(value) if isinstance(x, Tensor)]
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            names += [key for key, x in value.items() if isinstance(x, Tensor)]
        elif isinstance(value, Tensor) and parameter.default is not parameter.empty:
            names += [] if isinstance(parameter.default, Tensor) else [name]
    return names


def _argument_names(bound: inspect.BoundArguments) -> list[str]:
    """A name for each positional argument."""
    names: list[str] = []
    for name, parameter in bound.signature.parameters.items():
        if name not in bound.arguments:
            continue
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{name}_{i}" for i in range(len(bound.arguments[name]))]
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            names.append(name)
    return names
