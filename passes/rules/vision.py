"""Regions: torchvision's operations on parts of an image, boxes and deformed kernels.

They are named as torch's dispatcher names them, so that torchvision itself need not be imported.
"""

from __future__ import annotations

from typing import Any

from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.operand import Operand
from fxteleport.passes.rules.registry import rule
from fxteleport.passes.rules.weighted import channel, convolved, on_axis


@rule("torchvision::roi_align")
def roi_align(call: Call, input: Operand, rois: Operand, *settings: Any) -> CobMap:
    """Interpolates, and so is linear; the boxes are data, so there is one CoB a channel."""
    call.pin(rois.map, "boxes are coordinates")
    return on_axis(channel(call, input, 1), 1, 4)


@rule("torchvision::deform_conv2d")
def deform_conv2d(
    call: Call, input: Operand, weight: Operand, offset: Operand, mask: Operand, bias: Operand, stride_h: int,
    stride_w: int, pad_h: int, pad_w: int, dil_h: int, dil_w: int, groups: int, *settings: Any,
) -> CobMap:  # fmt: skip
    """A convolution of the values at the offsets, times a mask."""
    call.pin(offset.map, "offsets are coordinates")
    call.pin(mask.map, "a mask multiplies all channels")
    return convolved(call, input, weight, bias, groups)
