"""Differences of tensors: what is measured, whatever infinities, NaNs and masks stand in them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fxteleport.verify.compare import compare, difference


def plainly(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The largest difference, absolute and relative to the largest finite |a|, element by element."""
    pairs = list(zip(a.double().flatten().tolist(), b.double().flatten().tolist(), strict=True))
    gaps = [0.0 if x == y or (math.isnan(x) and math.isnan(y)) else abs(x - y) for x, y in pairs]
    widest = max(math.inf if math.isnan(g) else g for g in gaps)
    scale = max((abs(x) for x, _ in pairs if math.isfinite(x)), default=0.0)
    return widest, widest / max(scale, torch.finfo(torch.float64).tiny)


SPECIAL = (0.0, math.nan, math.inf, -math.inf, 1e-300)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 40), (2, 5000)])
def test_the_largest_difference(seed: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(seed)
    a = torch.randn(shape, dtype=torch.float64)
    b = a + 1e-3 * torch.randn(shape) * (torch.rand(shape) < 0.5)
    for special in SPECIAL[: seed % 6]:
        for x in (a, b)[seed % 2 :]:
            x.view(-1)[int(torch.randint(x.numel(), ()))] = special
    gap, relative, at = difference(a, b)
    assert (gap, relative) == plainly(a, b)
    assert difference(a.flatten()[at : at + 1], b.flatten()[at : at + 1])[0] == gap


def test_a_masks_constant_is_no_scale_for_the_others() -> None:
    a = torch.linspace(-1, 1, 6000)
    a[4500:] = -1e9
    b = a.clone()
    b[10] += 0.5
    assert difference(a, b)[1] == pytest.approx(0.5, rel=1e-3)
    assert difference(a, b)[2] == 10


def test_infinite_outputs_are_compared_by_place_and_the_finite_ones_decide() -> None:
    infinity = float("inf")
    values = torch.tensor([[1.0, -infinity, 2.0], [3.0, 0.5, -infinity]])
    assert not compare(values, values.clone()).vacuous
    assert compare(values, values.clone()).bitwise
    moved = torch.tensor([[1.0, 4.0, 2.0], [3.0, 0.5, -infinity]])
    assert compare(values, moved).max_rel == infinity
    scaled = torch.where(values.isinf(), values, values * 1.5)
    assert 0 < compare(values, scaled).max_rel < infinity
    for empty in (torch.full((2, 3), -infinity), torch.tensor([1.0, 1.0, -infinity])):
        assert compare(empty, empty.clone()).vacuous
