"""A state dict's versions and extra state: the original class reads an emitted network's as its own."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.rewrite.extra_state import same
from fxteleport.passes.rewrite.teleported_network import TeleportedModule

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


class FrozenNorm(nn.Module):
    """In its third version `var` is as it is; before, `eps` was in it."""

    _version = 3

    def __init__(self, n: int) -> None:
        super().__init__()
        self.weight: Tensor
        self.var: Tensor
        self.register_buffer("weight", torch.linspace(0.5, 2.0, n))
        self.register_buffer("var", torch.linspace(0.5, 1.5, n))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.weight * (self.var + 1e-1).rsqrt())

    def _load_from_state_dict(self, state_dict: Any, prefix: str, metadata: Any, *args: Any) -> None:
        if metadata.get("version", 1) < 3:
            state_dict[prefix + "var"] = state_dict[prefix + "var"] - 1e-1
        super()._load_from_state_dict(state_dict, prefix, metadata, *args)


class Scaled(nn.Linear):
    """A setting of it is in the state dict."""

    scale = 2.0

    def get_extra_state(self) -> Any:
        return {"scale": self.scale, "table": torch.arange(2)}

    def set_extra_state(self, state: Any) -> None:
        self.scale = state["scale"]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x * self.scale, self.weight, self.bias)


class Root(nn.Sequential):
    """A root with both."""

    _version = 7

    def get_extra_state(self) -> Any:
        return ["root", 1]

    def set_extra_state(self, state: Any) -> None:
        assert state == ["root", 1]


class Plain(Scaled):
    """As `Scaled`, without a tensor."""

    def get_extra_state(self) -> Any:
        return {"scale": self.scale}


def made(layer: type[Scaled] = Scaled) -> nn.Module:
    return Root(layer(5, 8), FrozenNorm(8), nn.ReLU(), layer(8, 6), nn.ReLU(), nn.Linear(6, 2)).eval()


def emitted(model: nn.Module, mode: str = "weights") -> TeleportedModule:
    plan = ft.plan(model, X, mode=mode)
    assert not plan.opaque
    return plan.rewrite(plan.sample(0.9, "intra", exact=True, seed=0))


def versions(module: nn.Module) -> dict[str, Any]:
    metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    return {path: facts["version"] for path, facts in metadata.items()}


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("kept", ["as it is", "deepcopy", "pickle", "saved"])
def test_it_loads_into_the_original_class(mode: str, kept: str) -> None:
    model = ft.randomize(made())
    network: nn.Module = emitted(model, mode)
    file = io.BytesIO()
    if kept == "deepcopy":
        network = copy.deepcopy(network)
    elif kept == "pickle":
        torch.save(network, file)
        file.seek(0)
        network = torch.load(file, weights_only=False)
    state = network.state_dict()
    if kept == "saved":
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    assert state.keys() == model.state_dict().keys()
    assert versions(network) == versions(model)
    fresh = made()
    fresh.load_state_dict(state)
    assert torch.equal(fresh(X), model(X))


def test_between_networks() -> None:
    model, other = ft.randomize(made()), emitted(made())
    other.load_state_dict(emitted(model).state_dict())
    assert torch.equal(other(X), model(X))


def test_another_extra_state_than_was_captured_is_refused() -> None:
    """The graph has the factor 2 in it."""
    model = made()
    model[0].scale = 3.0
    with pytest.raises(RuntimeError, match=r"'0._extra_state' is not what this network was captured with"):
        emitted(made()).load_state_dict(emitted(model).state_dict())
    state = emitted(made()).state_dict()
    del state["3._extra_state"]
    with pytest.raises(RuntimeError, match=r"Missing key.*3._extra_state"):
        emitted(made()).load_state_dict(state)


def test_mnasnet_keeps_its_version() -> None:
    """Of version 1, its own class would build an older stem."""
    model = ft.randomize(torchvision.models.mnasnet0_5()).eval()
    x = torch.randn(1, 3, 32, 32)
    plan = ft.plan(model, x, mode="weights")
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    fresh = torchvision.models.mnasnet0_5().eval()
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(fresh(x), model(x))


def test_checkpoints_hold_plain_extra_state(tmp_path: Path) -> None:
    model = ft.randomize(made(Plain))
    network = emitted(model, "full")
    ft.save(tmp_path / "net", network, "net")
    assert torch.equal(ft.load(tmp_path / "net", made(Plain))(X), model(X))
    other = made(Plain)
    other[0].scale = 3.0
    with pytest.raises(ft.CheckpointError, match="of other settings"):
        ft.load(tmp_path / "net", other)
    with pytest.raises(ft.CheckpointError, match="only tensors, text and numbers"):
        ft.save(tmp_path / "net", emitted(made(), "full"), "net")


def test_same() -> None:
    assert same({"a": [1, torch.ones(2)], "b": None}, {"a": [1, torch.ones(2)], "b": None})
    assert not same({"a": 1}, {"a": 2})
    assert not same({"a": 1}, {"b": 1})
    assert not same([torch.ones(2)], [torch.zeros(2)])
    assert not same(torch.ones(2), 1.0)
