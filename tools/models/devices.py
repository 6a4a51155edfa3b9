"""Devices: which are available, and their names."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import torch

from fxteleport.passes.errors import InputError


def check_device(name: str) -> str:
    """Check that a device is available, and return its name.

    Raises:
        InputError: the name is unknown, or this machine has no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"--device knows cpu, cuda, cuda:N and mps; got '{name}'")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InputError(f"--device {name}: this machine has {count or 'no'} usable CUDA device{'s' * (count > 1)}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"--device {name}: this machine has no usable Apple GPU")
    return str(device)


@functools.cache
def device_name(device: str) -> str:
    """The model name of a device, for example "NVIDIA H100 80GB HBM3"."""
    if torch.device(device).type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
