"""Other inputs: what a teleported network does on sizes with which it was not planned.

Another batch size, and another size of each axis of an image (or of a video) that the network takes. They are run on
the networks emitted in `full` and in `weights` mode, which may refuse them, and on the checkpoint: weights in the
original class, which has no guards.
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

from fxteleport.passes.capture.meta_values import tree_map
from fxteleport.passes.errors import TeleportError
from fxteleport.passes.graph.containers import leaves
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.plan import Plan
from fxteleport.tools.console import one_line
from fxteleport.tools.models.determinism import deterministic, seeded
from fxteleport.verify import equal, evaluating

ENDS = ("exact", "refused", "differs")


class Other(NamedTuple):
    """An input of another size, and the original's outputs for it."""

    shape: str
    inputs: tuple[Any, ...]
    expected: list[Tensor]


def shapes(size: tuple[int, ...], accepted: Callable[[tuple[int, ...]], bool]) -> Iterator[tuple[int, ...]]:
    """For each axis but the channels the size with another length there, where a network accepts one."""
    for axis in range(1, len(size)):
        n = size[axis]
        for other in dict.fromkeys((n // 2, n - 32, n + 32, n + 1)):
            if other > 0 and accepted(shape := (*size[:axis], other, *size[axis + 1 :])):
                yield shape
                break


def asked(model: nn.Module, given: Iterable[tuple[str, tuple[Any, ...]]], device: str, seed: int) -> list[Other]:
    """The original's outputs for other inputs; inputs that it does not take are left out."""
    others = []
    for shape, inputs in given:
        with contextlib.suppress(Exception):  # whatever a network's forward raises
            others.append(Other(shape, inputs, run(model, inputs, device, seed)))
    return others


def emitted(plan: Plan, network: nn.Module, others: list[Other], device: str, seed: int) -> list[str]:
    """The outcomes of an emitted network: "full 2x3x64x64 exact"."""
    return [f"{plan.mode} {other.shape} {outcome(network, other, device, seed)}" for other in others]


def checkpoint(plan: Plan, cob: ChangeOfBasis, others: list[Other], device: str, seed: int) -> list[str]:
    """The outcomes of the original class with teleported weights; the planned model's own are restored afterwards.

    If the plan has conditions (`plan.conditions`), `strict=True` would have refused.
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
    """The outcome of a network on an input: "exact", "differs", or "refused" and why."""
    try:
        outcome = run(network, other.inputs, device, seed)
    except TeleportError as error:
        return f"refused: {plain(error)}"
    except Exception as error:  # sizes that the graph has built in
        return f"refused: {type(error).__name__}: {plain(error)}"
    same = len(outcome) == len(other.expected) and all(map(equal, other.expected, outcome))
    return "exact" if same else "differs"


def run(network: nn.Module, inputs: tuple[Any, ...], device: str, seed: int) -> list[Tensor]:
    """The output tensors in eval mode; random numbers are the same in each run."""
    # where a graph refuses, fx prints its line
    quiet = contextlib.redirect_stderr(io.StringIO())
    with quiet, deterministic(device), seeded(seed), evaluating(network), torch.no_grad():
        out = network(*tree_map(lambda x: x.to(device), inputs))
    return [x for x in leaves(out) if isinstance(x, Tensor)]


def plain(error: Exception) -> str:
    """An error's message as a part of a row."""
    text: str = one_line(error)[:120]
    return text.replace(";", ",")


class Entry(NamedTuple):
    """One run in a row; an old row has one, of full mode."""

    way: str
    batch: str
    size: str
    end: str


def entries(text: str) -> Iterator[Entry]:
    """The runs in a row's `other`."""
    for part in text.split("; "):
        match = re.match(rf"(?:(full|weights|checkpoint) )?(\d+)x(\S+) ({'|'.join(ENDS)})", part)
        if match:
            yield Entry(match[1] or "full", match[2], match[3], match[4])


def counts(texts: Iterable[str]) -> dict[str, Counter[str]]:
    """For each way ("full", "weights", "checkpoint"), the counts of its outcomes in the rows of a survey."""
    by_way: dict[str, Counter[str]] = {}
    for entry in (e for text in texts for e in entries(text)):
        by_way.setdefault(entry.way, Counter())[entry.end] += 1
    return by_way
