"""Teleporting in the middle of training: live parameters, transported optimiser state, schedules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft
from fxteleport import objectives

X = torch.randn(20, 5, generator=torch.Generator().manual_seed(1)).double()
Y = torch.randint(0, 3, (20,), generator=torch.Generator().manual_seed(2))
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "adam": (torch.optim.Adam, {"amsgrad": True, "eps": 1e-300}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.0, "eps": 1e-300}),
    "nadam": (torch.optim.NAdam, {"eps": 1e-300}),
    "radam": (torch.optim.RAdam, {"eps": 1e-300}),
    "adamax": (torch.optim.Adamax, {"eps": 1e-300}),
    "adagrad": (torch.optim.Adagrad, {"eps": 1e-300}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.9, "centered": True, "eps": 1e-300}),
    "adadelta": (torch.optim.Adadelta, {}),
    "rprop": (torch.optim.Rprop, {}),
}


def loss(net) -> Tensor:
    return F.cross_entropy(net(X), Y)


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    return ft.randomize(model.double()).train()


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net).backward()
        optimizer.step()


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_parameters_stay_the_same_objects(mode: str, original_keys: Callable[[nn.Module], list[str]]) -> None:
    model = network()
    live = ft.Teleportable(model, X, mode=mode)
    ids = [id(p) for p in live.parameters()]
    optimizer = torch.optim.SGD(live.parameters(), lr=0.05, momentum=0.9)
    train(live, optimizer, 3)
    keys = list(live.network.state_dict())
    assert keys == list(model.state_dict())
    live.eval()
    expected = live(X).detach()
    running = model[1].running_mean.clone()
    for seed in range(3):
        before = {n: p.detach().clone() for n, p in live.network.named_parameters()}
        live.teleport_(live.plan.sample(0.7, "inter", seed=seed), optimizer)
        assert torch.allclose(live(X), expected, rtol=1e-9)
        assert any(not torch.equal(p, before[n]) for n, p in live.network.named_parameters())
    assert [id(p) for p in live.parameters()] == ids and original_keys(live.network) == keys
    live.train()
    start = float(loss(live))
    train(live, optimizer, 5)
    assert float(loss(live)) < start  # the optimiser still trains what is called
    assert not torch.equal(live.network.state_dict()["1.running_mean"], running)


def test_teleporting_back_restores_the_model() -> None:
    model = network().eval()
    expected = {n: t.clone() for n, t in model.state_dict().items()}
    live = ft.Teleportable(model, X)
    cob = live.plan.sample(0.9, "inter", exact=True, seed=1)
    live.teleport_(cob).teleport_(cob.inverse())
    assert all(torch.equal(t, expected[n]) for n, t in live.network.state_dict().items())
    assert live.cob.values.eq(1).all()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_state_is_that_of_training_with_the_teleported_gradients(kind: str) -> None:
    """What the optimiser would remember, had it seen the gradients at the teleported weights all along."""
    make, settings = OPTIMIZERS[kind]
    model = network()
    live = ft.Teleportable(model, X)
    cob = live.plan.sample(0.6, "inter", seed=2)
    scales = live.plan.scales(cob)
    optimizer = make(live.parameters(), lr=0.0, **settings)
    twins = {n: nn.Parameter(p.detach() * scales.get(n, 1.0)) for n, p in model.named_parameters()}
    other = make(list(twins.values()), lr=0.0, **settings)
    for step in range(3):
        for name, p in model.named_parameters():
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step), dtype=p.dtype)
            twins[name].grad = p.grad / scales.get(name, 1.0)
        optimizer.step(), other.step()
    live.teleport_(cob, optimizer)
    compared = 0
    for name, p in live.network.named_parameters():
        for key, value in optimizer.state[p].items():
            expected = other.state[twins[name]][key]
            if isinstance(value, Tensor) and value.shape == p.shape and key != "acc_delta":
                compared += 1
                assert torch.allclose(value, expected, rtol=1e-9), (name, key)
    assert compared


def test_one_step_of_momentum_equals_the_step_of_the_scaled_gradient() -> None:
    """Theorem 5.1 for momentum: the teleported step is the original's over the scales."""
    model = network()
    live = ft.Teleportable(model, X)
    optimizer = torch.optim.SGD(live.parameters(), lr=0.1, momentum=0.9)
    train(live, optimizer, 3)
    twin = copy.deepcopy(model)
    memory = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    memory.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = {n: p.detach().clone() for n, p in twin.named_parameters()}
    train(twin, memory, 1)
    cob = live.plan.sample(0.8, "inter", seed=5)
    scales = live.plan.scales(cob)
    live.teleport_(cob, optimizer)
    here = {n: p.detach().clone() for n, p in live.network.named_parameters()}
    train(live, optimizer, 1)
    for name, p in twin.named_parameters():
        step = live.network.get_parameter(name).detach() - here[name]
        assert torch.allclose(step, (p.detach() - before[name]) / scales.get(name, 1.0), rtol=1e-7, atol=1e-13), name


def test_reset_and_keep() -> None:
    live = ft.Teleportable(network(), X)
    optimizer = torch.optim.SGD(live.parameters(), lr=0.1, momentum=0.9)
    train(live, optimizer, 2)
    held = [optimizer.state[p]["momentum_buffer"].clone() for p in live.parameters()]
    live.teleport_(live.plan.sample(seed=0), optimizer, state="keep")
    kept = [optimizer.state[p]["momentum_buffer"] for p in live.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(held, kept, strict=True))
    live.teleport_(live.plan.sample(seed=0), optimizer, state="reset")
    assert not optimizer.state


def test_unknown_state_is_refused_before_anything_changes() -> None:
    live = ft.Teleportable(network(), X)
    optimizer = torch.optim.SGD(live.parameters(), lr=0.1, momentum=0.9)
    train(live, optimizer, 1)
    last = list(live.parameters())[-1]
    optimizer.state[last]["mystery"] = torch.ones_like(last)
    before = {n: t.clone() for n, t in live.network.state_dict().items()}
    with pytest.raises(ft.InputError, match="mystery"):
        live.teleport_(live.plan.sample(seed=0), optimizer)
    assert all(torch.equal(t, before[n]) for n, t in live.network.state_dict().items())
    with pytest.raises(ft.InputError, match="unknown state"):
        live.teleport_(live.plan.sample(seed=0), optimizer, state="forget")


# -- schedules -------------------------------------------------------------------------------------------


def test_schedules() -> None:
    live = ft.Teleportable(network(), X)
    assert [e for e in range(8) if ft.Teleport(live, at=[2, 5]).due(e)] == [2, 5]
    assert [e for e in range(8) if ft.Teleport(live, every=3).due(e)] == [3, 6]
    chance = [e for e in range(400) if ft.Teleport(live, probability=0.25, seed=1).due(e)]
    assert 70 < len(chance) < 130
    assert chance == [e for e in range(400) if ft.Teleport(live, probability=0.25, seed=1).due(e)]


def test_a_scheduled_teleportation_keeps_the_function() -> None:
    live = ft.Teleportable(network().eval(), X)
    teleport = ft.Teleport(live, at=[1], cob_range=0.9, landscape="inter")
    expected = live(X).detach()
    assert teleport(0) is None
    cob = teleport(1)
    assert cob is not None and torch.equal(live.cob.values, cob.values)
    assert torch.allclose(live(X), expected, rtol=1e-9)


@pytest.mark.parametrize("metric", [objectives.gradient_norm(loss), objectives.lookahead(loss, 0.05)])
def test_the_best_candidate_is_taken(metric: objectives.Objective) -> None:
    live = ft.Teleportable(network(), X)
    live.teleport_(live.plan.sample(0.5, "inter", seed=8))
    found = {k: ft.Teleport(live, at=[0], candidates=k, metric=metric, cob_range=0.9, seed=1).draw(0) for k in (1, 16)}
    values = {k: float(metric(live.at(cob))) for k, cob in found.items()}
    assert values[16] < values[1]
    live.teleport_(found[16])  # and it is what a metric sees after the move
    assert float(metric(live.at(live.plan.identity()))) == pytest.approx(values[16], rel=1e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "schedule is empty"), ({"every": 0}, "at least 1"), ({"probability": 2.0}, "between 0 and 1"),
        ({"at": [1], "candidates": 3}, "metric"), ({"at": [1], "state": "x"}, "unknown state"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ft.InputError, match=message):
        ft.Teleport(ft.Teleportable(network(), X), **settings)


def test_lightning() -> None:
    """A Lightning trainer's own optimiser: its momentum moves along, its parameters stay, the function is kept."""
    lightning = pytest.importorskip("lightning.pytorch")
    model = network()
    live = ft.Teleportable(model, X)
    seen: dict[str, Any] = {}

    def facts(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        state = {n: optimizer.state[p]["momentum_buffer"].clone() for n, p in live.network.named_parameters()}
        return {"state": state, "loss": float(loss(live).detach()), "parameters": [id(p) for p in live.parameters()]}

    class Watched(ft.Teleport):
        def __call__(self, count: int) -> ft.ChangeOfBasis | None:
            if not self.due(count):
                return super().__call__(count)
            seen["before"] = facts(self.optimizer)
            seen["scales"] = self.network.plan.scales(self.draw(count))
            cob = super().__call__(count)
            seen["after"] = facts(self.optimizer)
            return cob

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = live

        def training_step(self, batch: Any, index: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=10)
    teleport = Watched(live, at=[1], cob_range=0.9, landscape="inter")
    trainer = lightning.Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, callbacks=[ft.lightning_callback(teleport)],
    )  # fmt: skip
    trainer.fit(Module(), data)
    before, after = seen["before"], seen["after"]
    assert not torch.equal(live.cob.values, live.plan.identity().values)
    assert after["loss"] == pytest.approx(before["loss"], rel=1e-9) and after["parameters"] == before["parameters"]
    for name, held in before["state"].items():
        scale = seen["scales"].get(name, torch.ones(()))
        assert torch.allclose(after["state"][name], held / scale, rtol=1e-12), name
    assert float(loss(live).detach()) < after["loss"]  # the trainer still trains what is called


class PreNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(5, 8), nn.LayerNorm(8, eps=1e-12)
        self.up, self.down, self.end, self.head = (
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.LayerNorm(8, 1e-12),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.end(x + self.down(self.up(self.norm(x)).relu())))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_residual_stream_before_norms_moves_with_scaled_norms(optimizer: str) -> None:
    model = ft.randomize(PreNorm().double())
    with pytest.raises(ft.InputError, match="norms"):
        ft.Teleportable(model, X, norms="scaled")
    fixed = ft.Teleportable(model, X, mode="weights").plan.num_free
    live = ft.Teleportable(model, X, mode="weights", norms="scaled")
    moves, settings = OPTIMIZERS[optimizer]
    own = moves(live.parameters(), lr=0.01, **settings)
    train(live, own, 2)
    assert live.plan.num_free == fixed + 1
    before, weight = live(X).detach(), model.stem.weight.detach().clone()
    cob = live.plan.cob(torch.full((live.plan.num_free,), 4.0))
    with pytest.warns(ft.ConditionWarning):
        live.teleport_(cob, own)
    assert list(live.state_dict()) == [f"network.{n}" for n in PreNorm().state_dict()]
    assert torch.equal(model.stem.weight, 4 * weight)  # the stream has one factor
    assert torch.allclose(live(X), before, rtol=1e-9) and not torch.equal(live(X), before)
    train(live, own, 2)
    assert torch.isfinite(live(X)).all()
