"""Scaling in place: the same numbers by every path, in every dtype and layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fxteleport.passes.domain.cob_map import IDENTITY, CobMap, single
from fxteleport.passes.scale import recipe as recipes
from fxteleport.passes.scale import row_column_scaling
from fxteleport.passes.scale.recipe import recipe


@pytest.fixture(autouse=True, params=["fused", "torch"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every law holds with the compiled kernel and without it."""
    if request.param == "torch":
        monkeypatch.setattr(row_column_scaling, "kernels", dict)
    else:
        pytest.importorskip("numba", exc_type=ImportError)


def scale_(tensor: Tensor, cob: CobMap, tau: Tensor) -> Tensor:
    scaled = recipe({"weight": cob}, {"weight": tensor.shape}, torch.arange(len(tau)), len(tau))
    scaled.scale_({"weight": tensor}, both(tau))
    return tensor


def both(tau: Tensor) -> Tensor:
    return torch.cat([tau, tau.reciprocal()])


def outer(rows: int, columns: int, rest: int = 2) -> tuple[CobMap, Tensor]:
    """tau_out / tau_in for a [rows, columns, ...] weight, and powers of two for its symbols."""
    shape = (1,) * (rest - 2)
    out = torch.arange(2, 2 + rows).view(rows, 1, *shape)
    into = torch.arange(2 + rows, 2 + rows + columns).view(1, columns, *shape)
    generator = torch.Generator().manual_seed(0)
    powers = torch.randint(-3, 4, (2 + rows + columns,), generator=generator)
    signs = torch.randint(0, 2, (2 + rows + columns,), generator=generator) * 2 - 1
    tau = (2.0**powers * signs).double()
    tau[:2] = 1
    return single(out) / single(into), tau


SHAPES = [(4, 3), (300, 200), (600, 500), (64, 64, 3, 3), (8, 1, 3, 3), (700, 300, 1, 1), (1, 5), (5, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_the_product(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    cob, tau = outer(shape[0], shape[1], len(shape))
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    factor = cob.scale(tau)
    assert factor is not None
    expected = (weight.double() * factor).to(dtype)
    found = weight.clone()
    assert scale_(found, cob, tau) is found
    assert torch.equal(found, expected)


@pytest.mark.parametrize("layout", ["transposed", "channels_last", "strided"])
def test_layouts(layout: str) -> None:
    cob, tau = outer(40, 30, 4)
    base = torch.randn(40, 30, 16, 16)
    weight = {
        "transposed": lambda: torch.randn(30, 40, 16, 16).transpose(0, 1),
        "channels_last": lambda: base.contiguous(memory_format=torch.channels_last),
        "strided": lambda: torch.randn(40, 30, 16, 32)[..., ::2],
    }[layout]()
    before, stride = weight.clone(), weight.stride()
    scale_(weight, cob, tau)
    assert weight.stride() == stride
    assert torch.equal(weight, before * cob.scale(tau).float())


def test_restores_every_bit() -> None:
    cob, tau = outer(300, 200)
    weight = torch.randn(300, 200)
    before = weight.clone()
    scale_(scale_(weight, cob, tau), cob, tau.reciprocal())
    assert torch.equal(weight, before)


def test_identity_does_nothing() -> None:
    weight = torch.randn(3, 4)
    before = weight.clone()
    scale_(weight, IDENTITY, torch.ones(2).double())
    cob, tau = outer(3, 4)
    scale_(weight, cob, torch.ones_like(tau))
    assert torch.equal(weight, before)


def test_factors_on_the_same_axes_are_multiplied() -> None:
    a, b, c = torch.tensor([[2], [3]]), torch.tensor([[4], [5]]), torch.tensor([[6, 7, 8]])
    tau = torch.tensor([1.0, 1, 2, 4, 8, 16, 0.5, -2, 4]).double()
    weight = torch.randn(2, 3)
    cob = CobMap(((a, 1), (b, -1), (c, 2), (a, -3)))
    assert torch.equal(scale_(weight.clone(), cob, tau), weight * cob.scale(tau).float())


def test_a_factor_over_both_axes() -> None:
    """A weight whose columns are read in another order by each row (a reshape into a Linear)."""
    both = torch.arange(2, 8).view(2, 3)
    tau = 2.0 ** torch.arange(8).double()
    weight = torch.randn(2, 3)
    cob = single(both) / single(torch.tensor([[2], [3]]))
    assert torch.equal(scale_(weight.clone(), cob, tau), weight * cob.scale(tau).float())


def test_a_factor_over_both_axes_and_one_of_the_columns() -> None:
    """A grouped transposed convolution: out varies over both axes, in is common to all groups."""
    both, columns = torch.arange(2, 8).view(3, 2, 1), torch.tensor([[[8], [9]]])
    tau = 2.0 ** torch.arange(10).double()
    for inside in (columns, columns[:, :1]):
        weight = torch.randn(3, 2, 4)
        cob = single(both) / single(inside)
        assert torch.equal(scale_(weight.clone(), cob, tau), weight * cob.scale(tau).float())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_factors_of_rows_of_two_lengths(dtype: torch.dtype) -> None:
    """A grouped convolution: out is that of its rows, in varies with the group. Together they are one factor."""
    out, inside = torch.arange(2, 8).view(6, 1, 1, 1), torch.arange(12).view(6, 2, 1, 1) % 4 + 8
    tau = 2.0 ** (torch.arange(12) % 7 - 3).double()
    for kernel in (1, 3):
        weight, cob = torch.randn(6, 2, kernel, kernel).to(dtype), single(out) / single(inside)
        made = recipe({"weight": cob}, {"weight": weight.shape}, torch.arange(12), 12)
        assert [shape for _, shape in made.factors["weight"]] == [(6, 2, 1, 1)]
        assert torch.equal(scale_(weight.clone(), cob, tau), weight * cob.scale(tau).to(dtype))


def test_a_factor_inside_the_rows() -> None:
    """One CoB for each position of the kernel."""
    tau = 2.0 ** torch.arange(12).double()
    for shape in ((1, 3, 1), (1, 1, 3), (1, 3, 3), (4, 1, 3)):
        symbols = (torch.arange(torch.Size(shape).numel()) % 10 + 2).view(shape)
        weight = torch.randn(4, 3, 3)
        assert torch.equal(scale_(weight.clone(), single(symbols), tau), weight * tau[symbols].float())


def test_parameters_and_scalars() -> None:
    parameter = torch.nn.Parameter(torch.tensor(3.0))
    scale_(parameter, single(torch.tensor(2)), torch.tensor([1.0, 1.0, -0.5]).double())
    assert parameter.item() == -1.5
    assert parameter.requires_grad


def test_complex_parameters() -> None:
    weight = torch.randn(4, 3, dtype=torch.complex64)
    cob, tau = outer(4, 3)
    assert torch.equal(scale_(weight.clone(), cob, tau), weight * cob.scale(tau).float())


def test_half_precision_is_rounded_once() -> None:
    """Two factors of 1/3 and 3.1: the product is rounded, not each step."""
    a, b = torch.tensor([[2], [3]]), torch.tensor([[4, 5, 6]])
    tau = torch.tensor([1.0, 1.0, 1 / 3, 3.1, 0.7, 1.9, 1.3]).double()
    weight = torch.randn(2, 3).to(torch.bfloat16)
    cob = CobMap(((a, 1), (b, 1)))
    expected = (weight.float() * (tau[a].float() * tau[b].float())).to(torch.bfloat16)
    assert torch.equal(scale_(weight.clone(), cob, tau), expected)


def test_one_recipe_serves_many_tensors_and_types() -> None:
    cob, tau = outer(4, 3)
    dtypes = (torch.float64, torch.float32, torch.bfloat16)
    weights = {str(dtype): torch.randn(4, 3).to(dtype) for dtype in dtypes}
    before = {name: w.clone() for name, w in weights.items()}
    found = recipe(dict.fromkeys(weights, cob), dict.fromkeys(weights, (4, 3)), torch.arange(len(tau)), len(tau))
    found.scale_(weights, both(tau))
    for name, weight in weights.items():
        assert torch.equal(weight, (before[name].double() * cob.scale(tau)).to(weight.dtype))


def test_blocks_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_BLOCK", 1 << 12)
    for shape in ((120, 300), (50, 40, 3, 3), (1, 5000), (5000, 1)):
        cob, tau = outer(shape[0], shape[1], len(shape))
        weight = torch.randn(shape)
        assert torch.equal(scale_(weight.clone(), cob, tau), weight * cob.scale(tau).float())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_parts_are_rounded_as_the_whole(dtype: torch.dtype) -> None:
    """Any values, not powers of two: rows one at a time, some columns, positions that are no run."""
    cob, _ = outer(12, 10, 3)
    tau = torch.rand(24, generator=torch.Generator().manual_seed(2)).double() + 0.5
    whole = recipe({"w": cob, "other": cob}, {"w": (12, 10, 4), "other": (12, 10, 4)}, torch.arange(24), 24)
    weight = torch.randn(12, 10, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = weight.clone()
    whole.scale_({"w": expected}, both(tau))
    everything = [torch.arange(n) for n in weight.shape]
    for axis in range(3):
        for there in (torch.tensor([1]), torch.arange(0), torch.tensor([0, 3, 2]), torch.arange(weight.shape[axis])):
            found = weight.index_select(axis, there)
            part = whole.part({"w": [there if i == axis else all_ for i, all_ in enumerate(everything)]})
            assert list(part.factors) == ["w"]
            part.scale_({"w": found}, both(tau))
            assert torch.equal(found, expected.index_select(axis, there))


def test_a_part_of_a_product() -> None:
    """A factor with numbers in several rounds beside tensors with fewer."""
    a, b, rows = torch.arange(2, 6).view(4, 1), torch.arange(6, 10).view(4, 1), torch.arange(10, 13).view(1, 3)
    tau = torch.rand(13, generator=torch.Generator().manual_seed(2)).double() + 0.5
    maps = {"plain": single(a) / single(rows), "product": CobMap(((a, 2), (b, -1), (rows, 3)))}
    whole = recipe(maps, {"plain": (4, 3), "product": (4, 3)}, torch.arange(13), 13)
    weights = {name: torch.randn(4, 3) for name in maps}
    expected = {name: w.clone() for name, w in weights.items()}
    whole.scale_(expected, both(tau))
    there = torch.tensor([2, 1])
    found = {name: w[there] for name, w in weights.items()}
    whole.part({name: [there] for name in maps}).scale_(found, both(tau))
    assert all(torch.equal(found[name], expected[name][there]) for name in maps)
