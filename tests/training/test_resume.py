"""A training that teleports is saved and goes on in another process as if it had never stopped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import fxteleport as ft

X = torch.randn(20, 5, generator=torch.Generator().manual_seed(1)).double()
Y = torch.randint(0, 3, (20,), generator=torch.Generator().manual_seed(2))


def built(seed: int) -> nn.Module:
    """Wrapped by sign (relu), by magnitude (tanh), before a norm, and by all of the CoB (gelu)."""
    layers = (nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.LayerNorm(6), nn.Tanh())
    return ft.randomize(nn.Sequential(*layers, nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 3)).double(), seed).train()


def begun(seed: int, mode: str = "full") -> tuple[ft.Teleportable, torch.optim.Optimizer]:
    live = ft.Teleportable(built(seed), X, mode=mode)
    return live, torch.optim.Adam(live.parameters(), lr=0.01)


def train(live: ft.Teleportable, optimizer: torch.optim.Optimizer, epochs: range) -> None:
    teleport = ft.Teleport(live, optimizer, every=1, cob_range=0.9, landscape="inter")
    for epoch in epochs:
        teleport(epoch)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(live(X), Y).backward()
            optimizer.step()


def output(net: nn.Module) -> Tensor:
    twin = copy.deepcopy(net).eval()
    with torch.no_grad():
        return twin(X)


def torch_save(state: dict[str, Any], path: Path) -> dict[str, Any]:
    torch.save(state, path)
    return torch.load(path, weights_only=True)


def safe_save(state: dict[str, Any], path: Path) -> dict[str, Any]:
    safetensors.torch.save_file(state, path)
    return safetensors.torch.load_file(path)


@pytest.mark.parametrize("save", [torch_save, safe_save])
@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("elsewhere", [0, 2])
def test_resuming_with_an_optimiser(mode: str, save: Callable[..., Any], elsewhere: int, tmp_path: Path) -> None:
    """Bit for bit; also where the network that resumes was teleported by another CoB (`elsewhere` epochs)."""
    live, optimizer = begun(0, mode)
    train(live, optimizer, range(4))
    fresh, resumed = begun(7, mode)
    train(fresh, resumed, range(elsewhere))
    ids = [id(p) for p in fresh.parameters()]
    fresh.load_state_dict(save(live.state_dict(), tmp_path / "net"))
    resumed.load_state_dict(torch_save(optimizer.state_dict(), tmp_path / "optimizer"))
    assert [id(p) for p in fresh.parameters()] == ids
    assert torch.equal(output(fresh), output(live))
    for net, state in ((live, optimizer), (fresh, resumed)):
        train(net, state, range(4, 7))
    assert torch.equal(output(fresh), output(live))
    if mode == "full":
        assert torch.equal(fresh.cob.values, live.cob.values)
        back = output(live)
        live.teleport_(live.cob.inverse())
        assert torch.allclose(output(live), back, rtol=1e-9)
        assert live.cob.values.allclose(torch.ones(1).double())


def test_what_a_state_dict_holds() -> None:
    live, optimizer = begun(0, "weights")
    train(live, optimizer, range(2))
    assert list(live.state_dict()) == [f"network.{key}" for key in built(0).state_dict()]
    live, optimizer = begun(0)
    assert list(live.state_dict()) == ["cob", *(f"network.{key}" for key in built(0).state_dict())]
    train(live, optimizer, range(2))
    added = {key for key in live.state_dict() if key.removeprefix("network.") not in built(0).state_dict()}
    assert added == {"cob", "network.2.tau", "network._4_rescale.factor", "network.5.tau", "network.7.tau"}
    with pytest.raises(RuntimeError, match="Unexpected key"):
        built(1).load_state_dict(live.network.state_dict())


def test_what_does_not_fit_is_refused() -> None:
    live, optimizer = begun(0)
    train(live, optimizer, range(2))
    state = live.state_dict()
    old = {key: value for key, value in state.items() if key != "cob" and not key.endswith(("tau", "factor"))}
    with pytest.raises(RuntimeError, match=r'Missing key.*"cob"'):
        begun(1)[0].load_state_dict(old)
    with pytest.raises(RuntimeError, match="'cob' is of another plan"):
        begun(1)[0].load_state_dict(state | {"cob": torch.ones(3)})
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"cob"'):
        begun(1, "weights")[0].load_state_dict(state)


def test_a_network_given_other_weights_teleports_from_where_they_are() -> None:
    """The operations move on from the CoB that they hold, whatever was loaded into them."""
    live, optimizer = begun(0)
    train(live, optimizer, range(2))
    fresh, _ = begun(1)
    fresh.teleport_(fresh.plan.sample(0.9, "inter", seed=9))
    fresh.network.load_state_dict(live.network.state_dict())
    expected = output(live)
    fresh.teleport_(fresh.plan.sample(0.9, "inter", seed=3))
    assert torch.allclose(output(fresh), expected, rtol=1e-9)


@pytest.mark.parametrize("moved", [False, True])
def test_copies_teleport_on_their_own(moved: bool) -> None:
    live, optimizer = begun(0)
    if moved:
        train(live, optimizer, range(2))
    twin, expected = copy.deepcopy(live), output(live)
    twin.teleport_(twin.plan.sample(0.9, "inter", seed=3))
    assert torch.allclose(output(twin), expected, rtol=1e-9)
    assert torch.equal(output(live), expected)
    assert not torch.equal(twin.network.get_parameter("6.weight"), live.network.get_parameter("6.weight"))


def test_an_average_of_weights() -> None:
    """It is teleported along, saved, and goes on."""
    live, optimizer = begun(0)
    average = AveragedModel(live)
    for epoch in range(3):
        train(live, optimizer, range(1, 2))  # teleports by the CoB that is drawn for 1
        average.module.teleport_(live.plan.sample(0.9, "inter", seed=_seed(1)))
        average.update_parameters(live)
        assert torch.equal(average.module.cob.values, live.cob.values), epoch
    fresh = AveragedModel(begun(5)[0])
    fresh.load_state_dict(average.state_dict())
    assert torch.equal(output(fresh), output(average))
    assert int(fresh.n_averaged) == 3


def _seed(epoch: int) -> int:
    return int(np.random.SeedSequence([0, epoch]).generate_state(1)[0])


def test_compiled() -> None:
    torch._dynamo.reset()
    live, fresh = begun(0)[0].eval(), begun(1)[0].eval()
    one, two = (torch.compile(net, backend="eager") for net in (live, fresh))
    with torch.no_grad():
        expected, _ = one(X), two(X)
        for seed in range(2):
            live.teleport_(live.plan.sample(0.9, "inter", exact=True, seed=seed))
            assert torch.equal(one(X), expected)
        two.load_state_dict(one.state_dict())
        assert all(key.startswith("_orig_mod.") for key in one.state_dict())
        assert torch.equal(two(X), expected)
        live.teleport_(live.cob.inverse())
        assert torch.equal(one(X), expected)
    assert live.network.state_dict().keys() == built(0).state_dict().keys()  # nothing is left of the wraps


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    if not torch.distributed.is_available():
        pytest.skip("torch is built without torch.distributed")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("teleportable", [True, False])
def test_distributed_data_parallel(one_process: None, teleportable: bool) -> None:
    def made(seed: int) -> nn.Module:
        if teleportable:
            return begun(seed)[0]
        return ft.teleport(built(seed), X, cob_range=0.9, landscape="inter", seed=seed)

    one, two = (nn.parallel.DistributedDataParallel(made(seed)) for seed in (0, 1))
    optimizer = torch.optim.Adam(one.parameters(), lr=0.01)
    for seed in range(2):
        if teleportable:
            one.module.teleport_(one.module.plan.sample(0.9, "inter", seed=seed), optimizer)
        F.cross_entropy(one(X), Y).backward()
        optimizer.step()
    two.load_state_dict(one.state_dict())
    assert all(key.startswith("module.") for key in one.state_dict())
    assert torch.equal(two.eval()(X), one.eval()(X))


def test_lightning(tmp_path: Path) -> None:
    """`load_from_checkpoint` restores the function; `fit(ckpt_path=...)` goes on as if it had never stopped."""
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self, seed: int = 0) -> None:
            super().__init__()
            self.net = ft.Teleportable(built(seed), X)

        def training_step(self, batch: Any, index: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.net.parameters(), lr=0.01)

    def fitted(module: Module, epochs: int, **settings: Any) -> Any:
        teleport = ft.Teleport(module.net, every=1, cob_range=0.9, landscape="inter")
        trainer = lightning.Trainer(
            max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
            enable_model_summary=False, callbacks=[ft.lightning_callback(teleport)],
        )  # fmt: skip
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=10)
        trainer.fit(module, data, **settings)
        return trainer

    module = Module()
    file = tmp_path / "half.ckpt"
    fitted(module, 3).save_checkpoint(file)
    loaded = Module.load_from_checkpoint(file, seed=5)
    assert torch.equal(output(loaded.net), output(module.net))
    resumed, whole = Module(7), Module()
    fitted(resumed, 5, ckpt_path=file)
    fitted(whole, 5)
    assert torch.equal(output(resumed.net), output(whole.net))
