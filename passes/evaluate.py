"""Run one operation during capture, without touching a weight.

Activations and weights are meta tensors; constants (what depends on neither an input nor a parameter) keep
their real values, so that index tables and branches on shapes are known. An operation that meta tensors
cannot run (its output shape depends on data) is run once on made-up data to learn its shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

META = torch.device("meta")
CPU = torch.device("cpu")
# Moving a tensor to a device means nothing to a meta tensor.
_DEVICE_METHODS = frozenset({"cpu", "cuda", "xpu", "mps"})


class CannotRun(Exception):
    """The operation fails on real data too: the model does not run on these inputs."""


def run(
    op: str,
    target: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    real: Callable[..., Any] | None = None,
) -> Any:
    """The value of one call: meta if any argument is meta, else real (and on the CPU).

    `real` runs on real tensors where `target` cannot: a module with its weights.

    Raises:
        CannotRun: the call fails on meta tensors and on made-up real ones.
    """
    fn = call_of(op, target)
    leaves = pytree.tree_leaves((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    on_meta = any(t.is_meta for t in tensors)
    if on_meta and op == "call_method" and target in _DEVICE_METHODS:
        return args[0]
    mixed = on_meta and not all(t.is_meta for t in tensors)
    devices = any(isinstance(x, torch.device) for x in leaves) or "device" in kwargs
    here = META if on_meta else CPU
    given = (args, kwargs)
    if mixed or devices:
        args, kwargs = pytree.tree_map(lambda x: _placed(x, here), given)
        if kwargs.get("device") is not None:
            kwargs["device"] = here
    try:
        return fn(*args, **kwargs)
    except Exception as error:
        if mixed:  # a real index may be what decides the shape
            try:
                return fn(*given[0], **given[1])
            except Exception:
                pass
        return run_for_real(real or fn, given, error)


def call_of(op: str, target: Any) -> Callable[..., Any]:
    """The Python callable behind a node's op and target."""
    if op == "call_method":
        return lambda self, *args, **kwargs: getattr(self, target)(*args, **kwargs)
    return target  # type: ignore[no-any-return]


def _placed(x: Any, device: torch.device) -> Any:
    if isinstance(x, torch.device):
        return device
    if isinstance(x, Tensor) and x.device != device:
        return x.to(device)
    return x


def run_for_real(fn: Callable[..., Any], arguments: tuple[Any, Any], error: Exception) -> Any:
    """The call on made-up data of the arguments' shapes; floating-point results come back as meta.

    Raises:
        CannotRun: it fails there too, or a meta-device module has no real weights to run with.
    """
    generator = torch.Generator().manual_seed(0)
    try:
        args, kwargs = pytree.tree_map(lambda x: made_up(x, generator), arguments)
        result = fn(*args, **kwargs)
    except Exception:
        raise CannotRun(f"{type(error).__name__}: {error}") from error
    return pytree.tree_map(to_meta, result)


def made_up(x: Any, generator: torch.Generator) -> Any:
    """A real CPU tensor in place of a meta one: normal for numbers with a fraction, zeros for others."""
    if not isinstance(x, Tensor) or not x.is_meta:
        return x
    if x.is_floating_point():
        return torch.randn(x.shape, generator=generator).to(x.dtype)
    return torch.zeros(x.shape, dtype=x.dtype)


def to_meta(x: Any) -> Any:
    """A meta tensor in place of a real one that carries a CoB (floating point or complex)."""
    if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex()):
        return x.detach().to(META)
    return x
