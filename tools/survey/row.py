"""One network in the survey: its row of the table, and the terms of the survey."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Terms:
    """The terms of the survey, the same for every network.

    Attributes:
        norm_stats: "fixed" or "rescaled".
        budget: billions of multiply-adds (estimated) that one forward of the check may take.
        memory: bytes that the survey of one network may use.
    """

    norm_stats: str = "rescaled"
    budget: float = 4.0
    memory: float = math.inf
    seed: int = 0
    device: str = "cpu"


@dataclass
class Row:
    """One network's row; None where the survey did not get that far.

    Attributes:
        parameters: elements of its parameters.
        nodes: of the captured graph.
        captured: as a graph, not as one opaque leaf.
        planned: in both modes.
        exact: bitwise equal at every node in both modes, not vacuous, and no other result on another input; None:
            not run.
        dtype, size, batch: what the check ran on.
        same_graph: the check's graph was captured at the network's own size.
        other: the other inputs, in which way each was run, and how it ended ("full 2x3x64x64 exact; ...").
        free, free_weights: independent CoB values in full and in weights mode.
        moved, moved_weights: share of parameter elements that can move.
        opaque: nodes that no rule covers; why: their reasons.
        pinned: where nothing is free in weights mode, what pins it.
        plan_s, plan_mb: seconds and peak megabytes of a plan (full mode).
        seconds: of the whole survey.
        error: why the survey ended early.
    """

    model: str
    library: str
    family: str
    parameters: int | None = None
    nodes: int | None = None
    captured: bool | None = None
    planned: bool | None = None
    exact: bool | None = None
    dtype: str | None = None
    size: str | None = None
    batch: int | None = None
    same_graph: bool | None = None
    other: str | None = None
    free: int | None = None
    moved: float | None = None
    free_weights: int | None = None
    moved_weights: float | None = None
    opaque: int | None = None
    why: str | None = None
    pinned: str | None = None
    plan_s: float | None = None
    plan_mb: float | None = None
    seconds: float | None = None
    error: str | None = None


COLUMNS = tuple(f.name for f in fields(Row))
