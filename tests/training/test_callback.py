"""The callback teleports the network that is trained, or says that it does not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft

X = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))


def live() -> ft.Teleportable:
    return ft.Teleportable(ft.randomize(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))), X)


def sgd(*networks: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for net in networks for p in net.parameters()], lr=0.01)


def test_an_empty_list_is_a_baseline() -> None:
    net = live()
    teleport = ft.Teleport(net, sgd(net), at=[])
    assert [teleport(epoch) for epoch in range(5)] == [None] * 5
    assert torch.equal(net.cob.values, net.plan.identity().values)
    with pytest.raises(ft.InputError, match=r"schedule is empty: pass at \(\[\] for never\)"):
        ft.Teleport(net)


@pytest.mark.parametrize("at", ["3", [1.5], [-1]])
def test_epochs_that_never_come_are_refused(at: Any) -> None:
    with pytest.raises(ft.InputError, match="whole numbers"):
        ft.Teleport(live(), at=at)


def test_a_plain_module_is_refused() -> None:
    model = nn.Linear(3, 2)
    for network in (model, torch.compile(live(), backend="eager")):
        with pytest.raises(ft.InputError, match="Teleportable"):
            ft.Teleport(network, at=[1])  # type: ignore[arg-type]


def test_an_optimiser_of_another_network_is_refused() -> None:
    net = live()
    for other in (live(), copy.deepcopy(net)):
        with pytest.raises(ft.InputError, match="SGD holds no parameter of the network"):
            ft.Teleport(net, sgd(other), at=[1])
        before = copy.deepcopy(net.state_dict())
        for state in ("transport", "reset", "keep"):
            with pytest.raises(ft.InputError, match="holds no parameter"):
                net.teleport_(net.plan.sample(seed=0), sgd(other), state)
        assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    ft.Teleport(net, sgd(live(), net), at=[1])  # of both
    ft.Teleport(net, torch.optim.SGD(net.network[2].parameters(), lr=0.01), at=[1])  # the rest is frozen


class Held:
    """A Lightning module with a network and the optimisers of its choice, fitted for an epoch."""

    def __init__(self, net: nn.Module, teleport: ft.Teleport, *optimizers: torch.optim.Optimizer) -> None:
        lightning = pytest.importorskip("lightning.pytorch")

        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.automatic_optimization = net, False

            def training_step(self, batch: Any, index: int) -> Tensor:
                return F.mse_loss(self.net(batch[0]), torch.zeros(()))

            def configure_optimizers(self) -> Any:
                return list(optimizers)

        self.fit = lambda: lightning.Trainer(
            max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
            enable_model_summary=False, callbacks=[ft.lightning_callback(teleport)],
        ).fit(Module(), torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=8))  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_lightning_says_what_it_cannot_teleport() -> None:
    net, other = live(), live()
    with pytest.raises(ft.InputError, match="does not hold the network"):
        Held(other, ft.Teleport(net, at=[1]), sgd(other)).fit()
    with pytest.raises(ft.InputError, match="none of the trainer's 1 optimisers"):
        Held(net, ft.Teleport(net, at=[1]), sgd(other)).fit()
    with pytest.raises(ft.InputError, match="2 of the trainer's 2 optimisers"):
        Held(net, ft.Teleport(net, at=[1]), sgd(net.network[0]), sgd(net.network[2])).fit()


@pytest.mark.filterwarnings("ignore")
def test_lightning_finds_the_optimiser_that_trains_the_network() -> None:
    net, other = live(), live()
    own = sgd(net)
    teleport = ft.Teleport(net, at=[1])
    Held(nn.Sequential(net), teleport, sgd(other), own).fit()
    assert teleport.optimizer is own
    assert not torch.equal(net.cob.values, net.plan.identity().values)
