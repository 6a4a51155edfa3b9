"""Side effects of forward on buffers and Python state, which a graph does not pass on to the next run."""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from fxteleport.passes.capture import last_run, proxy
from fxteleport.passes.capture.attribute_journal import ABSENT, Writes
from fxteleport.passes.capture.control_flow import DataDependent, Draws
from fxteleport.passes.capture.proxy import node_of, value_of
from fxteleport.passes.capture.tensor_table import TensorTable
from fxteleport.passes.capture.trace_settings import TraceSettings
from fxteleport.passes.capture.traced_modules import InBuffers, class_of_shadow, reassigned
from fxteleport.passes.graph.aten import draws
from fxteleport.passes.graph.code_state import reads_past_attributes
from fxteleport.passes.graph.holders import are_equal, leaves_in
from fxteleport.passes.graph.module_clone import BOOKKEEPING, path_of
from fxteleport.passes.graph.ops import asks_for_form, inputs_read, leaves_of
from fxteleport.passes.graph.settings import Reads
from fxteleport.passes.graph.structure import PLAIN

_OF_RECURRENT_LAYERS = frozenset({"_flat_weights", "_flat_weight_refs"})  # their weights again: each run makes them
Attributes = dict[tuple[str, str], Any]  # (module's path, name) -> value
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
            if not (all(map(asks_for_form, node.users)) and self._is_made_of_sizes(now, node)):
                raise DataDependent(f"its forward puts another tensor in the place of '{name}', which it reads")

    def state_left(self, shadows: Iterable[nn.Module], reads: Reads) -> tuple[Attributes, Attributes]:
        """Attributes that forward leaves with other values.

        Args:
            reads: the attributes that were read, and which of them have values from before the run.

        Returns:
            Those that the next run may read as this one did; and those that this run wrote before it read them, which
            the next run reads first if it takes another branch.
        """
        left: Attributes = {}
        late: Attributes = {}
        for shadow in shadows:
            where = path_of(shadow)
            for name, now in shadow._buffers.made(lambda name, where=where: (where, name) in reads.found):  # type: ignore[attr-defined]
                left[where, name] = InBuffers(self.stand_in(now))
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
            if now is ABSENT:
                if before is not ABSENT and (path, name) in reads.found:
                    left[path, name] = ABSENT
            elif type(now) in PLAIN:
                changed = type(now) is not type(before) or now != before
                if changed and ((path, name) in read or type(before) not in PLAIN):
                    left[path, name] = now
            elif any(map(proxy.is_proxy, leaves_in(now))) or not are_equal(now, before):
                (left if (path, name) in reads.found or reads_any else late)[path, name] = self.stand_in(now)
        left |= {place: self.stand_in(held) for place, held in filled.items() if place in reads.found}
        return left, late

    def stand_in(self, x: Any) -> Any:
        """The stand-in, in the trace of the next run, for a value that this run leaves."""
        return last_run.stand_in(x, lambda leaf: self._is_made_of_sizes(leaf, None, or_weights=True))

    def _is_made_of_sizes(self, now: Any, before: fx.Node | None, or_weights: bool = False) -> bool:
        """True for a value that each run computes alike: from sizes, except that of the tensor that it replaces."""
        waiting, seen = [node_of(now)] if proxy.is_proxy(now) else [], set()
        while waiting:
            node = waiting.pop()
            read = [] if asks_for_form(node) else inputs_read(node)
            if before in node.all_input_nodes and before not in read:  # of its own size: it grows or shrinks
                return False
            if (
                node.op == "placeholder"
                or (node.op == "get_attr" and node.target in self._names and not or_weights)
                or draws(node.target)
            ):
                return False
            if node not in seen:
                seen.add(node)
                waiting += read
        return True


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


@contextmanager
def _numbers_of_python() -> Iterator[Callable[[], bool]]:
    """Restore Python's, numpy's and torch's generators afterwards; yields a function that tells whether they were used.

    A trace leaves torch's generator unchanged, unless code does something to it that is not recorded.
    """
    python, torchs = random.getstate(), torch.get_rng_state()
    numpy: Any = np.random.get_state()

    def have_changed() -> bool:
        now: Any = np.random.get_state()
        if python != random.getstate() or now[2] != numpy[2] or not np.array_equal(now[1], numpy[1]):
            return True
        return not torch.equal(torchs, torch.get_rng_state())

    try:
        yield have_changed
    finally:
        if have_changed():
            random.setstate(python)
            torch.set_rng_state(torchs)
            np.random.set_state(numpy)
