"""The networks that are measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fxteleport.models import zoo
from fxteleport.tools.models import load
from fxteleport.tools.models.request import Request


def empty(spec: str, wanted: Request) -> tuple[nn.Module, Tensor]:
    """A network and its input on the meta device."""
    with torch.device("meta"):
        built = zoo.build(spec, wanted.input_size)
        return built.model, built.inputs(load.BATCH)[0]


def real(spec: str, wanted: Request) -> tuple[nn.Module, Tensor]:
    """A network with weights, and its input."""
    loaded = load.load(spec, wanted)
    return loaded.model, loaded.args[0]
