"""Side effects of forward on buffers and Python state, which a graph does not pass on to the next run."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.attribute_journal import ABSENT, Writes
from fxteleport.passes.capture.control_flow import DataDependent, Draws
from fxteleport.passes.capture.meta_values import tree_map
from fxteleport.passes.capture.proxy import node_of, value_of
from fxteleport.passes.capture.tensor_table import TensorTable
from fxteleport.passes.capture.trace_settings import TraceSettings
from fxteleport.passes.capture.traced_modules import InBuffers, class_of_shadow, reassigned
from fxteleport.passes.graph.aten import draws
from fxteleport.passes.graph.code_state import reads_past_attributes
from fxteleport.passes.graph.containers import leaves
from fxteleport.passes.graph.holders import are_equal, contents_of, holds_fields, leaves_in, put_back
from fxteleport.passes.graph.module_clone import BOOKKEEPING, path_of
from fxteleport.passes.graph.ops import leaves_of
from fxteleport.passes.graph.settings import Reads
from fxteleport.passes.graph.structure import PLAIN

_OF_RECURRENT_LAYERS = frozenset({"_flat_weights", "_flat_weight_refs"})  # their weights again: each run makes them
NEXT_RUN_DIFFERS = "its forward sets an attribute, and computes something else in the next run"


class SideEffects:
    """Notes the side effects that a plan can name, and rejects those that no graph can have.

    Args:
        names: the names of the model's own tensors.
        writes: the assignments of forward.
        settings: the modules that compute something else in the next run, and whether any draws (`TraceSettings`).
    """

    def __init__(
        self,
        tensors: TensorTable,
        names: Container[Any],
        writes: Writes,
        settings: TraceSettings,
    ) -> None:
        self._tensors, self._names, self._writes = tensors, names, writes
        self._stateful, self._draws = settings.stateful, settings.draws

    @contextmanager
    def run(self) -> Iterator[None]:
        """While this lasts, forward runs; the states of Python's and numpy's random numbers are restored afterwards.

        Raises:
            Draws: forward has drawn such numbers, which a graph would have as constants.
        """
        with _numbers_of_python() as have_changed:
            yield
            if have_changed() and not self._draws:
                raise Draws

    @contextmanager
    def call(self) -> Iterator[None]:
        """While this lasts, a call is traced.

        Raises:
            DataDependent: it has drawn random numbers of Python's or numpy's.
        """
        if not self._draws:
            yield
            return
        with _numbers_of_python() as have_changed:
            yield
            if have_changed():
                raise DataDependent("it draws random numbers of Python's or numpy's")

    @contextmanager
    def whole_call(self) -> Iterator[None]:
        """While this lasts, an opaque call is evaluated; random numbers that it draws do not count."""
        with _numbers_of_python() if self._draws else nullcontext():
            yield

    def reject_changed_layers(self) -> None:
        """Raise DataDependent where forward has left a layer with other settings or tensors."""
        for key in (*self._writes.left(), *(key for module, key, _, _ in self._writes.past() if _is_layer(module))):
            raise DataDependent(f"its forward leaves a layer with another '{key}' than it finds")

    def reject_stateful(self, path: str) -> None:
        """Raise DataDependent for a module that computes something else in the next run."""
        if path in self._stateful:
            raise DataDependent(NEXT_RUN_DIFFERS)

    def reject_state(self, module: nn.Module) -> None:
        """Reject a buffer that forward reads and then replaces: a graph does not pass it on to the next run.

        Raises:
            DataDependent: the module has such a buffer.
        """
        for name, now in reassigned(module).items():
            before = self._tensors.read(name)
            if before is None and _is_drawn(now):
                raise DataDependent(f"its forward keeps random numbers in '{name}'")
            if before is None or proxy.plain(now) is value_of(before):
                continue
            node = node_of(before)
            if not node.users:
                continue
            if not (all(map(_asks_for_size, node.users)) and self._is_made_of_sizes(now, node)):
                raise DataDependent(f"its forward puts another tensor in the place of '{name}', which it reads")

    def state_left(self, shadows: Iterable[nn.Module], reads: Reads) -> Iterator[tuple[tuple[str, str], Any]]:
        """Attributes that forward may have read and leaves with another value: (module's path, name), and the value.

        Tensors that depend on inputs, or that replace others, are given as stand-ins of the same shape. Tensors that
        are computed from sizes, or once from weights (a cached table), are left out: each run computes the same.

        Args:
            reads: the attributes that were read.
        """
        for shadow in shadows:
            where = path_of(shadow)
            for name, now in shadow._buffers.made(lambda name, where=where: (where, name) in reads.found):  # type: ignore[attr-defined]
                if self._may_matter(now, None):
                    yield (where, name), InBuffers(stand_in(now))
        ends, filled, read = list(self._writes.ends()), reads.filled(), reads.read()
        paths = {id(vars(shadow)): path_of(shadow) for shadow in shadows} if ends else {}
        reads_any = bool(ends) and any(
            reads_past_attributes(class_of_shadow(shadow), vars(shadow).values()) for shadow in shadows
        )
        for table, name, before, now in ends:
            path = paths.get(id(table))
            if path is None or name in BOOKKEEPING or name in _OF_RECURRENT_LAYERS:
                continue
            filled.pop((path, name), None)
            if type(now) in PLAIN:
                changed = type(now) is not type(before) or now != before
                if changed and ((path, name) in read or type(before) not in PLAIN):
                    yield (path, name), now
            elif ((path, name) in reads.found or reads_any) and self._may_matter(now, before):
                yield (path, name), stand_in(now)
        for place, container in filled.items():
            held = list(container.values() if isinstance(container, dict) else container)
            plain = PLAIN.issuperset(map(type, leaves(held)))
            counts = plain and proxy.find_trace(list(container)) is None  # without sizes as keys the next run reads it
            if place in reads.found and (counts or reads.loses(place) or self._depends(container, made_once=True)):
                yield place, stand_in(container)

    def _may_matter(self, now: Any, before: Any) -> bool:
        """True for a value that may differ from the one with which this run started."""
        held = list(leaves_in(now))
        if not any(map(proxy.is_proxy, held)):
            return not are_equal(now, before)
        return self._depends(held, made_once=before is None or before is ABSENT)

    def _depends(self, x: Any, made_once: bool) -> bool:
        """True where a value depends on an input or, unless it is computed once, on a weight."""
        leaves = [leaf for leaf in leaves_of(x) if proxy.is_proxy(leaf)]
        return not all(self._is_made_of_sizes(leaf, None, or_weights=made_once) for leaf in leaves)

    def _is_made_of_sizes(self, now: Any, before: fx.Node | None, or_weights: bool = False) -> bool:
        """True for a value that each run computes alike: from sizes, except that of the tensor that it replaces."""
        waiting, seen = [node_of(now)] if proxy.is_proxy(now) else [], set()
        while waiting:
            node = waiting.pop()
            if _asks_for_size(node):
                if before in node.all_input_nodes:
                    return False
            elif (
                node.op == "placeholder"
                or (node.op == "get_attr" and node.target in self._names and not or_weights)
                or draws(node.target)
            ):
                return False
            elif node not in seen:
                seen.add(node)
                waiting += node.all_input_nodes
        return True


def stand_in(x: Any) -> Any:
    """A value with new tensors in place of proxies."""

    def plain(leaf: Any) -> Any:
        if not proxy.is_proxy(leaf) and holds_fields(type(leaf)) and (held := contents_of(leaf)):
            made = copy.copy(leaf)
            put_back(made, {key: stand_in(value) for key, value in held.items()})
            return made
        value = proxy.plain(leaf)
        return torch.zeros(value.shape, dtype=value.dtype) if value is not leaf and isinstance(value, Tensor) else value

    return tree_map(plain, x)


def _is_layer(shadow: nn.Module) -> bool:
    """True for the shadow of a layer of torch's."""
    return class_of_shadow(shadow).__module__.startswith("torch.nn.") and not shadow._modules


def _is_drawn(x: Any) -> bool:
    """True for a tensor that is computed from random numbers."""
    waiting, seen = [node_of(leaf) for leaf in leaves_of(x) if proxy.is_proxy(leaf)], set()
    while waiting:
        node = waiting.pop()
        if draws(node.target):
            return True
        if node not in seen:
            seen.add(node)
            waiting += node.all_input_nodes
    return False


def _asks_for_size(node: fx.Node) -> bool:
    """True for a node that reads the size, type or device of a tensor, and not its values."""
    asked = node.args[1] if node.target is getattr else node.target if node.op == "call_method" else None
    return asked in ("shape", "size", "ndim", "dim", "numel", "dtype", "device")


@contextmanager
def _numbers_of_python() -> Iterator[Callable[[], bool]]:
    """Restore Python's and numpy's generators afterwards; yields a function that tells whether they were used."""
    python = random.getstate()
    numpy: Any = np.random.get_state()

    def have_changed() -> bool:
        now: Any = np.random.get_state()
        return python != random.getstate() or now[2] != numpy[2] or not np.array_equal(now[1], numpy[1])

    try:
        yield have_changed
    finally:
        if have_changed():
            random.setstate(python)
            np.random.set_state(numpy)
