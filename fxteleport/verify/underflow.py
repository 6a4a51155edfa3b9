"""Underflow: a value that a change of basis takes below the smallest normal number loses bits."""

from __future__ import annotations

import torch
from torch import Tensor


class Carried:
    """The original's values, with the bits that the teleported network has lost by underflow removed.

    Multiplying by a power of two rounds nothing, unless the product is subnormal: a sigmoid of 1e-37 times 1/64 loses
    bits, or all of them, and no later operation restores them. So an element that is subnormal in either network may
    differ by one such rounding from `original * factor`, and the original's next operations get the value with the same
    bits lost. So a wrong rule after such a node is still detected. Outputs have no such allowance: they are compared
    with those of the unchanged original.

    Attributes:
        count: the number of elements that lost bits.
    """

    def __init__(self) -> None:
        self.count = 0

    def of(self, original: Tensor, expected: Tensor, actual: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """The original's value for its next operations, and the value that the teleported network should have."""
        if not original.is_floating_point() or original.itemsize == 1 or actual.shape != expected.shape:
            return original, expected
        limits = torch.finfo(original.dtype)
        small = ((expected.abs() < limits.tiny) | (original.abs() < limits.tiny)) & ((original != 0) | (actual != 0))
        if not bool(small.any()):
            return original, expected
        rounding = factor.abs().clamp(min=1) * (limits.tiny * limits.eps)
        near = small & ((actual - expected).abs() <= rounding)
        left = torch.where(near, actual / factor, original)
        self.count += int((left != original).sum())
        return left, torch.where(near, actual, expected)
