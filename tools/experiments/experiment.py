"""An experiment, its options, and its verdicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fxteleport.tools.options.paper import What

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Run = dict[str, Any]  # the settings of one run, plain data
Row = dict[str, Any]  # one measurement, with the settings of its run


@dataclass(frozen=True)
class Options:
    """The options of an experiment; None or empty: as the preset has it."""

    preset: str = "laptop"
    data: str = "digits"
    data_root: str = "data"
    models: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    inits: tuple[str, ...] = ()
    sigmas: tuple[float, ...] = ()
    lrs: tuple[float, ...] = ()
    runs: int | None = None
    epochs: int | None = None
    teleport_epoch: int | None = None
    every: int | None = None
    probability: float = 0.0
    candidates: int = 1
    metric: str | None = None
    state: str = "transport"
    seed: int = 0

    @classmethod
    def of(cls, what: What, seed: int) -> Options:
        """The options of the command line."""
        return cls(
            what.preset, what.data_set, what.data_root, tuple(what.model or ()), tuple(what.activation or ()),
            tuple(what.init or ()), tuple(what.sigma or ()), tuple(what.lr or ()), what.runs, what.epochs,
            what.teleport_epoch, what.every, what.probability, what.candidates, what.metric, what.state, seed,
        )  # fmt: skip

    def pick(self, smoke: Any, laptop: Any, paper: Any) -> Any:
        """The preset's value of a setting."""
        return {"smoke": smoke, "laptop": laptop, "paper": paper}[self.preset]

    def seeds(self, smoke: int, laptop: int, paper: int) -> list[int]:
        """One seed a repetition."""
        return [self.seed + i for i in range(self.runs or self.pick(smoke, laptop, paper))]


@dataclass(frozen=True)
class Verdict:
    """One claim against what was measured.

    Attributes:
        claim: of the paper.
        statistic: the measured quantity, in words.
        value, low, high: the estimate and its 95% confidence interval (bootstrap over runs).
        criterion: when the claim holds; fixed before anything was measured.
        holds: whether it does.
        n: the number of independent runs.
    """

    claim: str
    statistic: str
    value: float
    low: float
    high: float
    criterion: str
    holds: bool
    n: int

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain data, with its words."""
        return {**dataclasses.asdict(self), "verdict": "holds" if self.holds else "does not hold here"}


@dataclass(frozen=True)
class Experiment:
    """One experiment of the paper.

    Attributes:
        name: as the command line says it.
        figure: of the paper.
        grid: options -> the runs.
        measure: a run -> its measurements; depends on nothing but the run.
        judge: all measurements -> verdicts.
        draw: all measurements -> a figure.
    """

    name: str
    figure: str
    grid: Callable[[Options], list[Run]]
    measure: Callable[[Run], list[Row]]
    judge: Callable[[list[Row]], list[Verdict]]
    draw: Callable[[list[Row], Figure], None]


def where(rows: Iterable[Row], **settings: Any) -> list[Row]:
    """The rows that have these settings."""
    return [r for r in rows if all(r.get(k) == v for k, v in settings.items())]


def values(rows: Iterable[Row], *names: str) -> list[Any]:
    """The distinct values of a column, sorted; of several columns, tuples."""
    distinct = {tuple(r[n] for n in names) for r in rows if all(n in r for n in names)}
    return sorted(t[0] if len(names) == 1 else t for t in distinct)


def column(rows: Sequence[Row], name: str) -> list[float]:
    """A column as numbers."""
    return [float(r[name]) for r in rows]


def single_thread() -> None:
    """One thread: sums are taken in one order, so that a run gives the same numbers beside others and alone."""
    torch.set_num_threads(1)
