"""The choices of a caller of `equalize`. Imports no torch."""

from __future__ import annotations

import math

from fxteleport.passes.errors import InputError

METHODS = ("range", "l2", "noise", "smoothquant", "awq")
LEAST_BITS, MOST_BITS = 2, 16
_NEED_DATA = ("smoothquant", "awq")


def check_bits(bits: int, what: str = "bits") -> None:
    """Raise InputError for an unsupported width of an integer format."""
    if not isinstance(bits, int) or isinstance(bits, bool) or not LEAST_BITS <= bits <= MOST_BITS:
        raise InputError(f"{what} is a whole number from {LEAST_BITS} to {MOST_BITS}, got {bits!r}")


def check_choices(
    method: str,
    bits: int,
    bound: float,
    bias_bound: float,
    activation_bits: int | None,
    alpha: float,
    has_data: bool,
    least_gain: float = 2.0,
) -> None:
    """Raise InputError for invalid settings, and for settings that need data where there are none."""
    if method not in METHODS:
        raise InputError(f"unknown method '{method}': choose one of {', '.join(METHODS)}")
    check_bits(bits)
    if activation_bits is not None:
        check_bits(activation_bits, "activation_bits")
    for name, value in (("bound", bound), ("bias_bound", bias_bound)):
        if not 1 < value < math.inf:
            raise InputError(f"{name} is a factor above 1, got {value}: no change of basis keeps a lower one")
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is a number from 0 (weights only) to 1 (activations only), got {alpha}")
    if not 1 <= least_gain < math.inf:
        raise InputError(f"least_gain is a factor from 1 (any gain is taken), got {least_gain}")
    if not has_data:
        if method in _NEED_DATA:
            raise InputError(f"method '{method}' needs data to measure activations on: pass a few batches")
        if activation_bits is not None:
            raise InputError("activation_bits needs data to measure activations on: pass a few batches")
