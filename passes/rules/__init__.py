"""The rules: for each operation, the constraint that keeps the network's function.

In: one call with the maps of its operands (`Call`). Out: the map of its result, and equations in the system. One file a
family of operations; a rule is registered with `@rule` and looked up in `registry.py`. Imports `graph` and `domain`.
Open `registry.py` first, then `homogeneous.py`, the shortest family that shows everything.
"""

from fxteleport.passes.rules import (
    aten,
    bilinear,
    concatenation,
    encoder,
    equivariant,
    fourier,
    homogeneous,
    joining,
    movement,
    norm,
    odd,
    ordering,
    packed_sequence,
    parameter,
    pinning,
    pointwise,
    recurrent,
    scattering,
    vision,
    weighted,
    writing,
)
from fxteleport.passes.rules.registry import named, rule

__all__ = [
    "aten", "bilinear", "concatenation", "encoder", "equivariant", "fourier", "homogeneous", "joining", "movement",
    "named", "norm", "odd", "ordering", "packed_sequence", "parameter", "pinning", "pointwise", "recurrent", "rule",
    "scattering", "vision", "weighted", "writing",
]  # fmt: skip
