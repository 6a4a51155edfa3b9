"""Random networks: directed acyclic graphs over the table of operations, drawn by hypothesis.

A network is plain data, a `Script`: for each step the operation's name, the values it takes and what it picked.
`Network` is the module that runs it. Values that nothing takes are the outputs, so nothing is dead code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import hypothesis.strategies as st
import torch
from random_operations import OPERATIONS, Function, Unfit
from torch import Tensor, nn

import fxteleport as ft

SHAPES = [(2, 3), (2, 3, 4), (2, 4, 3), (2, 4, 2, 2), (2, 2, 3, 3), (2, 3, 4, 2), (2, 1, 2)]
STEMS = ["Linear", "Conv2d", "Conv1d"]
_LARGEST = 1e3  # values beyond it, and not finite ones, are not drawn
_MOST = 256  # elements of a value


@dataclass(frozen=True)
class Step:
    """An operation, the values it takes, and which options it picked."""

    operation: str
    operands: tuple[int, ...]
    picks: tuple[int, ...]


@dataclass(frozen=True)
class Script:
    """A network as data."""

    dtype: torch.dtype
    inputs: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...] = ()

    def make(self) -> tuple[Network, list[Tensor]]:
        """The network in eval mode, its parameters re-drawn, and inputs for it."""
        generator = torch.Generator().manual_seed(1)
        inputs = [torch.randn(shape, generator=generator).to(self.dtype) for shape in self.inputs]
        network = Network(self, inputs)
        return network, inputs


class Network(nn.Module):
    """A script as a module; values that no step takes are its outputs."""

    def __init__(self, script: Script, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.script = script
        self.calls = nn.ModuleList()
        earlier: list[tuple[nn.Module, list[torch.Size]]] = []
        for step in script.steps:  # operations are made for the tensors that they get
            with torch.no_grad():  # with gradients torch refuses some views that are written in place
                values = self.eval().values(inputs)
            operands = [values[i] for i in step.operands]
            made = OPERATIONS[step.operation].make(Picks(step.picks, earlier), *operands)
            module = made if isinstance(made, nn.Module) else Function(made)
            earlier.append((module, [x.shape for x in operands]))
            self.calls.append(module)
            ft.randomize(self.float()).to(script.dtype)
        self.eval()

    def values(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Every value, inputs first."""
        values = [x.clone() for x in inputs]
        for step, call in zip(self.script.steps, self.calls, strict=False):
            out = call(*(values[i] for i in step.operands))
            values += out if isinstance(out, (tuple, list)) else [out]
        return values

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        values = self.values(inputs)
        taken = {i for step in self.script.steps for i in step.operands}
        return [v for i, v in enumerate(values) if i not in taken and i >= len(inputs)]


class Picks:
    """What an operation asks about its settings: answers from a script, or drawn and kept for one."""

    def __init__(
        self,
        answers: Sequence[int] = (),
        earlier: Sequence[tuple[nn.Module, list[torch.Size]]] = (),
        draw: Callable[[Any], int] | None = None,
    ) -> None:
        self.answers, self.earlier, self.draw, self.asked = list(answers), earlier, draw, 0

    def __call__(self, *options: Any) -> Any:
        if not options:
            raise Unfit
        if self.asked == len(self.answers):
            self.answers.append(self.draw(st.integers(0, len(options) - 1)) if self.draw else 0)
        self.asked += 1
        return options[self.answers[self.asked - 1]]


@torch.no_grad()
def grown(script: Script, step: Step, draw: Callable[[Any], int] | None = None) -> tuple[Script, list[Tensor]] | None:
    """The script with one more step and the values it computes; None where the step makes no sense."""
    network, inputs = script.make()
    values = network.values(inputs)
    earlier = [
        (call, [values[i].shape for i in s.operands]) for s, call in zip(script.steps, network.calls, strict=True)
    ]
    picks = Picks(step.picks, earlier, draw)
    operation = OPERATIONS[step.operation]
    try:
        operation.make(picks, *(values[i] for i in step.operands))
        script = replace(script, steps=(*script.steps, replace(step, picks=tuple(picks.answers))))
        network, inputs = script.make()
        values = network.values(inputs)
    except (Unfit, RuntimeError, ValueError):
        return None
    return (script, values) if all(map(sensible, values)) else None


def sensible(x: Tensor) -> bool:
    """Not empty, not constant, of moderate size."""
    small = x.numel() > 0 and bool(x.abs().max() <= _LARGEST)  # NaN is not
    return small and (x.numel() == 1 or bool((x != x.flatten()[0]).any()))


def fitting(name: str, values: Sequence[Tensor]) -> list[tuple[int, ...]]:
    """The operands that an operation can take."""
    operation = OPERATIONS[name]
    places = range(len(values))
    return [at for at in itertools.product(places, repeat=operation.arity) if operation.fits(*(values[i] for i in at))]


@st.composite
def scripts(
    draw: Any,
    names: Sequence[str] = tuple(OPERATIONS),
    most: int = 16,
    size: int = _MOST,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64, torch.bfloat16),
) -> Script:
    """Networks of up to `most` drawn steps beside stems and heads, with values of up to `size` elements."""
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=2))
    script, values = Script(draw(st.sampled_from(dtypes)), tuple(shapes)), []

    def grow(name: str, operands: tuple[int, ...]) -> None:
        nonlocal script, values
        more = grown(script, Step(name, operands, ()), draw)
        if more is not None and max(v.numel() for v in more[1]) <= size:
            script, values = more

    values = script.make()[1]
    for i in range(len(shapes)):
        if draw(st.integers(0, 9)) < 9:
            grow(draw(st.sampled_from([n for n in STEMS if (i,) in fitting(n, values)])), (i,))
    for _ in range(draw(st.integers(1, most))):
        places = {name: fitting(name, values) for name in names}
        name = draw(st.sampled_from([name for name in names if places[name]]))
        hidden = [at for at in places[name] if min(at) >= len(shapes)]
        grow(name, draw(st.sampled_from(hidden or places[name])))
    taken = {i for step in script.steps for i in step.operands}
    for i in range(len(shapes), len(values)):
        if i not in taken and draw(st.integers(0, 3)) < 3 and values[i].ndim >= 2:
            grow("head", (i,))
    return script
