"""Parameters: a check that an emitted network's are the original's times their factors; and the share that a run uses.

A comparison of outputs covers only the parameters that the inputs exercise. This one covers all of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes.graph.dtensor import is_sharded
from fxteleport.passes.graph.module_clone import clone
from fxteleport.plan.factors import scales
from fxteleport.plan.teleportation import Teleportation
from fxteleport.verify.float64 import doubled
from fxteleport.verify.outputs import dense, outputs
from fxteleport.verify.report import TensorDifference
from fxteleport.verify.running import own_copy

_RUN = 1 << 16  # elements compared at a time: they stay in a core's cache


def compare_parameters(
    teleportation: Teleportation, model: nn.Module, gm: nn.Module, written: Collection[str]
) -> tuple[int, TensorDifference | None]:
    """Compare the parameters and buffers of an emitted network with the model's times the factors of its CoB.

    For powers of two they must be equal to the last bit; else up to one rounding for each number in a factor, and one
    for each multiplication. Tensors without a factor must be equal in any case.

    Args:
        written: names of tensors that a forward writes to: each run has its own.

    Returns:
        the number of tensors that were compared (those that both networks have, and that are not sharded), and the
        first that differs.
    """
    plan = teleportation.plan
    factors = {n: s.detach() for n, s in scales(plan, teleportation.cob).items()}
    before, after = _held(model), _held(gm)
    compared = 0
    for name in plan.captured.metas:
        original, actual = before.get(name), after.get(name)
        own = name in written or name in plan.captured.assigned
        if original is None or own or any(t is not None and _is_foreign(t) for t in (original, actual)):
            continue
        compared += 1
        if actual is None or actual.shape != original.shape or actual.dtype != original.dtype:
            return compared, TensorDifference(name, (), math.nan, math.nan, original.numel())
        cob_map = plan.tensor_map(name)
        numbers = 0 if cob_map is None else sum(abs(e) for _, e in cob_map.factors)
        roundings = 0 if teleportation.cob.is_exact or name not in factors else 2 * numbers
        difference = _first_difference(name, original.detach(), actual.detach(), factors.get(name), roundings)
        if difference is not None:
            return compared, difference
    return compared, None


def _held(module: nn.Module) -> dict[str, Tensor]:
    named = [module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)]
    return {name: tensor for tensors in named for name, tensor in tensors}


def _is_foreign(x: Tensor) -> bool:
    return x.is_meta or x.is_quantized or is_sharded(x)


def _first_difference(
    name: str, original: Tensor, actual: Tensor, scale: Tensor | None, roundings: int
) -> TensorDifference | None:
    """The first element that is not the original's times its factor, up to `roundings` roundings of its format."""
    original, actual = dense(original), dense(actual)
    scale = torch.ones((), dtype=torch.float64) if scale is None else scale
    wide = torch.complex128 if original.is_complex() else torch.float64
    info = torch.finfo(original.dtype) if original.is_floating_point() or original.is_complex() else None
    seen = 0
    for x, y, factor in _runs(original, actual, scale.to(original.device)):
        if info is None:
            expected, wrong = x, x != y
        else:
            expected = (x.to(wide) * factor).to(x.dtype)
            wrong = expected != y
            if bool(wrong.any()):
                wrong &= ~(expected.isnan() & y.isnan())
            if roundings and bool(wrong.any()):
                near = expected.to(wide).abs() * (roundings * info.eps / 2) + info.smallest_normal * info.eps
                wrong &= ~((expected.to(wide) - y.to(wide)).abs() <= near)
        if bool(wrong.any()):
            flat = int(wrong.reshape(-1).nonzero()[0])
            index = tuple(int(i) for i in torch.unravel_index(torch.tensor(seen + flat), original.shape))
            values = (t.reshape(-1)[flat] for t in (expected, y))
            expected_, actual_ = (float(v.real) if v.is_complex() else float(v) for v in values)
            return TensorDifference(name, index, expected_, actual_, int(wrong.sum()))
        seen += x.numel()
    return None


def _runs(original: Tensor, actual: Tensor, scale: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Runs of rows, each with its part of the factor."""
    if original.numel() <= _RUN or not original.ndim:
        yield original, actual, scale
        return
    run = _RUN if original.device.type == "cpu" else 1 << 24
    rows = max(1, run * len(original) // original.numel())
    by_row = scale.ndim == original.ndim and len(scale) > 1
    for start in range(0, len(original), rows):
        part = slice(start, start + rows)
        yield original[part], actual[part], scale[part] if by_row else scale


def exercised(model: nn.Module, inputs: Any, keyword_inputs: Any) -> float | None:
    """The share of a network's parameter elements on which its outputs for these inputs depend, to first order.

    These have a non-zero gradient of the sum of all floating-point outputs with random weights. None where there is no
    gradient: no such outputs, operations without a derivative, not enough memory.
    """
    copies: dict[int, Tensor] = {}
    reached = 0

    def own(name: str, tensor: Tensor) -> Tensor:
        if id(tensor) not in copies:
            wanted = isinstance(tensor, nn.Parameter) and (tensor.is_floating_point() or tensor.is_complex())
            held = tensor.detach() if isinstance(tensor, nn.Parameter) else tensor.detach().clone()
            copies[id(tensor)] = nn.Parameter(held, wanted) if isinstance(tensor, nn.Parameter) else held
        return copies[id(tensor)]

    def count(parameter: Tensor) -> None:  # one gradient at a time: together they are as large as the network
        nonlocal reached
        if parameter.grad is not None:
            reached += int(parameter.grad.count_nonzero())
            parameter.grad = None

    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        try:
            twin = clone(model, own)
            parameters = [p for p in copies.values() if p.requires_grad]
            for parameter in parameters:
                parameter.register_post_accumulate_grad_hook(count)
            given = [x for x in outputs(twin(*own_copy(inputs), **own_copy(keyword_inputs))).values() if _counts(x)]
            if not given:
                return None
            torch.stack([_weighted(x, generator).cpu() for x in given]).sum().backward()
        except Exception:  # the share is no part of the verdict, so any failure of autograd gives None
            return None
    return reached / sum(p.numel() for p in parameters)


def _counts(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _weighted(x: Tensor, generator: torch.Generator) -> Tensor:
    parts: Tensor = doubled(torch.view_as_real(x) if x.is_complex() else dense(x))
    return (parts * torch.randn(parts.shape, generator=generator, dtype=torch.float64).to(parts.device)).sum()


def same_state(one: Mapping[str, Tensor], other: Mapping[str, Tensor], roundings: int) -> bool:
    """True if tensors equal those of a wider format, up to `roundings` roundings."""
    if one.keys() != other.keys():
        return False
    for name, x in one.items():
        y = other[name]
        if x.shape != y.shape or _is_foreign(x):
            return False
        if not (x.is_floating_point() or x.is_complex()):
            if not torch.equal(x, y):
                return False
            continue
        near = y.abs() * (roundings * torch.finfo(x.dtype).eps / 2)
        if not bool((((x - y).abs() <= near) | (x == y) | (x.isnan() & y.isnan())).all()):
            return False
    return True
