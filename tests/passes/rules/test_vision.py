"""torchvision's operations on regions: boxes, deformed kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import ops

BOXES = torch.tensor([[0, 0.5, 0.25, 2.0, 3.0], [1, 1.0, 1.0, 3.5, 2.5], [1, 0.0, 0.0, 1.0, 3.0]])


class Regions(nn.Module):
    """Boxes, the last coordinate of which the network may decide."""

    def __init__(self, decided: bool) -> None:
        super().__init__()
        self.decided = decided

    def forward(self, x: Tensor) -> Tensor:
        boxes = BOXES.to(x.dtype)
        if self.decided:
            boxes = torch.cat([boxes[:, :4], boxes[:, 4:] * x[0, :3, 0, :1].abs()], 1)
        found = ops.roi_align(x, boxes, (2, 2), sampling_ratio=2)
        return torch.stack([found[0], found[1] + found[2]])


def test_boxes_are_coordinates(check_operation: Callable[..., None]) -> None:
    check_operation(Regions(decided=False), 8, 8)
    check_operation(Regions(decided=True), 8 - 3, 8 - 3)


class Deformed(nn.Module):
    def __init__(self, groups: int, out: int, masked: bool, bias: bool) -> None:
        super().__init__()
        self.offset, self.masked = nn.Conv2d(8, 18, 3, padding=1), masked
        self.layer = ops.DeformConv2d(8, out, 3, padding=1, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.offset(x), x[:, :1].expand(-1, 9, -1, -1) if self.masked else None)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("groups", "out", "masked", "free"), [(1, 5, False, 13), (2, 6, False, 14), (4, 8, True, 15)])
def test_deformed_kernels_are_kernels(
    groups: int, out: int, masked: bool, bias: bool, free: int, check_operation: Callable[..., Any]
) -> None:
    """Every channel in and out; a channel that is the mask has no CoB."""
    check_operation(Deformed(groups, out, masked, bias), free, free)
