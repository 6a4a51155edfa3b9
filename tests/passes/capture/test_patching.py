"""What a capture patches is as it was afterwards, for everyone else, too."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.errors import OpaqueModuleWarning

COMPILED_AFTERWARDS = """
import math
import torch
from torch import nn
import fxteleport as ft

ft.plan(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), torch.randn(3, 4))

@torch.compile(backend="eager", fullgraph=True)
def function(x):
    return x + math.sqrt(0.0 * x.shape[0]) + torch.arange(3) if isinstance(x, torch.Tensor) else x

assert torch.equal(function(torch.ones(3)), torch.tensor([1.0, 2.0, 3.0]))
"""


def test_compile_knows_the_functions_that_were_patched() -> None:
    """In a process of its own, since it notes them when it is first used."""
    done = subprocess.run([sys.executable, "-c", COMPILED_AFTERWARDS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


class Conditional(nn.Module):
    """`torch.cond` compiles its branches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(torch.cond(h.sum() > 0, lambda z: z * 2, lambda z: z * 3, (h,)))


def test_what_compiles_is_kept_whole() -> None:
    model, x = Conditional().eval(), torch.randn(3, 4)
    with pytest.warns(OpaqueModuleWarning):
        plan = ft.plan(model, x)
    assert plan.num_free == 0
    gm = plan.rewrite(plan.identity())
    for x in (torch.randn(3, 4), torch.randn(3, 4)):
        assert torch.equal(gm(x), model(x))
