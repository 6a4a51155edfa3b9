"""Networks in float64: copies of them, and the error of a network's outputs from rounding alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes.capture.meta_values import tree_map
from fxteleport.passes.graph.module_clone import clone
from fxteleport.passes.rules.operand import carries
from fxteleport.verify.compare import difference
from fxteleport.verify.outputs import dense
from fxteleport.verify.running import outputs_and_writes, own_copy

_DRAWN = 65537  # random numbers for a tensor; larger tensors repeat them. A prime, so that rows begin differently


def doubled(x: Any) -> Any:
    """Tensors of fractions in a structure as float64 (complex128)."""
    return tree_map(lambda t: t.to(_wide(t.dtype)) if isinstance(t, Tensor) and _has_fractions(t) else t, x)


def _has_fractions(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else torch.float64


def in_float64(model: nn.Module) -> nn.Module:
    """A copy of a network in float64, in eval mode; its forward does not change the original."""
    copies: dict[int, Tensor] = {}  # tied ones stay tied
    wide: nn.Module = clone(model, lambda name, t: copies.setdefault(id(t), _copy(t, doubled(t))), training=False)
    return wide


def _copy(old: Tensor, new: Tensor) -> Tensor:
    new = new.detach().clone() if new is old else new.detach()
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def own_rounding(model: nn.Module, expected: Sequence[Tensor], inputs: Any, keyword_inputs: Any) -> float:
    """The relative difference of the original's floating-point outputs from `precise`."""
    values = precise(model, inputs, keyword_inputs, outputs_and_writes).values()
    reference = [dense(x) for x in values if carries(x)]
    return max((difference(r, e)[1] for e, r in zip(expected, reference, strict=True)), default=0.0)


def _output(network: nn.Module, inputs: Any, keyword_inputs: Any) -> Any:
    return network(*inputs, **keyword_inputs)


def precise(model: nn.Module, inputs: Any, keyword_inputs: Any, run: Callable[..., Any] = _output) -> Any:
    """The network's outputs (or the result of `run`) in float64, with a rounding error added to every parameter.

    Teleportation rounds each parameter once more.
    """
    generator = torch.Generator().manual_seed(0)

    def moved(tensor: Tensor) -> Tensor:
        count = tensor.numel()
        noise = torch.rand(min(count, _DRAWN), generator=generator, dtype=torch.float64)
        few = noise.mul_(2).sub_(1).mul_(torch.finfo(tensor.dtype).eps).add_(1).to(tensor.device)
        factor = few.repeat(-(-count // _DRAWN))[:count].view(tensor.shape) if count else few.view(tensor.shape)
        return tensor.to(_wide(tensor.dtype)) * factor if tensor.is_complex() else factor.mul_(tensor)

    try:
        wide = clone(model, lambda name, t: moved(t) if _has_fractions(t) else t.clone())
        return run(wide, doubled(own_copy(inputs)), doubled(own_copy(keyword_inputs)))
    except RuntimeError:  # the model needs its number format: then only the parameters are changed
        near = clone(model, lambda name, t: moved(t).to(t.dtype) if _has_fractions(t) else t.clone())
        return run(near, own_copy(inputs), own_copy(keyword_inputs))
