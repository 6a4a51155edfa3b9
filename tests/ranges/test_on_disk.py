"""Equalising a checkpoint on disk: as of the model itself, with no weight in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fxteleport as ft


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def test_as_of_the_model(tmp_path: Path) -> None:
    model, x = network(), torch.randn(4, 6)
    plan = ft.plan(model, x, mode="weights")
    plan.apply_(plan.cob(torch.exp2(torch.arange(plan.num_free).double() % 7 - 3)))
    save_file(model.state_dict(), tmp_path / "source.safetensors")
    empty = ft.plan(network().to("meta"), x.to("meta"), mode="weights")
    weights = ft.checkpoint_tensors(empty, tmp_path / "source.safetensors")
    for method in ("range", "noise"):
        found = ft.equalized(empty, method, weights=weights)
        assert found.share == 1
        assert found.after < 0.7 * found.before if method == "range" else found.after < found.before
        ft.stream(empty, found.cob, tmp_path / "source.safetensors", tmp_path / "equal.safetensors")
        equal = network()
        equal.load_state_dict(ft_load(tmp_path / "equal.safetensors"))
        assert torch.allclose(equal(x), model(x), atol=1e-5)
    assert len(weights) == 6


def ft_load(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    model, x = network(), torch.randn(4, 6)
    save_file(model.state_dict(), tmp_path / "source.safetensors")
    plan = ft.plan(model, x, mode="weights")
    weights = ft.checkpoint_tensors(plan, tmp_path / "source.safetensors")
    with pytest.raises(ft.InputError, match="neither method 'l2' nor data"):
        ft.equalize(plan, "l2", weights=weights)
    with pytest.raises(ft.CheckpointError, match="no checkpoint"):
        ft.checkpoint_tensors(plan, tmp_path / "nothing")
    other = ft.plan(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), x, mode="weights")
    with pytest.raises(ft.CheckpointError, match="not a checkpoint of this model"):
        ft.checkpoint_tensors(other, tmp_path / "source.safetensors")
