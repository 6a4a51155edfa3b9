"""The modules that wrap operations, where scaled parameters alone cannot keep the function.

Their CoB is a persistent buffer, so a state dict says which function its parameters belong to. It does not load into
the original class, which has no such buffer.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fxteleport.passes.errors import GuardError
from fxteleport.passes.graph.fx_wrap import one_call


class Operation(nn.Module):
    """A function or a tensor method with its settings, as a module: `fn(x, *args, **kwargs)`."""

    def __init__(self, fn: Callable[..., Tensor] | str, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.fn, self.args, self.kwargs = fn, args, kwargs

    def forward(self, x: Tensor) -> Tensor:
        """Apply the operation to a tensor of any shape."""
        if isinstance(self.fn, str):
            return getattr(x, self.fn)(*self.args, **self.kwargs)  # type: ignore[no-any-return]
        return self.fn(x, *self.args, **self.kwargs)

    def extra_repr(self) -> str:
        name = self.fn if isinstance(self.fn, str) else getattr(self.fn, "__name__", str(self.fn))
        settings = [repr(a) for a in self.args] + [f"{k}={v!r}" for k, v in self.kwargs.items()]
        return ", ".join([name, *settings])


class Teleported(nn.Module):
    """A module with a CoB in one persistent buffer; None, which a state dict leaves out, is a CoB of 1."""

    buffer: ClassVar[str]

    @property
    def cob(self) -> Tensor | None:
        """The buffer's tensor."""
        return self._buffers[self.buffer]

    def put(self, cob: Tensor | None) -> None:
        """Replace the buffer's tensor, by None where the CoB changes nothing."""
        self._buffers[self.buffer] = None if is_trivial(cob) else cob

    def extra_repr(self) -> str:
        return "1" if self.cob is None else described(self.cob)


class TeleportedActivation(Teleported):
    """tau * f(x / tau): an activation (or a pooling) in another basis (paper, eq. 2).

    Args:
        f: the original activation, without parameters.
        tau: its CoB, broadcastable to the input and to the output; only the sign of it for a positively
            homogeneous `f`, only the magnitude for an odd one.
    """

    buffer = "tau"
    tau: Tensor | None

    def __init__(self, f: nn.Module, tau: Tensor) -> None:
        super().__init__()
        self.f = f
        self.register_buffer("tau", tau)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes as of `f`."""
        tau = self.tau
        if tau is None:
            return self.f(x)  # type: ignore[no-any-return]
        return rescaled(self.f(divided(x, tau)), tau, bool(self.f._forward_hooks))


class Rescale(Teleported):
    """x * factor: divides a CoB away before an operation with parameters, or multiplies by one after it."""

    buffer = "factor"
    factor: Tensor | None

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        """[...] -> [...], the factor broadcast."""
        return x if self.factor is None else scaled(x, self.factor)


@one_call
def rescaled(y: Tensor, tau: Tensor, seen: bool) -> Tensor:
    """y * tau, in place unless y was `seen` by a hook, which may keep it, or a gradient needs it."""
    if _is_recorded():
        return (y * tau).to(y.dtype)
    in_place = not (seen or y.requires_grad or 0 in y.stride())
    return _applied(operator.imul if in_place else torch.mul, y, tau)


@one_call
def scaled(x: Tensor, factor: Tensor) -> Tensor:
    """x * factor in the memory layout and the number type of `x` (under autocast the factor has another)."""
    return _kept(torch.mul, x, factor)


@one_call
def divided(x: Tensor, tau: Tensor) -> Tensor:
    """x / tau, as `scaled`. No inverse is stored beside the CoB: code that sets the one would have to set the other."""
    return _kept(torch.div, x, tau)


_Binary = Callable[[Tensor, Tensor], Tensor]


def _kept(fn: _Binary, x: Tensor, factor: Tensor) -> Tensor:
    """fn(x, factor) in the memory layout and the number type of `x`.

    The result of a slice of a larger tensor, or of an expanded one, would be dense, and kernels round differently in
    another layout: the layout is kept, so that the next operation gives the original's bits.
    """
    if _is_recorded():
        return fn(x, factor).to(x.dtype)
    small = _unexpanded(x, factor)
    result = _applied(fn, small, factor)
    if _is_slice(small):
        result = torch.empty_strided(small.shape, small.stride(), dtype=x.dtype, device=result.device).copy_(result)
    return result if small is x else result.expand(x.shape)


def _applied(fn: _Binary, x: Tensor, factor: Tensor) -> Tensor:
    """fn(x, factor) in the number type of `x`; a GuardError where the sizes do not fit (`_require_fit`)."""
    try:
        result = fn(x, factor).to(x.dtype)
    except RuntimeError:
        _require_fit(x, factor)
        raise
    if result.numel() != x.numel() or result.ndim != x.ndim:
        _require_fit(x, factor)
    return result


def _require_fit(x: Tensor, factor: Tensor) -> None:
    """Refuse a tensor of another size than the captured one's along an axis along which the CoB varies.

    Raises:
        GuardError: the size differs. Broadcasting might hide it.
    """
    sizes = zip(reversed(factor.shape), reversed(x.shape), strict=False)
    if factor.ndim > x.ndim or any(n not in (1, m) for n, m in sizes):
        raise GuardError(
            f"this network was captured with other sizes: a CoB of {list(factor.shape)} meets a tensor of"
            f" {list(x.shape)}: capture it again"
        )


def _is_recorded() -> bool:
    """True while `torch.compile`, `torch.export` or `torch.jit.trace` records operations."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def _unexpanded(x: Tensor, factor: Tensor) -> Tensor:
    """`x` with size 1 along expanded axes along which the factor does not vary."""
    for axis, (stride, size) in enumerate(zip(x.stride(), x.shape, strict=True)):
        of_factor = axis - x.ndim + factor.ndim
        if stride == 0 and size > 1 and (of_factor < 0 or factor.shape[of_factor] == 1):
            x = x.narrow(axis, 0, 1)
    return x


def _is_slice(x: Tensor) -> bool:
    """True for a tensor with gaps between its elements in memory (and no two elements at one address)."""
    if x.is_contiguous():
        return False
    end = 1
    gaps = False
    for stride, size in sorted((s, n) for s, n in zip(x.stride(), x.shape, strict=True) if n > 1):
        if stride < end:
            return False
        gaps = gaps or stride > end
        end += stride * (size - 1)
    return gaps


def described(tau: Tensor) -> str:
    """A CoB in one line: how many values, their range, how many are negative."""
    if tau.is_meta or not tau.numel():
        return f"{tau.numel()} values"
    size = tau.detach().abs().float()
    negative = int((tau < 0).sum())
    text = f"{tau.numel()} values of {float(size.min()):.4g} to {float(size.max()):.4g}"
    return text + (f", {negative} negative" if negative else "")


def is_trivial(tau: Tensor | None) -> bool:
    """True for a CoB that changes nothing."""
    return tau is None or bool(torch.all(tau == 1))
