"""Every form of call of the operations that have axes: exact at every node, and the same in every spelling."""

from __future__ import annotations

import pytest
import torch
from operation_forms import FORMS, Varied, sample
from torch_samples import Unfit, compare, finished

import fxteleport as ft

pytestmark = pytest.mark.filterwarnings("ignore")  # of forms that torch would rather not have

RUNS_AGAIN = 2  # seeds in the default tests
SPELLINGS = 2


def planned(name: str, seed: int, spelling: int, mode: str) -> ft.Plan | None:
    """The plan of one spelling, whose teleported network is exact; None where torch does not take the call."""
    try:
        model = Varied(sample(name, seed, spelling), f"{name} {seed}").eval()
        torch.manual_seed(seed)
        z = finished(model)
    except Unfit:
        return None
    result, plan = compare(model, z, mode)
    assert result == "equal", f"{name}, seed {seed}, spelling {spelling}, {mode}: {result}"
    failed = [opaque.why for opaque in plan.opaque if "its rule failed" in opaque.why]
    assert not failed, f"{name}, seed {seed}, spelling {spelling}, {mode}: {failed}"
    return plan


def check(name: str, seed: int, mode: str) -> bool:
    """Whether torch takes the call; every spelling of it is exact, and leaves the same values free."""
    plans = [plan for k in range(SPELLINGS) if (plan := planned(name, seed, k, mode)) is not None]
    free = {(plan.num_free, tuple(opaque.why for opaque in plan.opaque)) for plan in plans}
    assert len(free) <= 1, f"{name}, seed {seed}, {mode}: its spellings differ: {free}"
    return bool(plans)


@pytest.mark.parametrize("name", FORMS)
def test_every_spelling(name: str) -> None:
    ran = [check(name, seed, ("full", "weights")[seed % 2]) for seed in range(RUNS_AGAIN)]
    assert any(ran), "torch takes none of these calls"


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_every_spelling_many_times(name: str) -> None:
    ran = [check(name, seed, mode) for seed in range(RUNS_AGAIN, 60) for mode in ("full", "weights")]
    assert sum(ran) > len(ran) / 2
