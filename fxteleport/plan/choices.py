"""The choices of a caller: the kinds of plan, and the law that a change of basis is drawn from. Imports no torch."""

from __future__ import annotations

import math
from numbers import Real

from fxteleport.passes.errors import CobError

MODES = ("full", "weights")
NORM_STATS = ("fixed", "rescaled", "wrapped")
NORMS = ("exact", "scaled")
CACHED = ("pinned", "teleported")
LANDSCAPES = ("intra", "inter", "positive", "negative", "centered", "log")


def check_range(cob_range: float, landscape: str, center: float = 1.0) -> None:
    """Raise CobError for an unknown law, or a range that the law does not allow."""
    for name, value in (("CoB range", cob_range), ("centre", center)):
        if not isinstance(value, Real):
            raise CobError(f"the {name} must be a number, got {value!r}")
    if landscape not in LANDSCAPES:
        raise CobError(f"unknown landscape '{landscape}': choose one of {', '.join(LANDSCAPES)}")
    if not math.isfinite(cob_range) or cob_range < 0 or (cob_range == 0 and landscape in ("positive", "negative")):
        raise CobError(f"the CoB range must be a positive number, got {cob_range}")
    if landscape in ("intra", "inter") and cob_range >= 1:
        raise CobError(f"landscape '{landscape}' needs 0 <= cob_range < 1, or a CoB could be 0; got {cob_range}")
    if landscape == "log" and cob_range > 300:
        raise CobError(f"landscape 'log' draws exp(+-cob_range), which {cob_range} takes out of range: at most 300")
