"""Copies of the planned model: whether a copy's code reads its own tensors, or still the planned model's.

`copy.deepcopy` copies lists and objects, but neither functions (a closure, a lambda's defaults) nor weak references: a
hook that closes over a layer goes on reading the first model's. The outputs of such a copy do not depend on its own
parameters alone, so scaling those does not keep its function.
"""

from __future__ import annotations

from torch import nn

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.capture.model_tensors import named_tensors
from fxteleport.passes.errors import ModelError
from fxteleport.passes.graph.module_clone import modules_of
from fxteleport.passes.graph.reachable import Reach


def require_own_tensors(captured: Captured, moving: frozenset[str], model: nn.Module) -> None:
    """Raise ModelError where the code of a copy can reach a tensor of the planned model that is scaled.

    Args:
        moving: the names of the tensors that the plan scales.
        model: another model than the planned one; modules and tensors registered in both count as its own.
    """
    own = modules_of(model)
    shared = {id(part) for part in own.values()} | {id(tensor) for _, tensor in named_tensors(own)}
    parts = {path: part for path, part in modules_of(captured.model).items() if id(part) not in shared}
    scaled = {id(t): name for name, t in named_tensors(parts) if name in moving and id(t) not in shared}
    reached = Reach(parts, scaled).of(model)
    for tensor in (*reached.tensors.values(), *(t for _, t in named_tensors(reached.modules))):
        if id(tensor) in scaled:
            raise ModelError(
                f"the code of this copy can read '{scaled[id(tensor)]}' of the planned model (through a closure, a hook"
                " or a weak reference, which copy.deepcopy does not copy): scale the planned model, or build the other"
                " one anew"
            )
