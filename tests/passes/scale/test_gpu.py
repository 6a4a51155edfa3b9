"""The kernel for GPUs: on one where there is one, and everywhere in Triton's interpreter."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fxteleport.passes.scale import gpu, row_column_scaling
from fxteleport.passes.scale.row_column_scaling import Fused, matrix

DEVICES = ["interpreted", pytest.param("cuda", marks=pytest.mark.cuda)]
SHAPES = [(30, 40), (1000, 7), (2, 9000), (1, 1), (0, 4), (4, 0), (17, 31), (1, 4096), (4096, 2), (64, 128), (5, 4097)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A device whose tensors the kernel multiplies."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("this machine has no CUDA device")
        yield "cuda"
        return
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    kernel = importlib.reload(importlib.import_module("fxteleport.passes.scale.triton_kernel"))
    monkeypatch.setattr(row_column_scaling, "_has_kernel", lambda tensor: tensor.dtype in gpu.DTYPES)
    monkeypatch.setattr(Fused, "scale_", lambda self: self.tiles.scale_())
    yield "cpu"
    monkeypatch.undo()
    importlib.reload(kernel)


def made(weights: list[Tensor], factors: list[list[Tensor]]) -> Fused:
    number = torch.float64 if weights[0].dtype == torch.float64 else torch.float32
    parts = [f.to(number).reshape(-1) for several in factors for f in several]
    both, start = Fused(torch.cat(parts)), 0
    for weight, several in zip(weights, factors, strict=True):
        places = []
        for factor in several:
            places.append((start, tuple(factor.shape)))
            start += factor.numel()
        found = matrix(weight, places)
        assert found is not None
        both.add(found)
    return both


def drawn(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)


@pytest.mark.parametrize("dtype", gpu.DTYPES, ids=str)
def test_many_matrices(dtype: torch.dtype, device: str) -> None:
    """As torch multiplies in float32 or float64, and rounds once: rows, columns, both, and some at odd addresses."""
    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter cuts bfloat16 off instead of rounding it")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weights, factors = [], []
    for n, m in SHAPES:
        both = [drawn((n, 1), wide, device), drawn((1, m), wide, device)]
        for several in (both[:1], both[1:], both):
            odd = drawn((n * m + 1,), dtype, device)[1:].view(n, m)
            weights += [odd.clone(), odd]
            factors += [several, several]
    expected = []
    for weight, several in zip(weights, factors, strict=True):
        product = weight.to(wide, copy=True)
        for factor in several:
            product *= factor
        expected.append(product.to(dtype))
    together = made(weights, factors)
    assert len(together.tiles._launches) == 2  # one of vectors, one of what has odd addresses or rows
    together.scale_()
    for weight, right in zip(weights, expected, strict=True):
        assert torch.equal(weight, right), tuple(weight.shape)


def test_the_numbers_may_change(device: str) -> None:
    weight = torch.ones(5, 3, device=device)
    both = made([weight], [[torch.ones(5, 1, device=device), torch.ones(1, 3, device=device)]])
    for number in (2.0, 0.25):
        both.numbers[:5] = number
        both.numbers[5:] = 2.0
        both.scale_()
    assert torch.equal(weight, torch.full_like(weight, 2))


def test_nothing_to_multiply(device: str) -> None:
    weight = torch.ones(0, 3, device=device)
    made([weight], [[torch.ones(1, 3, device=device)]]).scale_()


def test_where_the_kernel_does_not_work() -> None:
    """It is tried first: torch's operations do what it cannot."""
    assert not gpu.works.__wrapped__(torch.float32, torch.device("meta"))
