"""`inspect --diff`: the changes are those between the two networks, all of them and nothing else."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import fxteleport as ft
from fxteleport.passes.rewrite.teleported_modules import Rescale, TeleportedActivation
from fxteleport.tools.inspection.diff import cob_words, node_changes, tensor_changes
from fxteleport.tools.inspection.plan_view import Reading


@pytest.fixture(scope="module", params=["test_resnet", "test_vit"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return ft.randomize(timm.create_model(request.param).eval())


def planned(model: nn.Module, **settings: str) -> ft.Plan:
    return ft.plan(model, torch.zeros(2, *model.default_cfg["input_size"]), **settings)  # type: ignore[operator,index]


@pytest.mark.parametrize("norm_stats", ["fixed", "wrapped"])
def test_every_new_module_is_in_one_change(model: nn.Module, norm_stats: str) -> None:
    plan = planned(model, norm_stats=norm_stats)
    network = plan.rewrite(plan.sample(0.9, "inter", seed=0))
    changes = list(node_changes(Reading(plan), network))
    made = [m for m in network.modules() if isinstance(m, (TeleportedActivation, Rescale))]
    told = sum(c.after.count("teleported ") + c.after.count("Rescale(") for c in changes)
    assert told == len(made) > 0
    nodes = {n.name for n in plan.captured.graph.nodes}
    assert all(c.node in nodes and c.cob and c.before != c.after for c in changes)
    assert len({c.node for c in changes}) == len(changes)


def test_an_epsilon_of_its_own_is_told() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    plan = ft.plan(model, torch.zeros(2, 3))
    network = plan.rewrite(plan.cob(torch.full((plan.num_free,), 4.0)))
    (change,) = node_changes(Reading(plan), network)
    assert change.after == f"LayerNorm with an epsilon of its own({change.before.split('(')[1]}"
    assert change.cob == "1 values of 4 to 4"


def test_every_tensor_that_differs_is_told(model: nn.Module) -> None:
    plan = planned(model, norm_stats="rescaled")
    cob = plan.sample(0.9, "inter", exact=True, seed=0)
    network = plan.rewrite(cob)
    new, old = network.state_dict(), model.state_dict()
    differ = {name for name in old if not torch.equal(new[name], old[name])}
    changes = {c.name: c for c in tensor_changes(plan, cob, network)}
    assert set(changes) == differ
    for name, change in changes.items():
        assert change.shape == tuple(old[name].shape)
        assert change.before == (float(old[name].min()), float(old[name].max()))
        assert change.after == (float(new[name].min()), float(new[name].max()))


def test_the_identity_changes_nothing(model: nn.Module) -> None:
    plan = planned(model)
    network = plan.rewrite(plan.identity())
    assert list(node_changes(Reading(plan), network)) == []
    assert list(tensor_changes(plan, plan.identity(), network)) == []


def test_weights_mode_changes_no_operation(model: nn.Module) -> None:
    plan = planned(model, mode="weights")
    cob = plan.sample(0.9, "inter", seed=0)
    network = plan.rewrite(cob)
    assert list(node_changes(Reading(plan), network)) == []
    assert list(tensor_changes(plan, cob, network))


@pytest.mark.parametrize(
    ("tau", "said"),
    [
        (torch.tensor([[1.0], [-1.0]]), "2 signs, 1 negative"),
        (torch.tensor([[2.0, 0.5]]).expand(9, 2), "2 values of 0.5 to 2"),
        (torch.tensor([-2.0, 0.5]), "2 values of 0.5 to 2, 1 negative"),
    ],
)
def test_factors_in_words(tau: torch.Tensor, said: str) -> None:
    assert cob_words(tau) == said
