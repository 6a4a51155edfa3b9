"""Re-draw a model's parameters, so that a comparison of two networks is not vacuous.

A freshly initialised network often has a zero head, zero gammas or tiny layer scales: its output is then constant, and
any two such networks agree.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from fxteleport.arguments import require_module
from fxteleport.checked import checked
from fxteleport.passes.errors import InputError, ModelError


@checked
@torch.no_grad()
def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Re-draw every parameter and every batch norm statistic, in place; returns the model.

    Weights (two and more axes) are normal with deviation 0.5 / sqrt(fan-in), so that the values of a deep stack of
    residual blocks stay in range; biases and running means are normal with deviation 0.2; other vectors and scalars
    (gains, slopes) and running variances are uniform on [0.5, 1.5]. The numbers are drawn on the CPU, so they are the
    same on every device.

    Raises:
        ModelError: it is no `nn.Module`, or a parameter is not materialised, or was made in inference mode.
        InputError: torch's generators do not take the seed.
    """
    require_module(model)
    if not isinstance(seed, int) or not 0 <= seed < 1 << 63:
        raise InputError(f"the seed must be a whole number from 0 and below 2**63, got {seed!r}")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if nn.parameter.is_lazy(tensor):
            raise ModelError(f"'{name}' is lazy and not materialised: run the model once on real inputs first")
        if tensor.is_inference():
            raise ModelError(
                f"'{name}' was made in torch.inference_mode and cannot be changed: build the model outside"
            )
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size, deviation: float) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * deviation

    def uniform(shape: torch.Size) -> torch.Tensor:
        return torch.rand(shape, generator=generator) + 0.5

    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            continue
        if parameter.ndim >= 2:
            deviation = 0.5 * max(1, math.prod(parameter.shape[1:])) ** -0.5
            if parameter.is_cpu and parameter.dtype == torch.float32 and parameter.is_contiguous():
                parameter.normal_(generator=generator).mul_(deviation)  # the same numbers, without a second tensor
            else:
                parameter.copy_(normal(parameter.shape, deviation))
        elif name.rpartition(".")[2] == "bias":
            parameter.copy_(normal(parameter.shape, 0.2))
        else:
            parameter.copy_(uniform(parameter.shape))
    for name, buffer in model.named_buffers():
        last = name.rpartition(".")[2]
        if last == "running_mean":
            buffer.copy_(normal(buffer.shape, 0.2))
        elif last == "running_var":
            buffer.copy_(uniform(buffer.shape))
    return model
