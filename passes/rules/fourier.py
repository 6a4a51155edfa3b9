"""Complex numbers and Fourier transforms: networks that mix positions by their spectrum, rotary embeddings.

A complex number is scaled as one: the CoB is real, so both of its parts have it. A transform is linear, and mixes the
positions along its axes, which share a CoB.
"""

from __future__ import annotations

from typing import Any

import torch

from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.rules import shape_functions
from fxteleport.passes.rules.axes import BY_DIM
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.equivariant import axes_of
from fxteleport.passes.rules.joining import joined
from fxteleport.passes.rules.movement import moved
from fxteleport.passes.rules.operand import Operand
from fxteleport.passes.rules.registry import named, rule

_WHY = "a Fourier transform mixes these positions"


@rule(*(getattr(torch.fft, name) for name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")))
def fourier(call: Call, input: Operand, n: int | None = None, dim: int = -1, norm: str | None = None) -> CobMap:
    return call.constant(input.map, axes_of(dim, input.rank), _WHY)


@rule(*(getattr(torch.fft, name) for name in ("fft2", "ifft2", "rfft2", "irfft2", "hfft2", "ihfft2")))
def fourier2(call: Call, input: Operand, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> CobMap:
    return call.constant(input.map, axes_of(dim, input.rank), _WHY)


@rule(*(getattr(torch.fft, name) for name in ("fftn", "ifftn", "rfftn", "irfftn", "hfftn", "ihfftn")))
def fourier_of_many(call: Call, input: Operand, s: Any = None, dim: Any = None, norm: str | None = None) -> CobMap:
    """Over the last axes where only their sizes are given."""
    if dim is None and s is not None:
        dim = range(-len(s), 0)
    return call.constant(input.map, axes_of(dim, input.rank), _WHY)


@rule(*named("stft"))
def short_time(call: Call, input: Operand, n_fft: int, *rest: Any, **settings: Any) -> CobMap:
    """[..., times] -> [..., frequencies, frames], with a last axis [2] for complex numbers where that is asked for."""
    fixed(call, *rest, *settings.values())
    cob = call.constant(input.map, [input.rank - 1], _WHY)
    added = (1,) * (call.value.ndim - input.rank)
    return cob.each(lambda s: s.reshape(s.shape + added))


@rule(*named("istft"))
def back_from_short_time(call: Call, input: Operand, n_fft: int, *rest: Any, **settings: Any) -> CobMap:
    """[..., frequencies, frames] -> [..., times]."""
    fixed(call, *rest, *settings.values())
    over = range(call.value.ndim - 1, input.rank)
    cob = call.constant(input.map, over, _WHY)
    return cob.each(lambda s: s.squeeze(tuple(over)[1:]))


def fixed(call: Call, *settings: Any) -> None:
    """A window has no CoB."""
    for x in settings:
        if isinstance(x, Operand):
            call.pin(x.map, "it is a window")


@rule(torch.fft.fftshift, torch.fft.ifftshift, shape=shape_functions.same, axes=BY_DIM)
def shifted(call: Call, input: Operand, dim: Any = None) -> Any:
    return moved(call, [input])


@rule(*named("view_as_complex view_as_complex_copy"))
def as_complex(call: Call, input: Operand) -> CobMap:
    """[..., 2] -> [...]."""
    cob = call.constant(input.map, [input.rank - 1], "they are the two parts of a complex number")
    return cob.each(lambda s: s.squeeze(-1))


@rule(*named("view_as_real view_as_real_copy"))
def as_real(call: Call, input: Operand) -> CobMap:
    """[...] -> [..., 2]."""
    return input.map.each(lambda s: s.unsqueeze(-1))


@rule(*named("real imag conj_physical"))
def part(call: Call, input: Operand) -> CobMap:
    return input.map


@rule(*named("complex"))
def of_parts(call: Call, real: Operand, imag: Operand) -> CobMap:
    return joined(call, [real, imag], "they are the two parts of a complex number")


@rule(*named("polar"))
def of_length_and_angle(call: Call, abs: Operand, angle: Operand) -> CobMap:
    call.pin(angle.map, "it is an angle")
    call.positive(abs.map, "its derivative takes it for a length, which has no sign")
    return abs.map.aligned(call.value.ndim)
