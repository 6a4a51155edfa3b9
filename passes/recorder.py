"""The recorder: evaluates calls and appends them to the graph.

Each call is evaluated as it is recorded (`evaluate.py`): `node.meta["val"]` is a meta tensor for what depends on an
input or a parameter, the real value for sizes and constants; `node.meta["path"]` is the module whose `forward` made
the call, `node.meta["source"]` the line of it (`source.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxteleport.passes import evaluate, proxy
from fxteleport.passes.decisions import trust_of
from fxteleport.passes.evaluate import Trust
from fxteleport.passes.lowering import Lowering
from fxteleport.passes.memo import Memo
from fxteleport.passes.proxy import Proxy, is_proxy
from fxteleport.passes.source import calling_line
from fxteleport.passes.traced import path_of

_FACTS = frozenset(
    {"dtype", "device", "layout", "is_cuda", "is_floating_point", "is_complex"}
)  # of a tensor, whatever the data
# Arguments that say nothing about the shape of the result, whatever is known of them.
_SHAPELESS: dict[Any, str] = {F.scaled_dot_product_attention: "attn_mask", torch._grouped_mm: "offs"}


class Recorder(Lowering):
    """A graph under construction, call by call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.device = torch.device("cpu")
        self.memo = Memo()
        self._autocast = _autocast()
        self._moved: list[tuple[Proxy, fx.Node]] = []  # handles rebound by in-place operations, with the old node
        self._written: list[Any] = []  # lists and dictionaries that the call being recorded wrote into
        self._mutations: list[tuple[fx.Node, Tensor]] = []

    def record(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Evaluate a call and append its node; what is not worth a node (bool, str, None) comes back as is."""

        def run(*values: Any) -> Any:
            if target is getattr and values[0][1] == "device":
                return self.device, Trust.KNOWN  # meta tensors stand for ones over there
            return self.memo.run(op, target, *values)

        what = f"'{getattr(target, '__name__', target)}'"
        value, mutated, trust = self.observe(run, what, args, kwargs)
        if target in _FACTS or (target is getattr and args[1] in _FACTS):
            trust = Trust.KNOWN
        elif target in _SHAPELESS:
            shaping = {k: v for k, v in kwargs.items() if k != _SHAPELESS[target]}
            trust = max(map(trust_of, _handles((args, shaping))), default=Trust.KNOWN)
        if not mutated and isinstance(value, (bool, str, type(None))):
            if isinstance(value, bool):
                if trust:
                    raise evaluate.DataDependent(f"{what} depends on the data")
                if not any(isinstance(h._value, Tensor) for h in _handles((args, kwargs))):
                    self.decided(self.append(op, target, args, kwargs, value), value)
            return value
        return self.append(op, target, args, kwargs, value, mutated, trust)

    def observe(
        self, run: Callable[..., tuple[Any, Trust]], what: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, list[Proxy], Trust]:
        """The value of a call, the handles of the arguments that it wrote into, and what the value is worth."""
        handles = list(_handles((args, kwargs)))
        versions = [(h, h._value._version) for h in handles if isinstance(h._value, Tensor)]
        given = proxy.plain(args), proxy.plain(kwargs)
        lent = [(mine, now, now.copy()) for mine, now in _lent((args, kwargs), given)]
        try:
            value, trust = run(*given)
        except evaluate.CannotRun as error:
            raise evaluate.CannotRun(f"{what}: {error}") from error.__cause__
        self._written = [mine for mine, now, before in lent if evaluate.changed(now, before)]
        trust = max([trust, *(min(trust_of(h), Trust.GUESS) for h in handles)])
        return value, [h for h, before in versions if h._value._version != before], trust

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
        node = self.graph.create_node(op, target, self.lower(args), self.lower(kwargs))
        node.meta["val"] = value
        node.meta["path"] = path_of(self.stack[-1]) if self.stack else ""
        if trust:
            node.meta["trust"] = trust
        node.meta["source"] = calling_line()
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

    def forget(self, containers: list[Any]) -> None:
        """A call wrote into lists or dictionaries of Python's, which no node stands for: no one may read them again."""
        gone = self.graph.placeholder("gone")
        handle = self.handle(gone, torch.empty((), device=evaluate.META))
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
            handle._node = node
        for node in reversed(self.graph.nodes):
            if node is mark:
                break
            self.graph.erase_node(node)
        alive = set(self.graph.nodes)
        self._attributes = {k: p for k, p in self._attributes.items() if p._node in alive}
        self._constants = {k: p for k, p in self._constants.items() if p._node in alive}
        self._mutations = [m for m in self._mutations if m[0] in alive]


def _autocast() -> list[Any]:
    """Which devices' operations are cast, and to what."""
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    return [(kind, torch.get_autocast_dtype(kind)) for kind in kinds]


def _handles(x: Any) -> Iterator[Proxy]:
    """The proxies in an argument structure."""
    if is_proxy(x):
        yield x
    elif type(x) in (tuple, list) or proxy.is_named_tuple(type(x)):
        for item in x:
            yield from _handles(item)
    elif issubclass(type(x), dict):
        yield from _handles(list(x.values()))
    elif type(x) is slice:
        yield from _handles((x.start, x.stop, x.step))


def _lent(x: Any, given: Any) -> Iterator[tuple[Any, Any]]:
    """The lists and dictionaries of an argument structure, each with the one that a call gets in its place.

    What a proxy stands for is left out: the emitted network hands on the object itself.
    """
    kind = type(x)
    if kind is tuple or kind is list or issubclass(kind, dict):
        if kind is not tuple:
            yield x, given
        for key in x if issubclass(kind, dict) else range(len(x)):
            yield from _lent(x[key], given[key])
