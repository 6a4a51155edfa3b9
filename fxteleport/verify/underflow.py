"""Underflow: a value that a change of basis takes below the smallest normal number loses bits, and so what follows."""

from __future__ import annotations

import torch
from torch import Tensor


class Carried:
    """The original's values as the teleported network's number format holds them.

    A power of two rounds nothing, but where its product is subnormal: a sigmoid of 1e-37 times 1/64 has bits less than
    it had, or none, and nothing downstream can give them back. So an element that is subnormal in either network may
    be one such rounding from `original * factor`, and the original's next operations are given what the teleported
    network's are. A wrong rule behind such a node shows, and the lost bits do not. Outputs have no such allowance: they
    are compared with those of the original as it is.

    Attributes:
        count: how many elements lost bits.
    """

    def __init__(self) -> None:
        self.count = 0

    def of(self, original: Tensor, expected: Tensor, actual: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """The value with which the original goes on, and the one that the teleported network should have."""
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
