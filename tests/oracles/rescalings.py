"""How many rescalings keep a network's function, from scratch: no graph, no rule, no solver.

Give every element of every value and parameter a log-scale. Near the identity, a step y = f(x, w) is kept by
log-scales a (of x), b (of w) and c (of y) if, for all x and w,

    sum_i dy/dx_i x_i a_i + sum_j dy/dw_j w_j b_j = y c

which is one linear equation for every element of y and every sample (x, w). Inputs and outputs of the network have
log-scale 0. The dimension of what solves all of them is the number of free CoB values. Elements without any effect
(a weight that meets only padding, a value that is always zero) have no equation, and are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from random_networks import Script
from random_operations import OPERATIONS
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

_SPARE = 250  # samples beyond the number of unknowns of a step: some must be in each part of a clamp
_ZERO = 1e-9  # relative size of a singular value that is rounding
_CLEAR = 1e-6  # relative size of one that is none; between them a rank is not clear


class Unclear(Exception):
    """A rank is not clear in float64."""


@dataclass(frozen=True)
class Equations:
    """Equations of a step: unknowns [n, m], and their coefficients [n, m]."""

    unknowns: Tensor
    coefficients: Tensor


class Unknowns:
    """The numbers of the unknown log-scales: one an element, -1 where it is known to be 0."""

    def __init__(self) -> None:
        self.count = 0

    def fresh(self, shape: torch.Size) -> Tensor:
        numbers = torch.arange(self.count, self.count + shape.numel()).view(shape)
        self.count += shape.numel()
        return numbers


def dimension(script: Script, mode: str, norm_stats: str, silent: bool = False) -> int:
    """The dimension of the space of function-preserving rescalings of a network in float64.

    `silent` counts the elements of parameters, too, that have no effect at all.
    """
    network, inputs = script.make()
    with torch.no_grad():
        values = network.values(inputs)
    taken = {i for step in script.steps for i in step.operands}
    unknowns = Unknowns()
    scales = [torch.full(x.shape, -1) for x in inputs]
    alive = [torch.ones(x.shape, dtype=torch.bool) for x in inputs]
    tensors: dict[int, Tensor] = {}
    rows: list[Equations] = []
    for step, call in zip(script.steps, network.calls, strict=True):
        operands = list(dict.fromkeys(step.operands))
        held = movable(call, norm_stats)
        for tensor in held.values():
            tensors.setdefault(id(tensor), unknowns.fresh(tensor.shape))
        order = [operands.index(i) for i in step.operands]
        out, jacobians, given = sampled(call, order, [values[i] for i in operands], [alive[i] for i in operands], held)
        made = values[len(scales) : len(scales) + len(parts(call, order, [values[i] for i in operands]))]
        for value in made:
            free = len(scales) in taken
            scales.append(unknowns.fresh(value.shape) if free else torch.full(value.shape, -1))
        after = torch.cat([s.flatten() for s in scales[-len(made) :]])
        seen = (out != 0).any(0)
        alive += [m.view(v.shape) for m, v in zip(seen.split([v.numel() for v in made]), made, strict=True)]
        first = next(i for i, other in enumerate(network.calls) if other is call)  # a layer may run again
        kind = exempt(script.steps[first].operation, call, mode, norm_stats)
        if kind == "itself":
            before = scales[operands[0]].flatten()
            pairs = torch.stack([before, after], 1)[seen]
            rows.append(Equations(pairs, torch.tensor([[1.0, -1.0]]).double().expand(len(pairs), 2)))
            continue
        columns = [scales[i].flatten() for i in operands] + [tensors[id(t)].flatten() for t in held.values()]
        skip = len(operands) if kind == "input" else 0
        effects = [j * x.flatten(1)[:, None] for j, x in zip(jacobians[skip:], given[skip:], strict=True)]
        rows += equations(effects, columns[skip:], out, after)
    found = nullity(rows, unknowns.count)
    if silent:
        there = {int(i) for e in rows for i in e.unknowns[:, e.coefficients.any(0)].unique()}
        found += sum(int(i) not in there for numbers in tensors.values() for i in numbers.flatten())
    return found


def exempt(name: str, call: nn.Module, mode: str, norm_stats: str) -> str:
    """What a wrapped operation is exempted from (see `Operation.keeps`)."""
    keeps = OPERATIONS[name].keeps if mode == "full" else ""
    if isinstance(call, nn.modules.batchnorm._BatchNorm) and norm_stats != "wrapped":
        return ""
    return keeps


def movable(call: nn.Module, norm_stats: str) -> dict[str, Tensor]:
    """The tensors of a step that have a CoB."""
    found = dict(call.named_parameters())
    if norm_stats == "rescaled":
        found |= {n: b for n, b in call.named_buffers() if n.endswith("running_mean")}
    return found


class Normalised(nn.Module):
    """A batch norm by its formula: torch does not differentiate its own with respect to the running mean."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self._parameters, self._buffers = norm._parameters, norm._buffers

    def forward(self, x: Tensor) -> Tensor:
        vectors = [self.running_mean, self.running_var, self.weight, self.bias]
        mean, var, weight, bias = (v if v is None else v.view(-1, *[1] * (x.ndim - 2)) for v in vectors)
        x = (x - mean) / (var + self.eps).sqrt()
        return x if weight is None else x * weight + bias


def parts(call: nn.Module, order: list[int], xs: list[Tensor]) -> list[Tensor]:
    out = call(*(xs[i].clone() for i in order))
    return list(out) if isinstance(out, (tuple, list)) else [out]


def sampled(
    call: nn.Module, order: list[int], xs: list[Tensor], alive: list[Tensor], held: dict[str, Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Outputs [samples, out], Jacobians [samples, out, in] and inputs of a step at random points."""
    generator = torch.Generator().manual_seed(0)
    count = sum(x.numel() for x in (*xs, *held.values())) + _SPARE

    def drawn(shape: torch.Size) -> Tensor:
        size = (count, *shape)
        wide = torch.randn(size, generator=generator, dtype=torch.float64).exp()
        return torch.randn(size, generator=generator, dtype=torch.float64) * wide

    points = [drawn(x.shape) * mask for x, mask in zip(xs, alive, strict=True)] + [
        drawn(t.shape) for t in held.values()
    ]

    step = Normalised(call) if isinstance(call, nn.modules.batchnorm._BatchNorm) else call

    def run(*given: Tensor) -> Tensor:
        operands, rest = given[: len(xs)], dict(zip(held, given[len(xs) :], strict=True))
        out = functional_call(step, rest, tuple(operands[i] for i in order))
        return torch.cat([o.flatten() for o in out]) if isinstance(out, (tuple, list)) else out.flatten()

    with torch.no_grad():
        out = torch.stack([run(*(p[i] for p in points)) for i in range(count)])
    jacobians = differentiated(run, points)
    return out, [j.flatten(2) for j in jacobians], points


def differentiated(run: Callable[..., Tensor], points: list[Tensor]) -> list[Tensor]:
    """The Jacobians at every point, all at once where torch can."""
    which = tuple(range(len(points)))
    try:
        return list(vmap(jacrev(run, which))(*points))
    except RuntimeError:
        each: list[Any] = [jacrev(run, which)(*(p[i] for p in points)) for i in range(len(points[0]))]
        return [torch.stack(js) for js in zip(*each, strict=True)]


def equations(effects: list[Tensor], columns: list[Tensor], out: Tensor, after: Tensor) -> list[Equations]:
    """For each output element, an orthonormal basis of its equations."""
    joint = torch.cat([*effects, -out[:, :, None]], 2).transpose(0, 1)  # [out, samples, unknowns]
    found = []
    for element, rows in enumerate(joint):
        numbers = torch.cat([*columns, after[element : element + 1]])
        rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        used = (rows.abs() > _ZERO).any(0)  # an attention's key bias shifts its logits: it has no effect but rounding
        if not bool(used.any()):
            continue
        rows = rows[:, used]
        _, size, basis = torch.linalg.svd(rows, full_matrices=False)
        basis = basis[: rank(size)]
        found.append(Equations(numbers[used].expand(len(basis), -1), basis))
    return found


def rank(size: Tensor) -> int:
    """How many singular values are not zero.

    Raises:
        Unclear: one of them is neither clearly zero nor clearly not.
    """
    relative = size / size.max().clamp_min(1e-300)
    if bool(((relative > _ZERO) & (relative < _CLEAR)).any()):
        raise Unclear
    return int((relative >= _CLEAR).sum())


def nullity(rows: list[Equations], count: int) -> int:
    """The dimension of the solutions, over unknowns that occur in an equation."""
    height = sum(len(equation.unknowns) for equation in rows)
    matrix = torch.zeros(height, count + 1, dtype=torch.float64)  # the last column is for what is known
    at = 0
    for equation in rows:
        lines = torch.arange(at, at + len(equation.unknowns))[:, None].expand_as(equation.unknowns)
        matrix.index_put_((lines, equation.unknowns), equation.coefficients, accumulate=True)
        at += len(equation.unknowns)
    matrix = matrix[:, :-1]
    matrix = matrix[:, (matrix != 0).any(0)]
    if not matrix.numel():
        return 0
    return matrix.shape[1] - rank(torch.linalg.svdvals(matrix))
