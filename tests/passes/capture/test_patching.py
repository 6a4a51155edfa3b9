"""What a capture patches is as it was afterwards, for everyone else, too."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
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


@torch.jit.script
def scripted_gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1.0 + torch.tanh(0.7978845608 * x * (1.0 + 0.044715 * x * x)))


@torch.jit.script
def scripted_add(x: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    return residual + (x + bias)


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return scripted_swish(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return scripted_swish_backward(ctx.saved_tensors[0], gradients[0])


@torch.jit.script
def scripted_swish(x: torch.Tensor) -> torch.Tensor:
    return x.mul(torch.sigmoid(x))


@torch.jit.script
def scripted_swish_backward(x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    s = torch.sigmoid(x)
    return gradient * (s * (1 + x * (1 - s)))


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = scripted_add(self.b(scripted_gelu(x)), self.bias, x)
        return self.c(Swish.apply(x))


def test_scripted_functions_are_traced_as_what_they_were_made_of(assert_exact: Callable[..., ft.Plan]) -> None:
    call = vars(torch.jit.ScriptFunction)["__call__"]
    for mode, free in (("full", 6), ("weights", 0)):
        model, x = Scripted(), torch.randn(4, 3)
        plan = assert_exact(model, x, mode=mode, at_least=free)
        assert plan.num_free == free
        assert not plan.opaque
    assert vars(torch.jit.ScriptFunction)["__call__"] is call
    assert torch.equal(scripted_swish(x), x * torch.sigmoid(x))


def test_a_traced_function_is_kept_whole() -> None:
    """Its source may branch where it does not."""
    traced = torch.jit.trace(lambda x: x * 2 if x.shape[0] == 2 else x, torch.randn(2, 6))

    class Part(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return traced(x)

    model, x = nn.Sequential(nn.Linear(3, 6), Part(), nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 2)), torch.randn(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = ft.plan(model, x)
    assert plan.opaque
    assert plan.num_free == 2
    assert torch.equal(plan.rewrite(plan.sample(exact=True, seed=0))(x), model(x))


class Hooks(nn.Module):
    """It changes a gradient in its forward."""

    def __init__(self, asks: bool, removes: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 2)
        self.asks, self.removes = asks, removes

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        if not self.asks or x.requires_grad:
            handle = x.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
            if self.removes:
                handle.remove()
        x.retain_grad() if x.requires_grad else None
        return self.c(torch.relu(self.b(x)))


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("removes", [True, False])
def test_hooks_on_gradients_that_forward_registers(asks: bool, removes: bool) -> None:
    """The gradient that a hook sees is the original's."""
    model, x = ft.randomize(Hooks(asks, removes)), torch.randn(4, 3)
    plan = ft.plan(model, x)
    assert plan.num_free == (11 if removes else 5)
    cob = plan.sample(0.9, "inter", exact=True, seed=0)
    network, scales = plan.rewrite(cob), plan.scales(cob)
    for part in (model.train(), network.train()):
        part(x).pow(2).sum().backward()
    for name, parameter in model.named_parameters():
        expected = parameter.grad / scales.get(name, torch.ones(())).float()
        assert torch.equal(network.get_parameter(name).grad, expected), name


def test_arrays_of_tensors_that_are_made_of_sizes() -> None:
    class Arrays(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            scale = float(np.asarray(torch.arange(x.shape[1])).sum()) * float(np.prod(np.asarray(x.shape[1:])))
            return self.b(torch.relu(self.a(x)) * scale)

    model, x = Arrays(), torch.randn(4, 3)
    plan = ft.plan(model, x)
    assert plan.num_free == 6
    assert torch.equal(plan.rewrite(plan.sample(exact=True, seed=0))(x), model(x))


def test_arrays_of_data_are_no_graph() -> None:
    class Part(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float(np.asarray(x.detach()).mean())

    model, x = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2), Part()), torch.randn(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = ft.plan(model, x)
    assert plan.num_free == 6
    assert "depend on the data" in plan.opaque[0].why
