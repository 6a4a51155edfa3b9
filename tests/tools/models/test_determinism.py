"""Determinism: what is set for a check on CUDA is as it was afterwards. The switches exist without a device."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from fxteleport.tools.models.determinism import deterministic


def state() -> dict[str, object]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn": torch.is_deterministic_algorithms_warn_only_enabled(),
        "deterministic": cudnn.deterministic,
        "benchmark": cudnn.benchmark,
        "conv": cudnn.conv.fp32_precision,
        "rnn": cudnn.rnn.fp32_precision,
        "matmul": matmul.fp32_precision,
        "fp16": matmul.allow_fp16_reduced_precision_reduction,
        "bf16": matmul.allow_bf16_reduced_precision_reduction,
        "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.fp32_precision
    yield
    torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.fp32_precision = before


def test_on_cuda() -> None:
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    before = state()
    with deterministic("cuda:1"):
        inside = state()
    assert state() == before
    assert inside["algorithms"] and inside["deterministic"] and not inside["benchmark"]
    assert inside["conv"] == inside["rnn"] == inside["matmul"] == "ieee"
    assert inside["workspace"] == ":4096:8"


def test_after_an_error() -> None:
    before = state()
    with pytest.raises(KeyError), deterministic(torch.device("cuda")):
        raise KeyError
    assert state() == before


def test_nested() -> None:
    before = state()
    with deterministic("cuda"):
        inside = state()
        with deterministic("cuda"):
            assert state() == inside
        assert state() == inside
    assert state() == before


@pytest.mark.parametrize("device", ["cpu", "mps", "meta"])
def test_nothing_is_set_elsewhere(device: str) -> None:
    before = state()
    with deterministic(device):
        assert state() == before


def test_a_workspace_of_the_users_own_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic("cuda"):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
