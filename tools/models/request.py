"""A request for a network, and a loaded network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes.graph.containers import leaves


@dataclass(frozen=True)
class Request:
    """Which network to load, and how, as on the command line.

    Attributes:
        input_size: one input's shape without the batch axis, or None for the network's own.
        redraw: replace the parameters by generic random ones; None: only if they would be freshly initialised.
        batch: the batch size; None: two, or the number of pictures, up to eight.
        images: a folder of pictures to take as inputs, instead of random numbers.
        channels_last: give images and convolutions that memory format.
        settings: further arguments of the network's constructor, or of its factory.
    """

    input_size: tuple[int, ...] | None = None
    pretrained: bool = False
    checkpoint: Path | None = None
    redraw: bool | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    batch: int | None = None
    images: Path | None = None
    channels_last: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def named(self, spec: str) -> str:
        """A network's name with the settings that it is built with."""
        given = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"{spec}({given})" if given else spec


@dataclass(frozen=True)
class Loaded:
    """A network in eval mode with inputs to run it on, and the source of its weights."""

    spec: str
    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    weights: str

    @property
    def parameters(self) -> int:
        """The number of parameter elements."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def device(self) -> torch.device:
        """The device of its parameters, or else of its inputs."""
        inputs = [x for x in leaves((self.args, self.kwargs)) if isinstance(x, Tensor)]
        return next((t.device for t in (*self.model.parameters(), *inputs)), torch.device("cpu"))

    @property
    def batch(self) -> int | None:
        """The length of the first input's first axis."""
        tensors = [x for x in leaves((self.args, self.kwargs)) if isinstance(x, Tensor) and x.ndim]
        return tensors[0].shape[0] if tensors else None
