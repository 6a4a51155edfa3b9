"""float16: networks that overflow in it, clipped, in bfloat16, and after `fit_range`. Losses on pictures or words.

    python docs/measure/half.py

Each network is trained, then moved by an exact change of basis of powers of two to where float16 overflows: in float32
the function is the same to the last bit. Losses are of 256 other samples than those that the ranges are measured on.
`clipped`: every value and weight that leaves float16 is set to its largest number. `infinite`: the share of outputs
that are not finite in plain float16.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from half_networks import NAMES, trained
from torch import Tensor, fx, nn

import fxteleport as ft

LARGEST = torch.finfo(torch.float16).max


class Clipped(fx.Interpreter):
    """Sets what left float16 to its largest number."""

    def run_node(self, n: fx.Node) -> Any:
        """The value of a node, clipped."""
        value = super().run_node(n)
        return value.clamp(-LARGEST, LARGEST) if isinstance(value, Tensor) and value.is_floating_point() else value


def as_(dtype: torch.dtype, network: fx.GraphModule, clip: bool = False) -> fx.GraphModule:
    """A converted copy."""
    converted = copy.deepcopy(network)
    if clip:
        for parameter in converted.parameters():
            parameter.data.clamp_(-LARGEST, LARGEST)
    return converted.to(dtype)


def outside(model: nn.Module, x: Tensor) -> fx.GraphModule:
    """The network where float16 overflows: a third of the free values are from 2^12 to 2^18."""
    plan = ft.plan(model, x, mode="weights")
    random = torch.Generator().manual_seed(1)
    powers = torch.randint(12, 19, (plan.num_free,), generator=random).double()
    moved = plan.rewrite(plan.cob(torch.where(torch.rand(plan.num_free, generator=random) < 1 / 3, powers, 0.0).exp2()))
    assert torch.equal(moved(x), model(x))
    return moved


@torch.no_grad()
def main() -> None:
    """Print the table."""
    heads = ("float32", "float16", "infinite", "clipped", "bfloat16", "fitted")
    print(f"{'network':8}" + "".join(f"{h:>10}" for h in heads))
    for name in NAMES:
        with torch.enable_grad():
            model = trained(name)
        seen, x = model.batch(64, 10_000), model.batch(256, 20_000)
        network = outside(model, seen)
        plan = ft.plan(network, seen)
        fitted = plan.rewrite(ft.fit_range(plan, [seen], torch.float16))
        assert torch.equal(fitted(x), network(x))

        def loss(output: Tensor, model: nn.Module = model, x: Tensor = x) -> str:
            return f"{float(model.loss(output, x)):.4f}"

        def given(dtype: torch.dtype, x: Tensor = x) -> Tensor:
            return x.to(dtype) if x.is_floating_point() else x

        half = as_(torch.float16, network)(given(torch.float16))
        clipped = Clipped(as_(torch.float16, network, clip=True)).run(given(torch.float16))
        row = (
            loss(network(x)), loss(half), f"{float((~half.isfinite()).float().mean()):.2f}", loss(clipped),
            loss(as_(torch.bfloat16, network)(given(torch.bfloat16))),
            loss(as_(torch.float16, fitted)(given(torch.float16))),
        )  # fmt: skip
        print(f"{name:8}" + "".join(f"{cell:>10}" for cell in row), flush=True)


if __name__ == "__main__":
    main()
