"""State: what a forward leaves behind, in its buffers and in Python, which a graph does not hand on to the next run."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import fx, nn

from fxteleport.passes.capture import meta_eval, proxy
from fxteleport.passes.capture.graph_equality import alike
from fxteleport.passes.capture.traced_modules import path_of, reassigned
from fxteleport.passes.graph.module_clone import BOOKKEEPING
from fxteleport.passes.graph.structure import PLAIN

if TYPE_CHECKING:
    from fxteleport.passes.capture.tracer import Tracer


@contextmanager
def without_drawing(tracer: Tracer) -> Iterator[None]:
    """Random numbers of Python's and numpy's that a trace draws are in the graph; who draws next gets the same."""
    python = random.getstate()
    numpy: Any = np.random.get_state()
    try:
        yield
    finally:
        now: Any = np.random.get_state()
        if python != random.getstate() or now[2] != numpy[2] or not np.array_equal(now[1], numpy[1]):
            tracer.rest_on("data", "random numbers of Python's or numpy's are those that the trace drew", path="")
            random.setstate(python)
            np.random.set_state(numpy)


def reject_state(tracer: Tracer, module: nn.Module) -> None:
    """A buffer that forward reads and then replaces is state, which a graph does not hand on to the next run.

    Raises:
        DataDependent: the module has such a buffer, or computes something else in the next run.
    """
    if path_of(module) in tracer.stateful:
        raise meta_eval.DataDependent("its forward sets an attribute, and computes something else in the next run")
    for name, now in reassigned(module).items():
        before = tracer.read(name)
        if before is None or not before._node.users or proxy.plain(now) is before._value:
            continue
        if not (all(map(_asks_for_size, before._node.users)) and _is_made_of_sizes(tracer, now, before._node)):
            raise meta_eval.DataDependent(f"its forward puts another tensor in the place of '{name}', which it reads")


def plain_state(tracer: Tracer, parts: Iterable[nn.Module]) -> Iterator[tuple[tuple[str, str], Any]]:
    """Plain attributes that forward may have read, and leaves with another value: (module's path, name), and that."""
    paths = {id(vars(part)): path_of(part) for part in parts}
    read = tracer.reads.read()
    for table, name, before, now in tracer.writes.ends():
        path = paths.get(id(table))
        if path is None or name in BOOKKEEPING or type(now) not in PLAIN:
            continue
        changed = type(now) is not type(before) or now != before
        if changed and ((path, name) in read or type(before) not in PLAIN):
            yield (path, name), now


def next_run_is_alike(tracer: Tracer, args: Any, kwargs: Any) -> bool:
    """True where a run that finds the attributes that a traced one has left does the same.

    Where only dropouts drop more or less, it does in eval mode; train mode is asked about.
    """
    if not tracer.left:
        return True
    other = type(tracer)(tracer.model, tracer.makes_all, tracer.hashes, tracer.modes.training)
    other.memo, other.added, other.found = tracer.memo, {}, tracer.left
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other.trace(args, kwargs)
    except Exception:
        return False
    finally:
        other.end()
    graphs, training = (tracer.graph, other.graph, tracer.added, other.added), tracer.modes.training
    found = alike(*graphs, drops=training)
    if found and not training and not alike(*graphs):
        tracer.modes.asked |= {path: tracer.mode_of(path) for path, _ in tracer.left}
    return found


def _is_made_of_sizes(tracer: Tracer, now: Any, before: fx.Node) -> bool:
    """True for what each run would make the same: of sizes, but that of the tensor in whose place it is put."""
    waiting, seen = [now._node] if proxy.is_proxy(now) else [], set()
    while waiting:
        node = waiting.pop()
        if _asks_for_size(node):
            if before in node.all_input_nodes:
                return False
        elif node.op == "placeholder" or (node.op == "get_attr" and node.target in tracer.metas):
            return False
        elif node not in seen:
            seen.add(node)
            waiting += node.all_input_nodes
    return True


def _asks_for_size(node: fx.Node) -> bool:
    """True for a node that reads the size, type or device of a tensor, and nothing that is in it."""
    asked = node.args[1] if node.target is getattr else node.target if node.op == "call_method" else None
    return asked in ("shape", "size", "ndim", "dim", "numel", "dtype", "device")
