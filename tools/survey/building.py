"""The networks of a survey: building them in a number format and for an input size, and the cost of running them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch

from fxteleport.models import zoo
from fxteleport.models.randomize import randomize
from fxteleport.passes.capture.meta_values import tree_map
from fxteleport.passes.errors import ModelError
from fxteleport.passes.graph.module_clone import clone
from fxteleport.tools.models.skip_init import Unfilled
from fxteleport.tools.survey.row import Terms

_EDGES = (512, 448, 384, 320, 288, 256, 224, 192, 160, 128, 112, 96, 64, 48, 32)


def arguments(built: zoo.Built, batch: int, device: str | None, dtype: torch.dtype) -> tuple[Any, ...]:
    """Random inputs; a list always has two images, since its length is part of the graph."""
    args = built.inputs(2 if built.listed else batch, device)
    converted: tuple[Any, ...] = tree_map(lambda x: x.to(dtype), args)
    return converted


def accepts(built: zoo.Built) -> bool:
    """True if the network runs on inputs of this size, tried on meta tensors; detectors resize any input."""
    if built.listed:
        return True
    twin = clone(built.model, lambda name, t: t.to("meta"), training=False)
    try:
        with torch.no_grad():
            twin(*arguments(built, 1, "meta", next(twin.parameters()).dtype))
    except Exception:  # whatever a network's forward raises
        return False
    return True


def count_parameters(name: str) -> int:
    """The number of parameter elements, without allocating them where the constructor allows it."""
    try:
        model = build(name, None, None).model
    except ModelError:  # its constructor reads its own weights
        model = build(name, None, torch.bfloat16).model
    return sum(p.numel() for p in model.parameters())


def cost(parameters: int, shape: tuple[int, ...]) -> float:
    """Billions of multiply-adds of a forward, roughly: every parameter once for each 16 x 16 pixels."""
    return parameters * math.prod(shape[1:]) / 256 / 1e9


def smaller(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Input shapes of the same proportions, largest first."""
    *rest, height, width = shape
    edges = sorted({*_EDGES, *(height // k for k in (2, 3, 4))}, reverse=True)
    for edge in itertools.dropwhile(lambda e: e >= height, edges):
        if edge >= 32:
            yield (*rest, edge, round(edge * width / height))


def build(name: str, size: tuple[int, ...] | None, dtype: torch.dtype | None) -> zoo.Built:
    """The network with uninitialised parameters of a number format, or (None) on meta.

    Raises:
        ModelError: it cannot be built.
    """
    if dtype is None:
        with torch.device("meta"):
            return zoo.build(name, size)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with Unfilled():
            return zoo.build(name, size)
    finally:
        torch.set_default_dtype(before)


def rebuilt(name: str, size: tuple[int, ...], dtype: torch.dtype, terms: Terms) -> zoo.Built:
    """The network made for another input size.

    Raises:
        ModelError: it cannot be, or does not run on it.
    """
    with torch.device("meta"):
        trial = zoo.build(name, size)
    if not accepts(trial):
        raise ModelError(f"'{name}' does not run on {size_text(size)}")
    built = build(name, size, dtype)
    fill(built, terms)
    return built


def fill(built: zoo.Built, terms: Terms) -> None:
    """Draw the network's parameters; until then they take no memory."""
    randomize(built.model, terms.seed)
    built.model.to(terms.device)


def size_text(shape: tuple[int, ...]) -> str:
    """A shape as the table has it: 3x224x224."""
    return "x".join(map(str, shape))
