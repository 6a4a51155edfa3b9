"""Execution: autocast and compilation are held to the original's own rounding, and mutations are still caught."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.tools.checking.alternate_backends import deviation, execute
from fxteleport.tools.checking.session import compare
from fxteleport.tools.models.load import Loaded
from fxteleport.tools.options.check import Execution

AMP = Execution(amp=True)


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU(), nn.Flatten()]
    model = ft.randomize(nn.Sequential(*layers, nn.Linear(8 * 16, 10), nn.GELU(), nn.Linear(10, 5)).eval())
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Loaded("small", model, (x,), {}, "random")


def moved(loaded: Loaded, seed: int = 0, exact: bool = False) -> nn.Module:
    plan = ft.plan(loaded.model, *loaded.args)
    return plan.rewrite(plan.sample(0.9, "inter", exact, seed))


@pytest.mark.parametrize("seed", range(8))
def test_teleported_networks_pass_under_autocast(seed: int, loaded: Loaded) -> None:
    report, executed = compare(loaded, moved(loaded, seed), AMP)
    assert report.passed and executed is not None and executed.passed
    assert 1e-4 < executed.original < 2e-2  # bfloat16 rounds at 4e-3
    assert executed.limit == 4 * max(executed.original, 2**-8)


def test_powers_of_two_change_no_bit_under_autocast(loaded: Loaded) -> None:
    executed = compare(loaded, moved(loaded, exact=True), AMP)[1]
    assert executed is not None and executed.bitwise_equal and executed.max_abs == 0


@pytest.mark.parametrize("execution", [AMP, Execution(compile=True, backend="eager")], ids=["amp", "compile"])
def test_every_mutation_is_caught(execution: Execution, loaded: Loaded) -> None:
    """Each parameter in turn, by a hundredth in one channel: far below what autocast itself rounds."""
    network = moved(loaded)
    for name, parameter in network.named_parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter[0] *= 1.01
        report, executed = compare(loaded, network, execution)
        assert not report.passed or (executed is not None and not executed.passed), name
        with torch.no_grad():
            parameter.copy_(before)
    assert compare(loaded, network, AMP)[0].passed


def test_what_goes_wrong_in_the_execution_alone_is_caught(loaded: Loaded) -> None:
    """The networks agree as they are; only under autocast is one of them off, by a quarter."""

    class Treacherous(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) * (1.25 if torch.is_autocast_enabled("cpu") else 1.0)

    report, executed = compare(loaded, Treacherous(copy.deepcopy(loaded.model)), AMP)
    assert report.passed and executed is not None and not executed.passed
    assert executed.teleported == pytest.approx(0.25, abs=0.02)


def test_the_limit_follows_the_format(loaded: Loaded) -> None:
    network = moved(loaded)
    coarse, fine = (execute(loaded.model, network, e, loaded.args, {}) for e in (AMP, Execution()))
    assert fine.limit < 1e-5 < 1e-3 < coarse.limit
    assert fine.passed


def test_outputs_that_are_not_finite_fail(loaded: Loaded) -> None:
    broken = copy.deepcopy(loaded.model)
    with torch.no_grad():
        broken[0].weight.fill_(float("nan"))
    assert not execute(loaded.model, broken, AMP, loaded.args, {}).passed


def test_deviation() -> None:
    a = torch.tensor([3.0, 4.0])
    assert deviation(a, a) == 0
    assert deviation(a, 2 * a) == pytest.approx(1)
    assert deviation((a, a), (a, a * 1.5)) == pytest.approx(0.5)


def test_networks_are_left_as_they_were(loaded: Loaded) -> None:
    network = moved(loaded).train()
    states = [copy.deepcopy(net.state_dict()) for net in (loaded.model, network)]
    execute(loaded.model, network, AMP, loaded.args, {})
    assert network.training and not loaded.model.training
    for state, net in zip(states, (loaded.model, network), strict=True):
        assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


@pytest.mark.slow
def test_compiled(loaded: Loaded, tmp_path: Path) -> None:
    executed = compare(loaded, moved(loaded), Execution(compile=True))[1]
    assert executed is not None and executed.passed and executed.max_rel < 1e-5
    both = compare(loaded, moved(loaded), Execution(compile=True, amp=True))[1]
    assert both is not None and both.passed and both.how == "autocast to bfloat16 and compiled"


def test_a_model_that_draws_is_refused() -> None:
    """In float64 it draws other numbers: its rounding cannot be told from its noise."""

    class Noisy(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * torch.rand_like(input[:, :1])

    model, x = Noisy(4, 3).eval(), torch.randn(5, 4)
    network = ft.teleport(model, x, seed=0)
    with pytest.raises(ft.InputError, match="draws random numbers"):
        execute(model, network, Execution(amp=True), (x,), {})
