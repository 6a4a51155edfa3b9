"""Any MODEL of the command line as a classifier of small images.

A MODEL does not say which images it takes: sizes are tried, the smallest first.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from fxteleport.models import zoo
from fxteleport.passes.errors import InputError, ModelError
from fxteleport.tools.models.factory import from_factory
from fxteleport.tools.models.load import BATCH, split

OWN = "own"  # keep the network's activation functions
_SIZES = (32, 64, 128, 224, 256, 299)


class Colour(nn.Module):
    """Grey images for a network that takes coloured ones."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """The grey channel three times."""
        logits: Tensor = self.network(x.expand(-1, 3, -1, -1))
        return logits


def build(spec: str, shape: tuple[int, int, int]) -> nn.Module:
    """The network, for images of this shape."""
    path, factory = split(spec)
    if path is not None:
        network, _ = from_factory(spec, path, factory, shape, BATCH)
        given = _example(spec)
        return Colour(network) if given is not None and given[0] == 3 and shape[0] == 1 else network
    if spec.startswith("torchvision/") and shape[0] == 1:
        return Colour(zoo.build(spec, (3, *shape[1:])).model)
    return zoo.build(spec, shape).model


@functools.lru_cache(maxsize=16)
def image_size(spec: str) -> int:
    """The height of its own example, or of the smallest image for which it gives logits.

    Raises:
        ModelError: it gives none for any size.
    """
    given = _example(spec)
    if given is not None:
        return given[-1]
    why = ""
    for size in _SIZES:
        try:
            with torch.no_grad():
                out = build(spec, (3, size, size)).eval()(torch.randn(BATCH, 3, size, size))
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            continue
        if isinstance(out, Tensor) and out.ndim == 2:
            return size
        why = (
            f"its output is {tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__}, not [batch, classes]"
        )
    raise ModelError(f"'{spec}' is no classifier of images: {why}")


def _example(spec: str) -> tuple[int, ...] | None:
    """The shape of one image, as a factory's `example_inputs()` gives it; None where it has none."""
    path, factory = split(spec)
    if path is None:
        return None
    try:
        _, inputs = from_factory(spec, path, factory, None, BATCH)
    except InputError:
        return None
    first = inputs[0] if isinstance(inputs, (tuple, list)) and inputs else inputs
    return tuple(first.shape[1:]) if isinstance(first, Tensor) and first.ndim == 4 else None
