"""Alternate backends: do two networks also compute the same function under autocast, or compiled?

Other kernels are chosen and fused there, so bits may differ although the function does not. The tolerance is measured:
the error of the original, run that way, against its own result in float64 (the root mean square over an output,
relative to the output's). Where the original rounds a value once, a teleported network rounds up to four times: a
scaled parameter, a scaled input, the operation, its scaled result. So its error may be four times as large.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes.errors import InputError
from fxteleport.passes.graph.containers import leaves
from fxteleport.passes.graph.module_clone import clone
from fxteleport.tools.options.check import Execution
from fxteleport.verify import Draws, difference, equal, evaluating, own_copy, paired, precise

_ROUNDINGS = 4
_DRAWS = 2  # one run may be close to float64 by chance, so the original also runs with other rounding errors


@dataclass(frozen=True)
class Executed:
    """Two networks run in another way.

    Attributes:
        how: in words.
        bitwise_equal, max_abs, max_rel: of the two networks' outputs, both run so; relative to the largest output.
        original, teleported: the error of each against the original in float64 (root mean square, relative).
        limit: the bound on `teleported`.
    """

    how: str
    passed: bool
    bitwise_equal: bool
    max_abs: float
    max_rel: float
    original: float
    teleported: float
    limit: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return asdict(self)


@torch.no_grad()
def execute(model: nn.Module, network: nn.Module, execution: Execution, args: Any, kwargs: Any) -> Executed:
    """Compare the outputs of two networks in eval mode, run as `execution` says.

    Raises:
        InputError: the model draws random numbers, which differ in float64, so its rounding cannot be measured.
    """
    start = time.perf_counter()
    draws = Draws(network)
    with evaluating(model), evaluating(network), draws.kept():
        reference, expected = draws.same(
            lambda: precise(model, args, kwargs), lambda: _run(model, execution, args, kwargs)
        )
        if draws.drawn:
            raise InputError(
                "the model draws random numbers in eval mode, so its rounding under"
                f" {execution} cannot be measured: compare it eagerly, in its own number format"
            )
        actual = _run(network, execution, args, kwargs)
        eager = Execution(amp=execution.amp)
        unit = max((_unit(x) for x, _ in paired(expected, expected)), default=0.0)
        eps = float(torch.finfo(torch.bfloat16).eps) if execution.amp else 2 * unit
        shaken = [expected] + [_run(_shaken(model, eps, n), eager, args, kwargs) for n in range(_DRAWS)]
    pairs = paired(expected, actual)
    differences = [difference(a, b) for a, b in pairs]
    original, teleported = max(deviation(reference, d) for d in shaken), deviation(reference, actual)
    limit = _ROUNDINGS * max(original, unit)
    return Executed(
        str(execution),
        teleported <= limit,  # false for NaN
        all(equal(a, b) for a, b in pairs),
        max((f[0] for f in differences), default=0.0),
        max((f[1] for f in differences), default=0.0),
        original,
        teleported,
        limit,
        time.perf_counter() - start,
    )


def deviation(reference: Any, output: Any) -> float:
    """The root mean square of the difference over that of the reference; the largest of several outputs'."""
    ratios = [_relative(a.double(), b.double()) for a, b in paired(reference, output) if a.numel()]
    return max(ratios, default=0.0)


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt() / a.square().mean().sqrt().clamp_min(1e-300))


def _unit(x: Tensor) -> float:
    """The unit roundoff of a tensor's format."""
    return float(torch.finfo(x.dtype).eps) / 2


def _run(network: nn.Module, execution: Execution, args: Any, kwargs: Any) -> Any:
    args, kwargs = own_copy((args, kwargs))
    device = next((t.device.type for t in leaves((args, kwargs)) if isinstance(t, Tensor)), "cpu")
    run = torch.compile(network, backend=execution.backend) if execution.compile else network
    amp = torch.autocast(device, dtype=torch.bfloat16) if execution.amp else contextlib.nullcontext()
    try:
        with amp:
            return run(*args, **kwargs)
    finally:
        if execution.compile:
            torch._dynamo.reset()


def _shaken(model: nn.Module, eps: float, seed: int) -> nn.Module:
    """The network with a relative change of up to half of `eps` in every parameter: another rounding."""
    generator = torch.Generator().manual_seed(seed)

    def moved(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        noise = (torch.rand(tensor.shape, generator=generator) - 0.5).to(tensor.device, tensor.dtype)
        return tensor.detach() * (1 + noise * eps)

    return clone(model, moved)
