"""torch's Transformer encoder with a padding mask: equal by its own kernels, too, which are not those of its parts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

WIDTH, HIDDEN = 8, 12


class Net(nn.Module):
    def __init__(self, layers: int = 1, norm: bool = False, **settings: Any) -> None:
        super().__init__()
        nested = settings.pop("enable_nested_tensor", True)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, HIDDEN, batch_first=True, **settings)
        last = nn.LayerNorm(WIDTH) if norm else None
        self.encoder = nn.TransformerEncoder(layer, layers, norm=last, enable_nested_tensor=nested)
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.last(self.encoder(self.first(x), src_key_padding_mask=mask))
        return out


def masks(batch: int = 3, length: int = 5) -> dict[str, Tensor]:
    """What is padding, by where."""
    right = torch.arange(length) >= torch.tensor([length, 3, 2])[:batch, None]
    holes = right.clone()
    holes[0, 1] = True
    return {"right": right, "left": right.flip(1), "holes": holes, "none": torch.zeros_like(right)}


def planned(
    mode: Any = "full", dtype: torch.dtype = torch.float32, **settings: Any
) -> tuple[ft.Plan, nn.Module, Tensor]:
    torch.manual_seed(0)
    model = ft.randomize(Net(**settings)).eval().to(dtype)
    x = torch.randn(3, 5, WIDTH).to(dtype)
    return ft.plan(model, x, masks()["right"], mode=mode), model, x


SETTINGS: list[tuple[dict[str, Any], int]] = [
    ({}, 36),
    ({"activation": "gelu"}, 24),
    ({"layers": 2}, 64),
    ({"layers": 2, "norm": True}, 64),
    ({"dropout": 0.5}, 36),
]


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize(("settings", "free"), SETTINGS)
def test_keys_values_hidden_units_and_the_last_norm_are_free(settings: dict[str, Any], free: int, mode: str) -> None:
    plan, model, x = planned(mode, **settings)
    assert plan.num_free == free
    assert not plan.opaque
    emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert ft.verify(model, emitted, x, masks()["right"]).passed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("settings", [settings for settings, _ in SETTINGS])
def test_equal_by_torchs_own_kernels(settings: dict[str, Any], dtype: torch.dtype) -> None:
    """Without gradients it runs on nested tensors where the padding is at the end, and its parts run else."""
    plan, model, _ = planned(dtype=dtype, **settings)
    emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert torch.backends.mha.get_fastpath_enabled()
    for length in (5, 7):
        x = torch.randn(3, length, WIDTH).to(dtype)
        for mask in masks(length=length).values():
            with torch.no_grad():
                assert torch.equal(model(x, mask), emitted(x, mask))
            assert torch.equal(model(x, mask), emitted(x, mask))


def test_a_step_in_train_mode() -> None:
    plan, model, x = planned(dtype=torch.float64, layers=2)
    cob = plan.sample(0.9, "inter", exact=True, seed=0)
    emitted = plan.rewrite(cob)
    scales = plan.scales(cob)
    losses = []
    for network in (model, emitted):
        network.train()
        torch.manual_seed(1)
        losses.append(network(x, masks()["right"]).square().sum())
        losses[-1].backward()
    assert torch.equal(*losses)
    found = dict(emitted.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad / scales[name] if name in scales else parameter.grad, found[name].grad)


def test_in_the_original_class() -> None:
    plan, model, x = planned("weights")
    cob = plan.sample(0.9, "inter", exact=True, seed=0)
    moved = copy.deepcopy(model)
    plan.apply_(cob, moved)
    with torch.no_grad():
        for mask in masks().values():
            assert torch.equal(model(x, mask), moved(x, mask))


@pytest.mark.parametrize("settings", [{"enable_nested_tensor": False}, {"norm_first": True}])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_one_without_nested_tensors_is_looked_into(settings: dict[str, Any]) -> None:
    plan, model, x = planned(**settings)
    assert plan.num_free > 36
    emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert ft.verify(model, emitted, x, masks()["right"]).passed


def test_another_last_norm_is_not_known() -> None:
    model = ft.randomize(Net()).eval()
    model.encoder.norm = nn.Identity()
    plan = ft.plan(model, torch.randn(3, 5, WIDTH), masks()["right"])
    assert [o.why for o in plan.opaque] == ["'encoder': its last norm is a Identity"]
    assert plan.num_free == 0
