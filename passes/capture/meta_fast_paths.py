"""Fast paths: the results of common calls on the meta device, in the common case.

torch computes them by Python functions that take from a tenth of a millisecond (a convolution) to four (a layer norm).
These cover contiguous tensors of one type, and valid calls; any other call is left to torch.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from fxteleport.passes.graph.leaf_modules import hooked

_META = torch.device("meta")
_SHAPES = (tuple, list, torch.Size)
_TENSORS = (Tensor, nn.Parameter)
_FLOATS = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64})


def known(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The result of a call of a module, a function or a method on meta tensors; None: no fast path covers it."""
    module = isinstance(target, nn.Module)
    form = _FORMS.get(type(target) if module else target)
    if form is None:
        return None
    if not module:
        return form(*args, **kwargs)
    bare = len(args) == 1 and not kwargs and not hooked(target) and "forward" not in vars(target)
    return form(target, *args) if bare else None


def in_place(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The argument of an in-place activation, with its version counter increased; None for any other call."""
    if type(target) not in _ACTIVATIONS or not getattr(target, "inplace", False) or len(args) != 1 or kwargs:
        return None
    if hooked(target) or "forward" in vars(target) or not _plain(*args):
        return None
    increment_version(args[0])
    return args[0]  # type: ignore[no-any-return]


def _alike(first: Any, *others: Any) -> bool:
    """True for meta tensors of one floating-point type; any but the first may be None."""
    held = [first, *(t for t in others if t is not None)]
    if any(type(t) not in _TENSORS for t in held) or first.dtype not in _FLOATS:
        return False
    return all(t.is_meta and t.dtype == first.dtype for t in held)


def _plain(*tensors: Any) -> bool:
    """`_alike`, and contiguous."""
    return _alike(*tensors) and all(t is None or t.is_contiguous() for t in tensors)


def _empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=_META)


def _like(input: Tensor) -> Tensor | None:
    """A new tensor like a contiguous one; None if its strides are unusual (those of axes of size 1 may be any)."""
    made = _empty(input, input.shape)
    return made if made.stride() == input.stride() else None


def _activation(module: nn.Module, input: Any) -> Tensor | None:
    return _like(input) if not getattr(module, "inplace", False) and _plain(input) else None


def _batch_norm(norm: Any, input: Any) -> Tensor | None:
    held = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    if norm.training or norm.running_mean is None or not _alike(input, *held) or input.ndim not in _RANKS[type(norm)]:
        return None
    if any(t is not None and t.shape != input.shape[1:2] for t in held):
        return None
    return _empty(input, input.shape) if input.is_contiguous() else torch.empty_like(input)


_RANKS: dict[type, tuple[int, ...]] = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}


def _layer_norm(
    input: Any, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor | None:
    if (
        not _plain(input, weight, bias)
        or type(shape) not in _SHAPES
        or not shape
        or input.shape[-len(shape) :] != tuple(shape)
    ):
        return None
    return _like(input) if all(t is None or t.shape == tuple(shape) for t in (weight, bias)) else None


def _linear(input: Any, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    matrix = _plain(input, weight, bias) and input.ndim > 1 and weight.ndim == 2 and input.shape[-1] == weight.shape[1]
    fits = bias is None or bias.shape == weight.shape[:1]
    return _empty(input, (*input.shape[:-1], len(weight))) if matrix and fits else None


def _convolution(conv: Any, input: Any) -> Tensor | None:
    weight, bias = conv.weight, conv.bias
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str) or not _plain(input, weight, bias):
        return None
    if input.ndim != weight.ndim or input.shape[1] != weight.shape[1] * conv.groups or not input.numel():
        return None
    either = input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last)  # then torch decides
    if either or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    settings = zip(input.shape[2:], weight.shape[2:], conv.padding, conv.dilation, conv.stride, strict=True)
    sizes = [(n + 2 * pad - step * (k - 1) - 1) // stride + 1 for n, k, pad, step, stride in settings]
    return _empty(input, (len(input), len(weight), *sizes)) if min(sizes) > 0 else None


def _sum(a: Any, b: Any, *others: Any, **settings: Any) -> Tensor | None:
    """Of a product, too: of a tensor and a number, or one of its shape, or one that is repeated along its axes."""
    if type(a) in _NUMBERS or (type(b) in _TENSORS and type(a) in _TENSORS and b.numel() > a.numel()):
        a, b = b, a
    if others or settings or not _plain(a, None if type(b) in _NUMBERS else b):
        return None
    if type(b) in _NUMBERS or (a.shape == b.shape and a.stride() == b.stride()):
        return _like(a)
    pairs = itertools.zip_longest(reversed(a.shape), reversed(b.shape), fillvalue=1)
    distinct = b.ndim <= a.ndim and 1 not in itertools.dropwhile(
        (1).__eq__, a.shape
    )  # otherwise two axes have the same stride
    return _like(a) if distinct and all(m in (1, n) for n, m in pairs) else None


_NUMBERS = (int, float)


def _roll(input: Any, shifts: Any, dims: Any = None) -> Tensor | None:
    dims = (dims,) if type(dims) is int else dims
    count = 1 if type(shifts) is int else len(shifts)
    fits = type(dims) is tuple and len(dims) == count and _plain(input)
    return _like(input) if fits and all(-input.ndim <= dim < input.ndim for dim in dims) else None


def _cat(tensors: Any, dim: Any = 0, **settings: Any) -> Tensor | None:
    if type(tensors) not in (tuple, list) or type(dim) is not int or settings or any(t is None for t in tensors):
        return None
    if not tensors or not _plain(*tensors) or not -tensors[0].ndim <= dim < tensors[0].ndim:
        return None
    axis, total = dim % tensors[0].ndim, 0
    shape = list(tensors[0].shape)
    for tensor in tensors:
        held = list(tensor.shape)
        total += held[axis] if len(held) > axis else 0
        if not tensor.numel() or [*held[:axis], *held[axis + 1 :]] != [*shape[:axis], *shape[axis + 1 :]]:
            return None
        if len(held) in _CHANNELS_LAST and tensor.is_contiguous(memory_format=_CHANNELS_LAST[len(held)]):
            return None  # contiguous in both memory formats: torch decides
    shape[axis] = total
    return _empty(tensors[0], shape)


_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _mean(input: Any, dim: Any = None, keepdim: Any = False, **settings: Any) -> Tensor | None:
    dims = (dim,) if type(dim) is int else dim
    if settings or type(dims) not in (tuple, list) or not dims or not _plain(input) or not input.numel():
        return None
    if any(type(d) is not int or not -input.ndim <= d < input.ndim for d in dims):
        return None
    axes = {d % input.ndim for d in dims}
    if len(axes) < len(dims):
        return None
    return _empty(input, [1 if i in axes else n for i, n in enumerate(input.shape) if keepdim or i not in axes])


def _grouped_matmul(input: Any, mat2: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> Tensor | None:
    """Rows times the matrix of their group. torch has no meta kernel for most types, and would need real experts."""
    plain = isinstance(offs, Tensor) and bias is None and out_dtype is None
    if not plain or not _alike(input, mat2) or (input.ndim, mat2.ndim) != (2, 3):
        return None
    (_, inner), (experts, rows, columns) = input.shape, mat2.shape
    aligned = not any(n * input.itemsize % 16 for n in (inner, columns))
    strided = input.stride(1) == 1 and 1 in mat2.stride()[1:]
    fits = inner == rows and offs.shape == (experts,) and offs.dtype is torch.int32
    return _empty(input, (len(input), columns)) if fits and aligned and strided else None


_ACTIVATIONS = frozenset(
    {nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.Tanh}
)
_FORMS: dict[Any, Callable[..., Tensor | None]] = {
    **dict.fromkeys(_RANKS, _batch_norm),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d), _convolution),
    **dict.fromkeys(_ACTIVATIONS, _activation),
    **dict.fromkeys((operator.add, operator.sub, operator.mul, torch.add, torch.sub, torch.mul), _sum),
    nn.LayerNorm: lambda norm, input: _layer_norm(input, norm.normalized_shape, norm.weight, norm.bias),
    nn.Linear: lambda layer, input: _linear(input, layer.weight, layer.bias),
    F.layer_norm: _layer_norm,
    F.linear: _linear,
    **dict.fromkeys((torch.cat, torch.concat), _cat),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    torch.roll: _roll,
    torch._grouped_mm: _grouped_matmul,
}
