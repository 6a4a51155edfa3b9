"""The modules that teleportation puts into a network where parameters alone cannot keep its function.

Their CoB is a buffer outside the state dict, so that a teleported network has the keys of the original.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.errors import GuardError
from fxteleport.passes.retraced import one_call


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


class TeleportedActivation(nn.Module):
    """tau * f(x / tau): an activation (or a pooling) in another basis (paper, eq. 2).

    Args:
        f: the original activation, without parameters.
        tau: its CoB, broadcastable to the input and to the output; only the sign of it for a positively
            homogeneous `f`, only the magnitude for an odd one.
    """

    def __init__(self, f: nn.Module, tau: Tensor) -> None:
        super().__init__()
        self.f = f
        self.register_buffer("tau", tau, persistent=False)
        self.register_buffer("inverse", tau.reciprocal(), persistent=False)

    tau: Tensor
    inverse: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Shapes as of `f`."""
        return rescaled(self.f(scaled(x, self.inverse)), self.tau, bool(self.f._forward_hooks))

    def extra_repr(self) -> str:
        return described(self.tau)


class Rescale(nn.Module):
    """x * factor: divides a CoB away before an operation with parameters of its own, or puts it back after."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor, persistent=False)

    factor: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """[...] -> [...], the factor broadcast."""
        return scaled(x, self.factor)

    def extra_repr(self) -> str:
        return described(self.factor)


@one_call
def rescaled(y: Tensor, tau: Tensor, seen: bool) -> Tensor:
    """y * tau, in place where no one else has `seen` y (a hook may keep it) and no gradient needs it."""
    if _is_recorded():
        return (y * tau).to(y.dtype)
    return _product(y, tau, in_place=not (seen or y.requires_grad or 0 in y.stride()))


@one_call
def scaled(x: Tensor, factor: Tensor) -> Tensor:
    """x * factor in the memory layout and the number type of `x` (under autocast the factor has another).

    A slice of a larger tensor or an expanded one would come out dense, and kernels round another way where rows end
    elsewhere: the layout is kept, so that the operation behind it gives the original's bits.
    """
    if _is_recorded():
        return (x * factor).to(x.dtype)
    small = _unexpanded(x, factor)
    result = _product(small, factor)
    if _is_slice(small):
        result = torch.empty_strided(small.shape, small.stride(), dtype=x.dtype, device=result.device).copy_(result)
    return result if small is x else result.expand(x.shape)


def _product(x: Tensor, factor: Tensor, in_place: bool = False) -> Tensor:
    """x * factor in the number type of `x`; a GuardError where the sizes do not fit (`_require_fit`)."""
    try:
        if in_place:
            return x.mul_(factor)
        result = (x * factor).to(x.dtype)
    except RuntimeError:
        _require_fit(x, factor)
        raise
    if result.numel() != x.numel() or result.ndim != x.ndim:
        _require_fit(x, factor)
    return result


def _require_fit(x: Tensor, factor: Tensor) -> None:
    """Refuse a tensor of another size than the captured one's along an axis along which the CoB varies.

    Raises:
        GuardError: it is one; broadcast, it might even be taken.
    """
    sizes = zip(reversed(factor.shape), reversed(x.shape), strict=False)
    if factor.ndim > x.ndim or any(n not in (1, m) for n, m in sizes):
        raise GuardError(
            f"this network was captured with other sizes: a CoB of {list(factor.shape)} meets a tensor of"
            f" {list(x.shape)}: capture it again"
        )


def _is_recorded() -> bool:
    """True while `torch.compile`, `torch.export` or `torch.jit.trace` takes down what is done, for any tensors."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def _unexpanded(x: Tensor, factor: Tensor) -> Tensor:
    """`x` with size 1 along the axes along which it repeats the same elements and the factor does not vary."""
    for axis, (stride, size) in enumerate(zip(x.stride(), x.shape, strict=True)):
        of_factor = axis - x.ndim + factor.ndim
        if stride == 0 and size > 1 and (of_factor < 0 or factor.shape[of_factor] == 1):
            x = x.narrow(axis, 0, 1)
    return x


def _is_slice(x: Tensor) -> bool:
    """True for a tensor with gaps between its elements (and no two elements in one place)."""
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
