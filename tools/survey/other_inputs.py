"""Other inputs: what a network does, once it is teleported, on sizes that it was not planned with.

Another batch, and another size of each axis of an image (or of a video) that the network takes. Three ways through
which a user may get there: the network that is emitted in `full` and in `weights` mode, which may refuse, and the
checkpoint: weights that went back into the original class, which has no guard.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxteleport.passes.errors import TeleportError
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.plan import Plan
from fxteleport.tools.console import one_line
from fxteleport.tools.models.determinism import deterministic, seeded
from fxteleport.verify import equal, evaluating

ENDS = ("exact", "refused", "differs")


class Other(NamedTuple):
    """An input that was not planned with, and what the original makes of it."""

    shape: str
    inputs: tuple[Any, ...]
    expected: list[Tensor]


def shapes(size: tuple[int, ...], accepted: Callable[[tuple[int, ...]], bool]) -> Iterator[tuple[int, ...]]:
    """For each axis but the channels the size with another length there, where a network accepts one."""
    for axis in range(1, len(size)):
        n = size[axis]
        for other in dict.fromkeys((n // 2, n - 32, n + 32, n + 1)):
            if other > 0 and accepted(found := (*size[:axis], other, *size[axis + 1 :])):
                yield found
                break


def asked(model: nn.Module, given: Iterable[tuple[str, tuple[Any, ...]]], device: str, seed: int) -> list[Other]:
    """What the original makes of other inputs; those that it does not take are left out."""
    found = []
    for shape, inputs in given:
        with contextlib.suppress(Exception):  # whatever a network's forward raises
            found.append(Other(shape, inputs, run(model, inputs, device, seed)))
    return found


def emitted(plan: Plan, network: nn.Module, others: list[Other], device: str, seed: int) -> list[str]:
    """How an emitted network does: "full 2x3x64x64 exact"."""
    return [f"{plan.mode} {other.shape} {outcome(network, other, device, seed)}" for other in others]


def checkpoint(plan: Plan, cob: ChangeOfBasis, others: list[Other], device: str, seed: int) -> list[str]:
    """How the original class does with teleported weights; the planned model has its own again afterwards.

    Where the plan names what it rests on (`plan.conditions`), `strict=True` would have refused.
    """
    plan.apply_(cob)
    ends = [outcome(plan.captured.model, other, device, seed) for other in others]
    plan.apply_(cob.inverse())
    named = [c for c in plan.conditions if c.kind != "mode"]  # all is run in eval mode, as it was planned
    ends = [
        f"refused: it rests on {one_line(ValueError(str(named[0])))[:80]}" if e == "differs" and named else e
        for e in ends
    ]
    return [f"checkpoint {other.shape} {end}" for other, end in zip(others, ends, strict=True)]


def outcome(network: nn.Module, other: Other, device: str, seed: int) -> str:
    """How a network does on an input: "exact", "differs", or "refused" and why."""
    try:
        outcome = run(network, other.inputs, device, seed)
    except TeleportError as error:
        return f"refused: {plain(error)}"
    except Exception as error:  # sizes that the graph has built in
        return f"refused: {type(error).__name__}: {plain(error)}"
    same = len(outcome) == len(other.expected) and all(map(equal, other.expected, outcome))
    return "exact" if same else "differs"


def run(network: nn.Module, inputs: tuple[Any, ...], device: str, seed: int) -> list[Tensor]:
    """The tensors that come out, in eval mode; random numbers are the same ones each time."""
    # where a graph refuses, fx prints its line
    quiet = contextlib.redirect_stderr(io.StringIO())
    with quiet, deterministic(device), seeded(seed), evaluating(network), torch.no_grad():
        out = network(*pytree.tree_map(lambda x: x.to(device), inputs))
    return [x for x in pytree.tree_leaves(out) if isinstance(x, Tensor)]


def plain(error: Exception) -> str:
    """An error's message as a part of a row."""
    text: str = one_line(error)[:120]
    return text.replace(";", ",")


class Entry(NamedTuple):
    """One run, as a row tells of it; an old row has one, of full mode."""

    way: str
    batch: str
    size: str
    end: str


def entries(text: str) -> Iterator[Entry]:
    """What a row's `other` tells."""
    for part in text.split("; "):
        match = re.match(rf"(?:(full|weights|checkpoint) )?(\d+)x(\S+) ({'|'.join(ENDS)})", part)
        if match:
            yield Entry(match[1] or "full", match[2], match[3], match[4])


def counts(texts: Iterable[str]) -> dict[str, Counter[str]]:
    """How often each way ("full", "weights", "checkpoint") ended how, in the rows of a survey."""
    found: dict[str, Counter[str]] = {}
    for entry in (e for text in texts for e in entries(text)):
        found.setdefault(entry.way, Counter())[entry.end] += 1
    return found
