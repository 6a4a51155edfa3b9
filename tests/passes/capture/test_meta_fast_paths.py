"""What `forms` says of a call is what torch says of it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fxteleport.passes.capture import meta_fast_paths

SIZES = st.sampled_from([1, 2, 3, 5])
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int64])
META = torch.device("meta")


@st.composite
def tensors(draw: st.DrawFn, shape: list[int] | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """A meta tensor, laid out in any order of its axes, expanded or with gaps now and then."""
    shape = draw(st.lists(SIZES, min_size=1, max_size=4)) if shape is None else shape
    made = torch.empty(shape, dtype=dtype or draw(DTYPES), device=META)
    form = (
        draw(st.sampled_from(["plain", "plain", "plain", "moved", "cut", "expanded", "channels last"]))
        if shape
        else "plain"
    )
    if form == "moved":
        order = draw(st.permutations(range(len(shape))))
        made = torch.empty([shape[i] for i in order], dtype=made.dtype, device=META)
        made = made.permute([order.index(i) for i in range(len(shape))])
    elif form == "cut":
        made = torch.empty([*shape[:-1], shape[-1] + 1], dtype=made.dtype, device=META)[..., 1:]
    elif form == "expanded":
        made = torch.empty([1, *shape[1:]], dtype=made.dtype, device=META).expand(shape)
    elif form == "channels last" and len(shape) == 4:
        made = made.contiguous(memory_format=torch.channels_last)
    return made


@st.composite
def sums(draw: st.DrawFn) -> tuple[Any, tuple[Any, ...]]:
    target = draw(st.sampled_from([operator.add, operator.sub, operator.mul, torch.add, torch.sub, torch.mul]))
    a = draw(tensors())
    shape = [n if draw(st.booleans()) else 1 for n in a.shape][draw(st.integers(0, a.ndim)) :]
    b = draw(st.one_of(tensors(shape), tensors(list(a.shape), a.dtype), tensors(), st.integers(-2, 2), st.just(0.5)))
    a = draw(st.one_of(st.just(a), st.integers(-2, 2))) if draw(st.booleans()) else a
    return target, (b, a) if draw(st.booleans()) else (a, b)


@st.composite
def layers(draw: st.DrawFn) -> tuple[Any, tuple[Any, ...]]:
    x = draw(tensors())
    channels = x.shape[min(1, x.ndim - 1)] if draw(st.booleans()) else draw(SIZES)
    kernel, stride, padding, dilation = (draw(st.integers(low, 3)) for low in (1, 1, 0, 1))
    groups = draw(st.sampled_from([1, channels]))
    features, bias = draw(st.sampled_from([x.shape[-1], draw(SIZES)])), draw(st.booleans())
    like = {"dtype": draw(st.sampled_from([x.dtype if x.is_floating_point() else torch.float32, torch.float64]))}
    conv = draw(st.sampled_from([nn.Conv1d, nn.Conv2d]))
    norm = draw(st.sampled_from([nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d]))
    ends = draw(st.integers(1, x.ndim))
    made: Callable[[], nn.Module] = draw(
        st.sampled_from(
            [
                lambda: conv(
                    channels, groups * 2, kernel, stride, padding, dilation, groups, bias, device=META, **like
                ),
                lambda: conv(channels, 2, kernel, padding="same", device=META, **like),
                lambda: conv(channels, 2, kernel, padding=1, padding_mode="circular", device=META, **like),
                lambda: nn.Linear(features, 3, bias, device=META, **like),
                lambda: nn.LayerNorm(x.shape[-ends:], elementwise_affine=bias, device=META, **like),
                lambda: nn.LayerNorm(features, bias=bias, device=META, **like),
                lambda: norm(channels, affine=bias, track_running_stats=draw(st.booleans()), device=META, **like),
                lambda: nn.GELU(),
                lambda: nn.ReLU(bias),
                lambda: nn.SiLU(bias),
                lambda: nn.Hardswish(bias),
                lambda: nn.Hardsigmoid(bias),
                lambda: nn.ReLU6(bias),
                lambda: nn.Hardtanh(inplace=bias),
                lambda: nn.LeakyReLU(inplace=bias),
                nn.Sigmoid,
                nn.Tanh,
            ]
        )
    )
    return made().train(draw(st.booleans())), (x,)


@st.composite
def functions(draw: st.DrawFn) -> tuple[Any, tuple[Any, ...]]:
    x = draw(tensors())
    out, features = draw(SIZES), draw(st.sampled_from([x.shape[-1], draw(SIZES)]))
    dtype = draw(st.sampled_from([x.dtype, torch.float64]))
    if draw(st.booleans()):
        weight = draw(tensors([out, features], dtype))
        return F.linear, (x, weight, draw(st.one_of(st.none(), tensors([out], dtype))))
    if draw(st.booleans()):
        dims = draw(st.lists(st.integers(-x.ndim, x.ndim - 1), min_size=1, max_size=2, unique=True))
        shifts = [draw(st.integers(-7, 7)) for _ in dims]
        return torch.roll, draw(st.sampled_from([(x, shifts, tuple(dims)), (x, shifts[0], dims[0]), (x, shifts[0])]))
    if draw(st.booleans()):
        dims = draw(st.lists(st.integers(-x.ndim - 1, x.ndim), min_size=1, max_size=3))
        return torch.mean, (x, draw(st.sampled_from([dims, tuple(dims), dims[0]])), draw(st.booleans()))
    if draw(st.booleans()):
        dim = draw(st.integers(-x.ndim - 1, x.ndim))
        shapes = [[draw(SIZES) if i == dim % x.ndim else n for i, n in enumerate(x.shape)] for _ in range(2)]
        others = [draw(st.one_of(tensors(shape, dtype), tensors())) for shape in shapes]
        return torch.cat, ([x, *others[: draw(st.integers(0, 2))]], dim)
    affine = (draw(st.one_of(st.none(), tensors([features], dtype))) for _ in range(2))
    return F.layer_norm, (x, (features,), *affine, 1e-6)


def test_it_says_what_torch_says_of_many() -> None:
    answered: list[bool] = []

    @given(st.one_of(sums(), layers(), functions()))
    @settings(max_examples=800, deadline=None, derandomize=True)
    def says(call: tuple[Any, tuple[Any, ...]]) -> None:
        target, args = call
        found = meta_fast_paths.known(target, args, {})
        answered.append(found is not None)
        if found is not None:  # then torch must not refuse
            with torch.no_grad():
                asked = target(*args)
            assert all(asked is not x for x in args)
            assert (found.shape, found.stride(), found.dtype) == (asked.shape, asked.stride(), asked.dtype)
            assert found.is_meta and asked.is_meta

    says()
    assert sum(answered) > 0.25 * len(answered) > 0 and not all(answered)


@given(layers())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_what_is_written_in_place_is_what_torch_writes(call: tuple[Any, tuple[Any, ...]]) -> None:
    target, (x,) = call
    version = x._version
    found = meta_fast_paths.in_place(target, (x,), {})
    if found is None:
        assert x._version == version
        return
    assert found is x and x._version > version
    shape, stride, version = x.shape, x.stride(), x._version
    with torch.no_grad():
        assert target(x) is x
    assert x._version > version and (x.shape, x.stride()) == (shape, stride)


@pytest.mark.parametrize(
    "target",
    [nn.Conv1d(2, 3, 1), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(2), nn.LayerNorm(7), nn.Linear(7, 3), nn.GELU(), nn.SiLU()],
    ids=lambda module: type(module).__name__,
)
def test_what_hooks_or_other_forwards_change_is_asked_of_torch(target: nn.Module) -> None:
    x = torch.empty((4, 2, 7) if isinstance(target, nn.Conv1d) else (4, 2, 5, 7), device=META)
    target = target.to(META).eval()
    assert meta_fast_paths.known(target, (x,), {}) is not None
    assert meta_fast_paths.known(target, (x,), {"other": 1}) is None
    hook = target.register_forward_hook(lambda *_: None)
    assert meta_fast_paths.known(target, (x,), {}) is None
    hook.remove()
    target.forward = lambda x: x  # type: ignore[method-assign]
    assert meta_fast_paths.known(target, (x,), {}) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_grouped_products_are_as_real_ones(dtype: torch.dtype, transposed: bool) -> None:
    """torch has no meta kernel for these."""
    x, experts = torch.randn(12, 16, dtype=dtype), torch.randn(3, 16, 24, dtype=dtype)
    experts = experts.mT.contiguous().mT if transposed else experts
    ends = torch.tensor([4, 7, 12], dtype=torch.int32)
    real = torch._grouped_mm(x, experts, offs=ends)
    found = meta_fast_paths.known(torch._grouped_mm, (x.to(META), experts.to(META)), {"offs": ends.to(META)})
    assert found is not None and found.is_meta
    assert (found.shape, found.stride(), found.dtype) == (real.shape, real.stride(), real.dtype)


def test_grouped_products_that_torch_refuses_are_left_to_it() -> None:
    x, experts, ends = torch.empty(4, 6, device=META), torch.empty(2, 6, 8, device=META), torch.empty(2, device=META)
    assert meta_fast_paths.known(torch._grouped_mm, (x, experts), {"offs": ends.int()}) is None  # rows of 24 bytes
    assert meta_fast_paths.known(torch._grouped_mm, (x, experts[:, :4]), {"offs": ends.int()}) is None
