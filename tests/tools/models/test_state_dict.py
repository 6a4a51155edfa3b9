"""State dicts as the scripts of others write them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.tools.models.state_dict import load_state

State = dict[str, Tensor]


def network(seed: int = 0, width: int = 4) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))
    return ft.randomize(model, seed)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


WRITTEN: dict[str, tuple[Callable[[State, State], Any], str]] = {
    "plain": (lambda s, old: s, ""),
    "DDP": (lambda s, old: prefixed(s, "module."), ""),
    "compiled": (lambda s, old: prefixed(s, "_orig_mod."), ""),
    "a compiled part": (lambda s, old: {n.replace("0.", "0._orig_mod."): t for n, t in s.items()}, ""),
    "timm": (
        lambda s, old: {
            "epoch": 3,
            "arch": "net",
            "state_dict": old,
            "state_dict_ema": s,
            "metric": 0.5,
            "args": argparse.Namespace(lr=0.1),
            "version": 2,
        },
        "state_dict_ema",
    ),
    "DeiT": (lambda s, old: {"model": old, "model_ema": s, "epoch": 1}, "model_ema"),
    "Lightning": (
        lambda s, old: {
            "epoch": 1,
            "pytorch-lightning_version": "2.2",
            "hyper_parameters": {"lr": 0.1},
            "state_dict": prefixed(s, "model.") | {"loss.weight": torch.ones(2)},
        },
        "state_dict",
    ),
    "Lightning, compiled": (lambda s, old: {"state_dict": prefixed(s, "net._orig_mod.")}, "state_dict"),
    "DDP inside of a dict": (lambda s, old: {"model": {"state_dict": prefixed(s, "module.")}}, "state_dict"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_it_is_loaded(name: str, tmp_path: Path) -> None:
    write, under = WRITTEN[name]
    wanted = network(1).state_dict()
    torch.save(write(dict(wanted), dict(network(2).state_dict())), tmp_path / "a.pth")
    model = network(3)
    assert load_state(model, tmp_path / "a.pth") == under
    assert all(torch.equal(t, wanted[n]) for n, t in model.state_dict().items())


def test_the_tensors_of_several_networks_are_not_guessed_at(tmp_path: Path) -> None:
    state = dict(network().state_dict())
    torch.save(prefixed(state, "student.") | prefixed(state, "teacher."), tmp_path / "a.pth")
    with pytest.raises(ft.CheckpointError, match=r"several such networks, under 'student\.' and 'teacher\.'"):
        load_state(network(), tmp_path / "a.pth")


def test_what_is_missing_is_named_without_the_prefix(tmp_path: Path) -> None:
    state = dict(network().state_dict())
    del state["2.bias"]
    torch.save(prefixed(state, "model."), tmp_path / "a.pth")
    with pytest.raises(ft.CheckpointError, match=r"tensors 1 missing \(the first: '2\.bias'\)$"):
        load_state(network(), tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"num_classes": 10}, r"'fc\.weight' \(10, 96\), here \(1000, 96\)\): pass --model-kwargs num_classes=10$"),
        ({"in_chans": 1}, r"--model-kwargs in_chans=1$"),
        ({"in_chans": 1, "num_classes": 7}, r"--model-kwargs in_chans=1 --model-kwargs num_classes=7$"),
    ],
)
def test_the_option_that_helps_is_named(settings: dict[str, int], hint: str, tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet", **settings).state_dict(), tmp_path / "a.pth")
    with pytest.raises(ft.CheckpointError, match=hint):
        load_state(timm.create_model("test_resnet"), tmp_path / "a.pth")


def test_no_option_is_named_where_none_helps(tmp_path: Path) -> None:
    torch.save(network(width=5).state_dict(), tmp_path / "a.pth")
    with pytest.raises(
        ft.CheckpointError, match=r"3 of another shape \(the first: '0\.weight' \(5, 3\), here \(4, 3\)\)$"
    ):
        load_state(network(), tmp_path / "a.pth")
