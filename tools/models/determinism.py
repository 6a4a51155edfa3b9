"""Determinism: one seed; on CUDA, kernels that give the same bits twice and multiply float32 as float32."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

_cudnn: Any = torch.backends.cudnn
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS repeats itself only with a workspace of fixed size
# What is set for the time of a check. torch has two interfaces to TF32, and reading the older one fails where the
# newer was used: then there is nothing to set or to restore through it.
_FLAGS: tuple[tuple[Any, str, Any], ...] = (
    (_cudnn, "deterministic", True),
    (_cudnn, "benchmark", False),
    (_cudnn, "allow_tf32", False),
    (_cudnn.conv, "fp32_precision", "ieee"),
    (_cudnn.rnn, "fp32_precision", "ieee"),
    (torch.backends.cuda.matmul, "fp32_precision", "ieee"),
    (torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False),
    (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
)


@contextlib.contextmanager
def deterministic(device: str | torch.device) -> Iterator[None]:
    """Deterministic algorithms on and TF32 off, if the device is a CUDA one; all settings are restored afterwards.

    An operation that has no deterministic algorithm runs with a warning. On other devices nothing is set.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    before = [(space, name, _read(space, name), value) for space, name, value in _FLAGS]
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    workspace = os.environ.get(_WORKSPACE)
    try:
        os.environ.setdefault(_WORKSPACE, ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        for space, name, known, value in before:
            if known is not None:
                setattr(space, name, value)
        yield
    finally:
        for space, name, known, _ in before:  # the older interface first: it resets the newer
            if known is not None:
                setattr(space, name, known)
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Set torch's generator to a seed, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _read(space: Any, name: str) -> Any:
    try:
        return getattr(space, name)
    except RuntimeError:
        return None
