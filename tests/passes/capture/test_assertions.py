"""Checks: code that goes on in one way only is traced in that way, and the emitted network makes the check, too.

PYTEST_DONT_REWRITE: pytest would turn these asserts into branches.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft


class Checks(nn.Module):
    """Linear -> a check of the hidden values -> Linear."""

    def __init__(self, check: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.check = nn.Linear(6, 8), nn.Linear(8, 4), check

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.check(self.first(x)))


def asserted(h: Tensor) -> Tensor:
    assert torch.isfinite(h).all(), f"not finite: {h.shape}"
    return h * 2


def asserted_not(h: Tensor) -> Tensor:
    assert not torch.isnan(h).any()
    return h * 2


def asserted_twice(h: Tensor) -> Tensor:
    assert torch.isnan(h).sum() == 0 and torch.isinf(h).sum() == 0
    return h * 2


def asserted_of_a_number(h: Tensor) -> Tensor:
    assert not torch.isnan(h).any().item()
    return h * 2


def asserted_in_a_loop(h: Tensor) -> Tensor:
    for _ in range(2):
        assert torch.isfinite(h).all()
        h = h * 2
    return h


def raised(h: Tensor) -> Tensor:
    if torch.isnan(h).any():
        raise ValueError("no number")
    return h * 2


def raised_for_two(h: Tensor) -> Tensor:
    if not torch.isfinite(h).all() or torch.isnan(h).any():
        raise RuntimeError("not finite: " + str(h.shape))
    return h * 2


def raised_at_the_end(h: Tensor) -> Tensor:
    if torch.isfinite(h).all():
        return h * 2
    raise ValueError("not finite")


CHECKS = [
    asserted, asserted_not, asserted_twice, asserted_of_a_number, asserted_in_a_loop, raised, raised_for_two,
    raised_at_the_end,
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_a_check_is_made_by_the_emitted_network(
    check: Callable[[Tensor], Tensor], assert_exact: Callable[..., ft.Plan]
) -> None:
    model, x = Checks(check), torch.randn(3, 6)
    plan = assert_exact(model, x)
    assert plan.num_free == 8  # a check of what no scale changes leaves the values free
    assert not plan.opaque
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    assert torch.equal(network(x[:2]), model(x[:2]))
    with pytest.raises((AssertionError, ValueError, RuntimeError)):
        model(x * torch.nan)
    with pytest.raises(ValueError, match=r"the model's own check fails, at .*test_assertions.py:\d+"):
        network(x * torch.nan)


def test_a_check_of_sizes_pins_what_it_looks_at(assert_exact: Callable[..., ft.Plan]) -> None:
    def small(h: Tensor) -> Tensor:
        assert h.abs().max().item() < 1e6
        return h * 2

    # The number that is compared is the original's.
    assert assert_exact(Checks(small), torch.randn(3, 6), at_least=0).num_free == 0


def replaced(h: Tensor) -> Tensor:
    if torch.isnan(h).any():
        h = torch.zeros_like(h)
    return h * 2


def returned(h: Tensor) -> Tensor:
    return h * 2 if h.sum() > 0 else h * 3


@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
@pytest.mark.parametrize("branch", [replaced, returned], ids=lambda f: f.__name__)
def test_a_branch_that_goes_on_in_both_ways_is_kept_whole(branch: Callable[[Tensor], Tensor]) -> None:
    model = Checks(branch).eval()
    plan = ft.plan(model, torch.randn(3, 6))
    assert plan.num_free == 0
    assert "decides a branch, and depends on the data" in plan.opaque[0].why
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    for x in (torch.randn(3, 6), -torch.randn(3, 6), torch.full((3, 6), torch.nan)):
        assert torch.equal(network(x).nan_to_num(7), model(x).nan_to_num(7))


def test_an_error_that_the_model_catches_is_refused() -> None:
    """The emitted network raises it where the model would go on in another way: it never computes something else."""

    def caught(h: Tensor) -> Tensor:
        try:
            assert torch.isfinite(h).all()
        except AssertionError:
            h = torch.zeros_like(h)
        return h * 2

    model, x = Checks(caught).eval(), torch.randn(3, 6)
    network = ft.teleport(model, x, exact=True, seed=0)
    assert torch.equal(network(x), model(x))
    with pytest.raises(ValueError, match="own check"):
        network(x * torch.nan)
