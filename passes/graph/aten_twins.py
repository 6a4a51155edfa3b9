"""The twins of ATen operators whose name or arguments differ from those of torch's functions.

Each takes the arguments of the schema, under its names, and says the same in torch's functions: those that run the same
kernel, so that no bit differs. An operator that gives what is rarely read beside its value (`native_dropout`: the mask)
gives the value alone: whoever asks for the rest gets the operator itself (`Beside`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

TWINS: dict[str, Callable[..., Any]] = {}
_END = 2**63 - 1  # of a slice without an end


class Beside:
    """What an operator with several results gives: the first as a twin computes it, the others by the operator itself.

    Attributes:
        first: the value.
        others: gives all of them; where the twin does not say how, the operator itself.
    """

    def __init__(self, first: Any, others: Callable[[], Any] | None = None) -> None:
        self.first, self.others = first, others
        self._others: Any = None

    def __getitem__(self, index: int) -> Any:
        if index == 0:
            return self.first
        if self._others is None:
            assert self.others is not None
            self._others = self.others()
        return self._others[index]

    def __iter__(self) -> Iterator[Any]:
        self[1]
        return (self[i] for i in range(len(self._others)))


def twin(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the twin of operators, by the names of their schemas."""

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            assert name not in TWINS, name
            TWINS[name] = fn
        return fn

    return register


# -- weighted ----------------------------------------------------------------------------------------------------------

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@twin("convolution", "_convolution", "convolution_overrideable")
def convolution(
    input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any,
    groups: int, *flags: Any,
) -> Any:  # fmt: skip
    axes = max(map(len, (stride, padding, dilation))) - 1
    if transposed:
        return _TRANSPOSED[axes](input, weight, bias, stride, padding, output_padding, groups, dilation)
    return _CONVOLUTIONS[axes](input, weight, bias, stride, padding, dilation, groups)


@twin("embedding")
def embedding(
    weight: Any, indices: Any, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Any:
    padding = None if padding_idx < 0 else padding_idx
    return F.embedding(indices, weight, padding, None, 2.0, scale_grad_by_freq, sparse)


@twin("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(
    weight: Any, indices: Any, offsets: Any, scale_grad_by_freq: bool = False, mode: int = 0, sparse: bool = False,
    per_sample_weights: Any = None, include_last_offset: bool = False, padding_idx: int | None = -1,
) -> Beside:  # fmt: skip
    padding = None if padding_idx is None or padding_idx < 0 else padding_idx
    return Beside(
        F.embedding_bag(
            indices, weight, offsets, None, 2.0, scale_grad_by_freq, ("sum", "mean", "max")[mode], sparse,
            per_sample_weights, include_last_offset, padding,
        )
    )  # fmt: skip


# -- norms -------------------------------------------------------------------------------------------------------------


@twin("batch_norm")
def batch_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, momentum: float,
    eps: float, cudnn_enabled: bool = True,
) -> Any:  # fmt: skip
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


@twin("layer_norm")
def layer_norm(
    input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:  # fmt: skip
    return F.layer_norm(input, normalized_shape, weight, bias, eps)


@twin("group_norm")
def group_norm(
    input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enabled: bool = True
) -> Any:
    return F.group_norm(input, num_groups, weight, bias, eps)


@twin("instance_norm")
def instance_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, use_input_stats: bool, momentum: float,
    eps: float, cudnn_enabled: bool = True,
) -> Any:  # fmt: skip
    return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


@twin("einsum")
def einsum(equation: str, tensors: Sequence[Any], *, path: Any = None) -> Any:
    return torch.einsum(equation, *tensors)


# -- pointwise ---------------------------------------------------------------------------------------------------------


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


# -- casts and copies --------------------------------------------------------------------------------------------------


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


# -- movement ----------------------------------------------------------------------------------------------------------


@twin("_unsafe_view", "_reshape_alias")
def unsafe_view(input: Any, size: Any, *stride: Any) -> Any:
    return input.reshape(size)


@twin("slice")
def slice_(input: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    return input[
        _along(dim, slice(start if type(start) is not int or start else None, None if _is_end(end) else end, step))
    ]


@twin("slice_scatter")
def slice_scatter(input: Any, src: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    return torch.slice_scatter(input, src, dim, start, None if _is_end(end) else end, step)


def _is_end(end: Any) -> bool:
    return type(end) is int and end >= _END


def _along(dim: int, item: Any) -> tuple[Any, ...]:
    """What indexes one axis, counted from the first or the last, whatever the rank."""
    whole = slice(None)
    return (*[whole] * dim, item) if dim >= 0 else (..., item, *[whole] * (-dim - 1))


@twin("index", "_unsafe_index")
def index(input: Any, indices: Sequence[Any]) -> Any:
    return input[_items(indices)]


@twin("index_put", "_unsafe_index_put")
def index_put(input: Any, indices: Sequence[Any], values: Any, accumulate: bool = False, *unsafe: Any) -> Any:
    if accumulate:
        return torch.index_put(input, tuple(indices), values, accumulate)
    copied = input.clone()
    copied[_items(indices)] = values
    return copied


@twin("index_put_", "_index_put_impl_")
def index_put_(input: Any, indices: Sequence[Any], values: Any, accumulate: bool = False, *unsafe: Any) -> Any:
    if accumulate:
        return input.index_put_(indices, values, accumulate)
    input[_items(indices)] = values
    return input


def _items(indices: Sequence[Any]) -> Any:
    items = tuple(slice(None) if i is None else i for i in indices)
    return items[0] if len(items) == 1 else items


@twin("constant_pad_nd")
def constant_pad_nd(input: Any, pad: Any, value: Any = 0) -> Any:
    return F.pad(input, pad, "constant", value)


@twin("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def reflection_pad(input: Any, padding: Any) -> Any:
    return F.pad(input, padding, "reflect")


@twin("replication_pad1d", "replication_pad2d", "replication_pad3d")
def replication_pad(input: Any, padding: Any) -> Any:
    return F.pad(input, padding, "replicate")


@twin("im2col")
def im2col(input: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    return F.unfold(input, kernel_size, dilation, padding, stride)


@twin("col2im")
def col2im(input: Any, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    return F.fold(input, output_size, kernel_size, dilation, padding, stride)


# -- pooling and sampling ----------------------------------------------------------------------------------------------


@twin("max_pool2d_with_indices")
def max_pool2d_with_indices(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Beside:
    given = input, kernel_size, stride or None, padding, dilation, ceil_mode
    return Beside(F.max_pool2d(*given), lambda: F.max_pool2d_with_indices(*given))


@twin("max_pool3d_with_indices")
def max_pool3d_with_indices(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Beside:
    given = input, kernel_size, stride or None, padding, dilation, ceil_mode
    return Beside(F.max_pool3d(*given), lambda: F.max_pool3d_with_indices(*given))


_INTERPOLATIONS, _PADDINGS = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")


@twin("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(input: Any, grid: Any, interpolation_mode: int, padding_mode: int, align_corners: bool) -> Any:
    return F.grid_sample(input, grid, _INTERPOLATIONS[interpolation_mode], _PADDINGS[padding_mode], align_corners)


# -- measures ----------------------------------------------------------------------------------------------------------


@twin("_cdist_forward")
def cdist(x1: Any, x2: Any, p: float, compute_mode: int | None) -> Any:
    modes = ("use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist")
    return torch.cdist(x1, x2, p, modes[compute_mode or 0])


@twin("_pdist_forward")
def pdist(input: Any, p: float = 2.0) -> Any:
    return F.pdist(input, p)


_NORMALISATIONS = ("backward", "ortho", "forward")


@twin("_fft_r2c")
def fft_r2c(input: Any, dim: Any, normalization: int, onesided: bool) -> Any:
    fn = torch.fft.rfftn if onesided else torch.fft.fftn
    return fn(input, dim=tuple(dim), norm=_NORMALISATIONS[normalization])


# -- sizes and checks --------------------------------------------------------------------------------------------------


@twin("sym_size")
def sym_size(input: Any, *dim: Any) -> Any:
    return input.size(*dim)


@twin("sym_numel")
def sym_numel(input: Any) -> Any:
    return input.numel()


@twin("sym_stride")
def sym_stride(input: Any, *dim: Any) -> Any:
    return input.stride(*dim)


@twin("sym_is_contiguous")
def sym_is_contiguous(input: Any, memory_format: Any = torch.contiguous_format) -> Any:
    return input.is_contiguous(memory_format=memory_format)


@twin("sym_storage_offset")
def sym_storage_offset(input: Any) -> Any:
    return input.storage_offset()


@twin("_local_scalar_dense", "item")
def item(input: Any) -> Any:
    return input.item()


@twin(
    "_assert_scalar", "_functional_assert_scalar", "_assert_async", "_functional_assert_async", "sym_constrain_range",
    "_assert_tensor_metadata", "sym_constrain_range_for_size", "_functional_sym_constrain_range",
)  # fmt: skip
def check(*args: Any, **kwargs: Any) -> None:
    """A check of the program's own: which inputs are right is not what the network computes."""
