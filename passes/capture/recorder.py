"""The recorder: evaluates calls and appends them to the graph.

Each call is evaluated as it is recorded (`meta_eval.py`): `node.meta["val"]` is a meta tensor for what depends on an
input or a parameter, the real value for sizes and constants; `node.meta["path"]` is the module whose `forward` made
the call, `node.meta["source"]` the line of it (`source_location.py`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxteleport.passes.capture import meta_eval, proxy
from fxteleport.passes.capture.arguments import Lowering
from fxteleport.passes.capture.meta_cache import Memo
from fxteleport.passes.capture.meta_eval import Trust
from fxteleport.passes.capture.patching import MAKING, unrecorded
from fxteleport.passes.capture.proxy import Proxy, TensorProxy, is_proxy
from fxteleport.passes.capture.specialization import trust_of
from fxteleport.passes.capture.traced_modules import path_of
from fxteleport.passes.graph.ops import call_of, leaves_of
from fxteleport.passes.graph.source_location import calling_line
from fxteleport.passes.graph.structure import PLAIN

_BARE = (bool, str, type(None), enum.Enum)
_FACTS = frozenset(
    {"dtype", "device", "layout", "is_cuda", "is_floating_point", "is_complex"}
)  # of a tensor, whatever the data
# Arguments that say nothing about the shape of the result, whatever is known of them.
_SHAPELESS: dict[Any, str] = {F.scaled_dot_product_attention: "attn_mask", torch._grouped_mm: "offs"}


class Recorder(Lowering):
    """A graph under construction, call by call.

    Attributes:
        makes_all: tensors that `forward` makes from no input are made by nodes, and may be written to: what they hold,
            if it is floating point, is not known. Otherwise they are constants.
    """

    def __init__(self, model: nn.Module, makes_all: bool = False, hashes: bool = False) -> None:
        super().__init__(model, hashes)
        self.makes_all = makes_all
        self.device = torch.device("cpu")
        self.memo = Memo()
        self.gradients: list[bool | None] = [None]  # recorded, by the contexts that forward is in; None: as outside
        self.switches = False  # it was in such a context
        self._functions = 0  # autograd functions whose forward is running
        self._autocast = _autocast()
        self._moved: list[tuple[Proxy, fx.Node]] = []  # handles rebound by in-place operations, with the old node
        self._written: list[Any] = []  # lists and dictionaries that the call being recorded wrote into
        self._mutations: list[tuple[fx.Node, Tensor]] = []

    @unrecorded
    def record(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Evaluate a call and append its node; what is not worth a node (bool, str, None, enum) comes back as is."""
        if self.finished:
            return self.after(op, target, args, kwargs)
        if type in map(type, args) or type in map(type, kwargs.values()):  # torch takes `int` for a dtype
            args, kwargs = tuple(map(_dtype, args)), {k: _dtype(v) for k, v in kwargs.items()}

        def run(*values: Any) -> Any:
            if target is getattr and values[0][1] == "device":
                return self.device, Trust.KNOWN  # meta tensors stand for ones over there
            value, trust = self.memo.run(op, target, *values)
            if target == "type" and isinstance(value, str):
                value = value.replace("meta.", "" if self.device.type == "cpu" else f"{self.device.type}.")
            return meta_eval.to_meta(value) if self.makes_all and target in MAKING else value, trust

        what = f"'{getattr(target, '__name__', target)}'"
        value, mutated, trust = self.observe(run, what, args, kwargs)
        if target in _FACTS or (target is getattr and args[1] in _FACTS):
            trust = Trust.KNOWN
        elif target in _SHAPELESS:
            shaping = {k: v for k, v in kwargs.items() if k != _SHAPELESS[target]}
            trust = max(map(trust_of, _handles((args, shaping))), default=Trust.KNOWN)
        if isinstance(value, bool):
            self.asks_type |= getattr(target, "__name__", target) in ("is_floating_point", "is_complex")
        handles = _handles((args, kwargs)) if isinstance(value, _BARE) else []
        unseen = any(map(self.is_unseen, handles))
        if any(trust_of(h) is Trust.RAGGED for h in handles):
            trust = Trust.RAGGED  # whether it is there depends on the data
        sizes = not any(isinstance(h._value, Tensor) and h._value.is_meta for h in handles)
        return self.given(
            op, target, args, kwargs, value, mutated, trust, unseen or (isinstance(value, bool) and sizes)
        )

    def given(
        self,
        op: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        value: Any,
        mutated: list[Proxy],
        trust: Trust,
        decides: bool,
    ) -> Any:
        """Append the node of an evaluated call; what is not worth a proxy (None, bool, str, enum) comes back as it is.

        Code branches on such a value: where other inputs may give another, the emitted network insists on it.

        Raises:
            DataDependent: the data decides it.
        """
        if not isinstance(value, _BARE):
            return self.append(op, target, args, kwargs, value, mutated, trust)
        if not (trust or decides or mutated or self._written):
            return value
        handle = self.append(op, target, args, kwargs, value, mutated, trust)
        if trust and isinstance(value, bool):
            return self.checked(handle)
        if trust or decides:
            self.decided(handle, value)
        return value

    def after(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of a proxy that has outlived this trace, in another trace or in none."""
        tracer = proxy.find_tracer((args, kwargs))
        if tracer is not None:
            return tracer.record(op, target, args, kwargs)
        return proxy.past(call_of(op, target), args, kwargs)

    def observe(
        self, run: Callable[..., tuple[Any, Trust]], what: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, list[Proxy], Trust]:
        """The value of a call, the handles of the arguments that it wrote into, and what the value is worth."""
        handles: list[Proxy] = []
        lent: list[tuple[Any, Any]] = []
        constants: list[Tensor] = []
        opened = _opened(args, handles, lent, constants)  # the keywords' own dictionary is no one else's
        given = opened, {k: _opened(v, handles, lent, constants) for k, v in kwargs.items()}
        versions = [(h, h._value._version, _form(h._value)) for h in handles if type(h) is TensorProxy]
        fixed = [t._version for t in constants]
        before = [now.copy() for _, now in lent]
        try:
            value, trust = run(*given)
            mutated: list[Proxy] = [h for h, version, _ in versions if h._value._version != version]
            if fixed != [t._version for t in constants] or self.are_constants(mutated):
                raise meta_eval.WrittenConstant("it writes into a tensor made from no input")
        except meta_eval.CannotRun as error:
            if any(map(trust_of, handles)):  # the example inputs may give arguments that fit each other
                raise meta_eval.DataDependent(f"{what}: it depends on the data: {error}") from error.__cause__
            raise meta_eval.CannotRun(f"{what}: {error}") from error.__cause__
        except meta_eval.WrittenConstant as error:
            if self.makes_all:  # not one that a function made which can be recorded
                raise meta_eval.DataDependent(f"{what}: {error}, which the graph does not make") from None
            raise
        for handle, _, form in versions if mutated else ():
            if _form(handle._value) != form:
                self.keep_as_it_was(handle._value, form)
        self._written = [mine for (mine, now), held in zip(lent, before, strict=True) if meta_eval.changed(now, held)]
        trust = max([trust, *(min(trust_of(h), Trust.GUESS) for h in handles)])
        return value, mutated, trust

    def keep_as_it_was(self, value: Tensor, form: Any) -> None:
        """A call gave a tensor another shape in place: the nodes so far hold it as it was, on the same memory."""
        before = value.as_strided(*form)
        for node in self.graph.nodes:
            if any(x is value for x in leaves_of(node.meta.get("val"))):
                node.meta["val"] = pytree.tree_map(lambda x: before if x is value else x, node.meta["val"])

    def append(
        self,
        op: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        value: Any,
        mutated: list[Proxy] | None = None,
        trust: Trust = Trust.KNOWN,
    ) -> Proxy:
        """Append the node of an evaluated call; handles of mutated arguments move on to it."""
        if _autocast() != self._autocast:
            raise RuntimeError("it runs under a torch.autocast of its own, which a graph does not hold")
        value = value.item() if isinstance(value, np.generic) else value
        lowered, keywords = self.lower(args), self.lower(kwargs)
        node = self.graph.create_node(op, target)
        node.args = lowered  # handed to it, fx would look through them for symbolic sizes, at twice the time
        if keywords:
            node.kwargs = keywords
        node.meta["val"] = value
        node.meta["path"] = path_of(self.stack[-1]) if self.stack else ""
        if trust:
            node.meta["trust"] = trust
        node.meta["source"] = calling_line()
        if self.gradients[-1] is not None:
            node.meta["gradients"] = self.gradients[-1]
        for handle in mutated or ():
            node.meta["keep"] = True
            self._mutations.append((node, handle._value))
            if value is handle._value:
                self._moved.append((handle, handle._node))
                handle._node = node
        if self._written:
            self.forget(self._written)
            self._written = []
        return self.handle(node, value)

    def enter(self, recording: bool | None) -> None:
        """Forward enters a context in which gradients are recorded, or not; None for one that changes nothing."""
        changes = recording is not None and not self._functions
        self.switches |= changes
        self.gradients.append(recording if changes else self.gradients[-1])

    def leave(self) -> None:
        """Forward leaves such a context."""
        self.gradients.pop()

    @property
    def in_function(self) -> bool:
        """True while the forward of an autograd function is running."""
        return self._functions > 0

    @contextmanager
    def inside_function(self) -> Iterator[None]:
        """The forward of an autograd function is running: contexts in it mean nothing to who calls it."""
        self._functions += 1
        try:
            yield
        finally:
            self._functions -= 1

    def forget(self, containers: list[Any]) -> None:
        """A call wrote into lists or dictionaries of Python's, which no node stands for: no one may read them again."""
        gone = self.graph.placeholder("gone")
        handle = self.handle(gone, _GONE)
        self.graph.erase_node(gone)
        for container in containers:
            for key in container if isinstance(container, dict) else range(len(container)):
                container[key] = handle

    def rollback(self, mark: fx.Node | None, moved: int, contents: Sequence[tuple[Any, Any]] = ()) -> None:
        """Erase what was recorded after the node `mark`; lists and dictionaries hold again what they held."""
        for container, held in contents:
            container.clear()
            container.extend(held) if isinstance(held, list) else container.update(held)
        while len(self._moved) > moved:
            handle, node = self._moved.pop()
            handle._node, handle._value = node, node.meta["val"]
        for node in reversed(self.graph.nodes):
            if node is mark:
                break
            self.graph.erase_node(node)
        alive = set(self.graph.nodes)
        self._attributes = {k: p for k, p in self._attributes.items() if p._node in alive}
        self._constants = {k: p for k, p in self._constants.items() if p._node in alive}
        self._mutations = [m for m in self._mutations if m[0] in alive]
        self.conditions = {c: node for c, node in self.conditions.items() if node is None or node in alive}


_DTYPES = {bool: torch.bool, int: torch.int64, float: torch.float64, complex: torch.complex128}


def _dtype(x: Any) -> Any:
    """A type of Python's as the dtype that torch takes it for; a graph's code cannot spell it."""
    return _DTYPES.get(x, x) if type(x) is type else x


_GONE = torch.empty((), device=meta_eval.META)


def _form(x: Tensor) -> Any:
    return (x.shape, x.stride(), x.storage_offset()) if x.layout is torch.strided else None


def _autocast() -> tuple[torch.dtype | None, ...]:
    """To what the operations of the CPU and of CUDA are cast."""
    cpu, cuda = torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
    return torch.get_autocast_dtype("cpu") if cpu else None, torch.get_autocast_dtype("cuda") if cuda else None


def _handles(x: Any) -> list[Proxy]:
    """The proxies in an argument structure."""
    found: list[Proxy] = []
    _opened(x, found, [], [])
    return found


def _opened(x: Any, handles: list[Proxy], lent: list[tuple[Any, Any]], constants: list[Tensor]) -> Any:
    """The values behind an argument structure (`proxy.plain`); its proxies are appended to `handles`.

    Its lists and dictionaries are appended to `lent`, each with the one that a call gets in its place. What a proxy
    stands for is none of them: the emitted network hands on the object itself. Tensors are appended to `constants`.
    """
    kind = type(x)
    if kind in PLAIN:
        return x
    if is_proxy(x):
        handles.append(x)
        return x._value
    if proxy.is_left(x):
        x = x._value
        kind = type(x)
    if kind is tuple or kind is torch.Size:
        return kind([_opened(v, handles, lent, constants) for v in x])
    if kind is list:
        lent.append((x, made := [_opened(v, handles, lent, constants) for v in x]))
        return made
    if issubclass(kind, dict):
        lent.append((x, table := kind((k, _opened(v, handles, lent, constants)) for k, v in x.items())))
        return table
    if proxy.is_named_tuple(kind):
        return kind._make([_opened(v, handles, lent, constants) for v in x])
    if kind is slice:
        return slice(*[_opened(v, handles, lent, constants) for v in (x.start, x.stop, x.step)])
    if issubclass(kind, Tensor) and not x.is_inference():
        constants.append(x)
    return x
