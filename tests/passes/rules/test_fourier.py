"""Complex numbers and Fourier transforms: one CoB for both parts, and along the axes that a transform mixes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fft, nn

import fxteleport as ft


def pairs(x: Tensor) -> Tensor:
    """[2, 8, 4, 4] -> [2, 4, 4, 4, 2]: neighbouring channels."""
    return x.permute(0, 2, 3, 1).unflatten(-1, (4, 2)).contiguous()


# What is free of the 8 channels of x [2, 8, 4, 4].
REAL: dict[str, tuple[Callable[[Tensor], Any], int]] = {
    "rfft": (lambda x: fft.irfft(fft.rfft(x), n=4), 8),
    "fft of channels": (lambda x: fft.fft(x, dim=1).real, 1),
    "fft of another size": (lambda x: fft.ifft(fft.fft(x, 6, 2), dim=-2, norm="ortho").real, 8),
    "hfft": (lambda x: fft.hfft(fft.ihfft(x), n=4), 8),
    "rfft2": (lambda x: fft.irfft2(fft.rfft2(x, norm="ortho"), s=(4, 4), norm="ortho"), 8),
    "fft2 of channels": (lambda x: fft.ifft2(fft.fft2(x, dim=(1, 2)), dim=(1, 2)).real, 1),
    "hfft2": (lambda x: fft.hfft2(fft.ihfft2(x), s=(4, 4)), 8),
    "fftn of the last axes": (lambda x: fft.ifftn(fft.fftn(x, s=(4, 4))).imag + x, 1),
    "fftn of the last axes, channels first": (lambda x: fft.fftn(x.transpose(0, 1), s=(4, 4)).real.transpose(0, 1), 8),
    "fftn of channels": (lambda x: fft.fftn(x.permute(0, 2, 3, 1), s=(4, 8)).real, 1),
    "fftn of channels and a size": (lambda x: fft.fftn(x, s=(8, 4), dim=(1, 3)).real, 1),
    "rfftn": (lambda x: fft.irfftn(fft.rfftn(x, dim=(2, 3)), s=(4, 4), dim=(2, 3)), 8),
    "fftn of all": (lambda x: fft.fftn(x).real, 1),
    "shift of positions": (lambda x: fft.ifftshift(fft.fftshift(fft.fft2(x)), (2, 3)).real, 8),
    "pairs of channels": (lambda x: torch.view_as_complex(pairs(x)).real, 4),
    "rotary": (
        lambda x: torch.view_as_real(
            torch.view_as_complex(pairs(x)) * torch.polar(torch.ones(4), torch.arange(4.0))
        ).flatten(3).permute(0, 3, 1, 2),
        4,
    ),
    "both parts": (lambda x: torch.view_as_real(fft.fft(x)).flatten(-2), 8),
    "stft": (lambda x: torch.stft(x.flatten(2).flatten(0, 1), 4, return_complex=True).abs().unflatten(0, (2, 8)), 8),
    "real stft": (
        lambda x: torch.stft(x.flatten(2).flatten(0, 1), 4, 2, window=torch.hann_window(4), return_complex=False)
        .unflatten(0, (2, 8)),
        8,
    ),
    "istft": (
        lambda x: torch.istft(torch.stft(x[0].flatten(1), 4, window=torch.ones(4), return_complex=True), 4,
                              window=torch.ones(4)).expand(x.shape[0], -1, -1),
        8,
    ),
    "stft of channels": (lambda x: torch.stft(x[:, :, 0, 0], 4, return_complex=True).real, 1),
    "stft, its window": (lambda x: torch.stft(x[:, 0, 0], 4, window=x[0, 4:, 0, 0], return_complex=True).real, 4),
    "istft of channels": (lambda x: torch.istft(torch.complex(x, x)[:, :3, 0], 4, window=torch.ones(4).to(x)), 6),
    "istft, its window": (
        lambda x: torch.istft(torch.complex(x, x)[:, :1, 0].expand(2, 3, 4), 4, window=x[0, 4:, 0, 0]),
        4,
    ),
    "polar of a vector": (lambda x: torch.polar(x.mean((0, 2, 3)), torch.zeros(2, 8).to(x)).real, 8),
    "length": (lambda x: fft.fft(x).abs(), 8),
    "conjugate": (lambda x: torch.imag(fft.fft(x).conj_physical()) + fft.fft(x).conj().mT.resolve_conj().real, 8),
    "adjoint": (lambda x: fft.fft2(x).adjoint().real, 8),
    "square": (lambda x: (fft.fft(x) ** 2).real, 8),
    "a choice": (lambda x: torch.where(torch.arange(4) > 1, fft.fft(x), 0 * fft.fft(x)).real, 8),
    "polar": (lambda x: torch.polar(x, torch.arange(4.0).to(x)).imag, 8),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_along_the_axes(name: str, check_operation: Callable[..., None]) -> None:
    operation, free = REAL[name]
    check_operation(operation, full=free)


@pytest.mark.parametrize(
    ("operation", "free"),
    [
        (lambda x, y: torch.complex(x, y).abs(), 8),
        (lambda x, y: (torch.complex(x, y) * torch.complex(y, x)).imag, 8),
        (lambda x, y: (fft.fft(x) * fft.fft(y)).real, 16),
        (lambda x, y: (fft.fft(x) / fft.fft(y + 3 * y.amax())).real, None),
    ],
)
def test_of_two(operation: Callable[..., Tensor], free: int | None, check_operation: Callable[..., None]) -> None:
    check_operation(operation, full=free, streams=2)


def test_an_angle_and_a_complex_power_pin(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x: torch.polar(torch.ones_like(x), x).real, full=0)
    check_operation(lambda x: (fft.fft(x) ** 3).real, full=0, known=False)


class FourierNeuralOperator(nn.Module):
    """A layer of one: low frequencies are mixed over channels by a complex weight, the others are dropped."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.lift = nn.Conv2d(3, 8, 1, dtype=dtype)
        self.weight = nn.Parameter(torch.randn(8, 6, 3, 3, dtype=dtype.to_complex()) / 3)
        self.past = nn.Conv2d(8, 6, 1, dtype=dtype)
        self.head = nn.Linear(6, 4, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        spectrum = fft.rfft2(x)
        out = torch.zeros(x.shape[0], 6, *spectrum.shape[2:], dtype=spectrum.dtype)
        out[:, :, :3, :3] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, :3, :3], self.weight)
        y = fft.irfft2(out, s=x.shape[-2:]) + self.past(x)
        return self.head(torch.relu(y).mean((2, 3)))


def test_complex_padding_and_odd_functions(check_operation: Callable[..., None]) -> None:
    pad = torch.constant_pad_nd
    check_operation(lambda x: pad(torch.complex(x, x), (0, 0, 0, 0, 1, 0), 2 + 0j).real, full=0, weights=0)
    check_operation(lambda x: pad(torch.complex(x, x), (0, 0, 0, 0, 1, 0), 0j).real, full=8, weights=8)
    check_operation(lambda x: torch.tanh(torch.complex(x, x / 2)).imag, full=8, weights=0)
    check_operation(lambda x: torch.atan(torch.complex(4 * x, 3 * x)).imag, full=0, weights=0)  # a branch cut
    check_operation(lambda x, y: torch.complex(x, x).__rmul__(torch.complex(y, x)).imag, full=8, weights=8, streams=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["full", "weights"])
def test_a_fourier_neural_operator_moves(mode: str, dtype: torch.dtype, assert_exact: Callable[..., ft.Plan]) -> None:
    torch.manual_seed(0)
    model = FourierNeuralOperator(dtype).eval()
    plan = assert_exact(model, torch.randn(2, 3, 8, 8, dtype=dtype), mode=mode, at_least=8 + 6)
    assert plan.num_free == 8 + 6
    assert not plan.opaque
    assert plan.moved > 0.99
