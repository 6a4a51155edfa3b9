"""Compare: all outputs of two networks, of any kind; and which of them can distinguish two networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes.errors import InputError
from fxteleport.passes.rules.operand import carries
from fxteleport.verify.outputs import Container, Outputs, dense, has_fractions, outputs, require_alike


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of two networks' outputs.

    Attributes:
        pairs: the floating-point outputs of both networks.
        bitwise: all outputs are equal to the last bit.
        max_abs, max_rel: the largest difference; relative to the largest magnitude of its output.
        other: the first output that differs and is not floating-point (and so has no rounding).
        constant: the tensors whose finite values are constant in the first network.
        vacuous: no output can distinguish two networks.
    """

    pairs: list[tuple[Tensor, Tensor]]
    bitwise: bool
    max_abs: float
    max_rel: float
    other: str | None
    constant: tuple[str, ...]
    vacuous: bool

    @property
    def dtypes(self) -> set[torch.dtype]:
        """The number formats of the outputs."""
        return {a.dtype for a, _ in self.pairs}


def compare(expected: Any, actual: Any) -> Comparison:
    """Compare two networks' outputs, structures of any kind.

    Raises:
        InputError: they have different structures, shapes or types.
    """
    return compared(outputs(expected), outputs(actual))


def compared(expected: Outputs, actual: Outputs) -> Comparison:
    """As `compare`, of outputs by path."""
    require_alike(expected, actual, types=True)
    exact = [p for p, a in expected.items() if not has_fractions(a) and not _alike(p, a, actual[p])]
    pairs = {p: (_tensor(a), _tensor(actual[p])) for p, a in expected.items() if has_fractions(a)}
    differences = [difference(a, b) for a, b in pairs.values()]
    tensors = {p: dense(a) for p, a in expected.items() if isinstance(a, Tensor)}
    constant = tuple(p for p, a in tensors.items() if is_vacuous(a))
    # A boolean mask may vary without depending on a parameter: it counts only where there is no other output.
    telling = [p for p, a in tensors.items() if carries(a)] or list(tensors)
    return Comparison(
        [pair for p, pair in pairs.items() if p in tensors],
        not exact and all(equal(a, b) for a, b in pairs.values()),
        max((f[0] for f in differences), default=0.0),
        max((f[1] for f in differences), default=0.0),
        exact[0] if exact else None,
        constant,
        all(p in constant for p in telling),
    )


def _tensor(x: Any) -> Tensor:
    return (
        dense(x)
        if isinstance(x, Tensor)
        else torch.tensor(x, dtype=torch.complex128 if isinstance(x, complex) else torch.float64)
    )


_SINGLE = (torch.dtype, torch.layout, torch.memory_format, type)  # compared by identity


def _alike(path: str, a: Any, b: Any) -> bool:
    """True for equal outputs that are not floating-point; objects without `__eq__` are compared by class.

    Raises:
        InputError: they cannot be compared.
    """
    if isinstance(a, _SINGLE):
        return a is b
    if isinstance(a, Tensor):
        a, b = dense(a), dense(b)
        if a.is_quantized:
            a, b = a.int_repr(), b.int_repr()
        if a.is_floating_point():  # a float of a byte or less
            a, b = a.view(torch.uint8), b.view(torch.uint8)
        return torch.equal(a, b)
    if isinstance(a, Container) or getattr(type(a), "__eq__", None) is object.__eq__:
        return type(a) is type(b)
    try:
        return bool(a == b)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"the outputs cannot be compared: {path} is a {type(a).__qualname__}: {error}") from error


def is_vacuous(x: Tensor) -> bool:
    """True for an output that proves nothing: its finite values are constant or empty or, for one element, zero.

    Values that are not finite (a mask's -inf) are compared by position, but no parameter need decide these.
    """
    if x.is_quantized or (x.itemsize == 1 and x.is_floating_point()):
        x = x.dequantize() if x.is_quantized else x.float()
    x = _finite(x)
    if x.numel() == 0:
        return True
    first = x.reshape(-1)[0]
    return bool(first == 0) if x.numel() == 1 else bool((x == first).all())


def _finite(x: Tensor) -> Tensor:
    """The finite values of a tensor, flattened if some are not finite."""
    finite = torch.isfinite(x)
    return x if bool(finite.all()) else x[finite]


def equal(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit, in shape and format; NaN equals NaN.

    0 equals -0: a change of basis does not keep the sign of a sum that cancels (see `passes.rules.bilinear`).
    """
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


def difference(a: Tensor, b: Tensor) -> tuple[float, float, int]:
    """The largest absolute difference, the largest relative one, and its position.

    Relative to the largest |a|; but masked positions (see `_masked`) and the others have a scale each.
    """
    if a.shape != b.shape or a.numel() == 0:
        return (float("inf"), float("inf"), 0) if a.shape != b.shape else (0.0, 0.0, 0)
    widest, at = _widest(a.reshape(-1), b.reshape(-1))
    if math.isfinite(widest) and (top := _one_scale(a)) is not None:  # finite: so is everything
        return widest, widest / max(top, torch.finfo(torch.float64).tiny), at
    wide = torch.complex128 if a.is_complex() else torch.float64
    x, y = a.to(wide), b.to(wide)
    gap = torch.where(x == y, 0.0, (x - y).abs()).reshape(-1)
    gap = torch.where(gap.isnan(), torch.where((x.isnan() & y.isnan()).reshape(-1), 0.0, float("inf")), gap)
    size = torch.where(torch.isfinite(x), x, 0).abs().reshape(-1)
    scale = size.max() if (masked := _masked(size)) is None else torch.where(masked, size.max(), size[~masked].max())
    relative = gap / scale.clamp(min=torch.finfo(torch.float64).tiny)
    at = int(relative.argmax())
    return float(gap.max()), float(relative[at]), at


_RUN = 1 << 17  # elements at a time: their differences stay in a core's cache


def _widest(x: Tensor, y: Tensor) -> tuple[float, int]:
    """The largest absolute difference of two vectors, in float64, and its position; not finite if any value is not.

    It is computed by runs of elements, which on a CPU is seven times faster than all at once.
    """
    wide = torch.complex128 if x.is_complex() else torch.float64
    run = _RUN if x.device.type == "cpu" else len(x)
    widest, position = -1.0, 0
    for start in range(0, len(x), run):
        gap = _gap(x, y, start, run, wide)
        if not (largest := float(gap.max())) <= widest:
            widest, position = largest, start
            if not math.isfinite(largest):
                break
    return widest, position + int(_gap(x, y, position, run, wide).argmax())


def _gap(x: Tensor, y: Tensor, start: int, run: int, wide: torch.dtype) -> Tensor:
    part = slice(start, start + run)
    gap = x[part].to(wide, copy=True).sub_(y[part].to(wide))
    return gap.abs() if gap.is_complex() else gap.abs_()


def _one_scale(a: Tensor) -> float | None:
    """The largest magnitude of a finite tensor, or None if it may have two scales (see `_masked`)."""
    if a.is_complex():
        size = a.to(torch.complex128).abs().reshape(-1)
        return float(size.max()) if _masked(size) is None else None
    low, high = (float(end) for end in (a.float() if a.itemsize == 1 else a).aminmax())
    top = max(-low, high)
    some = a.reshape(-1)[:_FEW].to(torch.float64).abs()
    if _shows_one_scale(some, top) or _masked(a.to(torch.float64).abs().reshape(-1)) is None:
        return top
    return None


_FEW = 4096
_APART = 1000.0  # a mask's constant is larger than the unmasked values by this factor


def _masked(size: Tensor) -> Tensor | None:
    """The positions that a mask has filled with a constant (-1e9, say), whose scale would hide the other values.

    Such a constant occurs at several positions, possibly added to values, with a gap in the magnitudes below it. None
    where there is no such constant.
    """
    top = size.max()
    if _shows_one_scale(size[:_FEW], float(top)):  # as most tensors do
        return None
    above = size > top / _APART
    if int(above.sum()) < 2 or bool((size[above] < 0.99 * top).any()) or not bool(size[~above].any()):
        return None
    return above


def _shows_one_scale(size: Tensor, top: float) -> bool:
    """True if some magnitude lies in the gap below a mask's constant: then there is no such constant."""
    return bool(((size > top / _APART) & (size < 0.99 * top)).any())


def largest_tolerance(model: nn.Module, expected: list[Tensor]) -> float:
    """The tolerance above which a comparison cannot distinguish the original from a network that lacks one weight.

    A network without weights has a constant output. The nearest constant differs from an output by half of the output's
    range: s, relative to its largest magnitude. If all N weights (parameters with two axes or more) contribute equally,
    one contributes s / N. Outputs within the tolerance of the original, and those within the tolerance of a network
    that lacks one weight, are disjoint while twice the tolerance is below s / N.
    """
    weights = sum(p.ndim > 1 for p in model.parameters())
    spreads = [_spread(x) for x in expected if not is_vacuous(x)]
    return min(spreads, default=1.0) / (2 * max(1, weights))


def _spread(x: Tensor) -> float:
    x = _finite(x)
    if x.numel() == 1:
        return 1.0
    parts = torch.view_as_real(x) if x.is_complex() else x
    values = parts.to(torch.float64).reshape(-1)
    if (masked := _masked(values.abs())) is not None:
        values = values[~masked]
    return float(values.max() - values.min()) / 2 / float(values.abs().max())
