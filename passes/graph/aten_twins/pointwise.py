"""Pointwise operators, casts and copies."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from fxteleport.passes.graph.aten_twins.registry import Beside, twin


@twin("_softmax")
def softmax(input: Any, dim: int, half_to_float: bool = False) -> Any:
    return F.softmax(input, dim, dtype=torch.float32 if half_to_float else None)


@twin("_log_softmax")
def log_softmax(input: Any, dim: int, half_to_float: bool = False) -> Any:
    return F.log_softmax(input, dim, dtype=torch.float32 if half_to_float else None)


@twin("elu")
def elu(input: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    if scale == input_scale == 1:
        return F.elu(input, alpha)
    return F.selu(input) if (alpha, scale, input_scale) == _SELU else torch._C._nn.elu(input, alpha, scale, input_scale)


_SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1)


@twin("log_sigmoid")
def log_sigmoid(input: Any) -> Any:
    return F.logsigmoid(input)


@twin("log_sigmoid_forward")
def log_sigmoid_forward(input: Any) -> Beside:
    return Beside(F.logsigmoid(input))


@twin("dropout")
def dropout(input: Any, p: float, train: bool) -> Any:
    return F.dropout(input, p, train)


@twin("native_dropout")
def native_dropout(input: Any, p: float, train: bool | None) -> Beside:
    return Beside(F.dropout(input, p, bool(train)))


@twin("feature_dropout")
def feature_dropout(input: Any, p: float, train: bool) -> Any:
    return (F.dropout1d, F.dropout2d, F.dropout3d)[max(input.ndim - 3, 0)](input, p, train)


@twin("alpha_dropout")
def alpha_dropout(input: Any, p: float, train: bool) -> Any:
    return F.alpha_dropout(input, p, train)


@twin("alias", "_reshape_copy_alias")
def alias(input: Any) -> Any:
    return input


@twin("_to_copy")
def to_copy(
    input: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None,
    non_blocking: bool = False, memory_format: Any = None,
) -> Any:  # fmt: skip
    return input.to(device=device, dtype=dtype, non_blocking=non_blocking, copy=True, memory_format=memory_format)


@twin("to")
def to(input: Any, *given: Any, layout: Any = None, pin_memory: Any = None, **settings: Any) -> Any:
    if given and isinstance(given[-1], torch.memory_format):
        given, settings = given[:-1], settings | {"memory_format": given[-1]}
    return input.to(*given, **settings)


@twin("copy")
def copy(input: Any, src: Any, non_blocking: bool = False) -> Any:
    return src.to(input.dtype).expand_as(input).clone()


@twin("prims.convert_element_type")
def convert_element_type(a: Any, dtype: Any) -> Any:
    return a.to(dtype)
