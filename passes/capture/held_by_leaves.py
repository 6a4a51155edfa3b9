"""What an opaque leaf leaves in the user's objects while it is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from fxteleport.passes.capture.control_flow import NextRunDiffers
from fxteleport.passes.capture.held_objects import HeldObjects
from fxteleport.passes.graph.module_clone import BOOKKEEPING, modules_of
from fxteleport.passes.graph.structure import PLAIN


@contextmanager
def leaving_nothing(
    module: nn.Module, path: str, watch: HeldObjects, trace: HeldObjects, known: frozenset[int] | None = None
) -> Iterator[None]:
    """Put back what the module at a path leaves.

    Args:
        watch: notes what its modules hold.
        trace: what the trace has noted so far.
        known: where the next run is known to differ, the ids of the objects that copies have of their own already.

    Raises:
        NextRunDiffers: it leaves something, so its copies must have objects of their own.
    """
    for where, part in modules_of(module, path).items():
        for name, value in vars(part).items():
            if name not in BOOKKEEPING and type(value) not in PLAIN:
                watch.read(where, name, value)
    try:
        yield
    finally:
        left = watch.left()
        watch.restore()
        if known is None and (refused := watch.refused or trace.refused):
            raise refused
    left.require_own()
    is_new = known is None or not known.issuperset(map(id, left.carriers))
    if is_new and (left.objects or left.arrays or left.differs):
        raise NextRunDiffers(left.owners, left.carriers, only_carriers=known is not None)
