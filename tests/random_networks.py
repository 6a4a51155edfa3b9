"""Random networks: directed acyclic graphs over the table of operations, drawn by hypothesis.

A network is plain data, a `Script`: for each step the operation's name, the values it takes and what it picked.
`Network` is the module that runs it. Values that nothing takes are the outputs, so nothing is dead code.
"""

from __future__ import annotations

import functools
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
        self.earlier: list[tuple[nn.Module, list[torch.Size]]] = []
        self.drafts = [x.clone() for x in inputs]  # operations are made for the shapes that they get
        for step in script.steps:
            operands = [self.drafts[i] for i in step.operands]
            made = OPERATIONS[step.operation].make(Picks(step.picks, self.earlier), *operands)
            module = made if isinstance(made, nn.Module) else Function(made)
            self.earlier.append((module, [x.shape for x in operands]))
            self.calls.append(module.to(script.dtype).eval())
            with torch.no_grad():  # with gradients torch refuses some views that are written in place
                self.drafts += several_of(module(*operands))
        ft.randomize(self.float()).to(script.dtype)
        self.eval()

    def values(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Every value, inputs first."""
        values = [x.clone() for x in inputs]
        for step, call in zip(self.script.steps, self.calls, strict=False):
            values += several_of(call(*(values[i] for i in step.operands)))
        return values

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        values = self.values(inputs)
        taken = {i for step in self.script.steps for i in step.operands}
        return [v for i, v in enumerate(values) if i not in taken and i >= len(inputs)]


def several_of(out: Any) -> list[Tensor]:
    """What an operation gives, as a list."""
    return list(out) if isinstance(out, (tuple, list)) else [out]


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
def grown(
    script: Script, step: Step, draw: Callable[[Any], int] | None = None, network: Network | None = None
) -> tuple[Script, list[Tensor], Network] | None:
    """The script with one more step, the values it computes and its network; None where the step makes no sense.

    `network` is the script's, if it is at hand.
    """
    network = script.make()[0] if network is None else network
    picks = Picks(step.picks, network.earlier, draw)
    try:
        OPERATIONS[step.operation].make(picks, *(network.drafts[i] for i in step.operands))
        script = replace(script, steps=(*script.steps, replace(step, picks=tuple(picks.answers))))
        network, inputs = script.make()
        values = network.values(inputs)
    except (Unfit, RuntimeError, ValueError):
        return None
    return (script, values, network) if all(map(sensible, values)) else None


def sensible(x: Tensor) -> bool:
    """Not empty, not constant, of moderate size."""
    small = x.numel() > 0 and bool(x.abs().max() <= _LARGEST)  # NaN is not
    return small and (x.numel() == 1 or bool((x != x.flatten()[0]).any()))


Kind = tuple[torch.Size, torch.dtype]


@functools.lru_cache(1 << 16)
def fits(name: str, kinds: tuple[Kind, ...]) -> bool:
    """Whether an operation can take tensors of such shapes and types."""
    return OPERATIONS[name].fits(*(torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in kinds))


def kinds_of(values: Sequence[Tensor]) -> list[Kind]:
    return [(v.shape, v.dtype) for v in values]


def possible(names: Sequence[str], values: Sequence[Tensor]) -> list[str]:
    """The operations that can take some of the values."""
    kinds = set(kinds_of(values))
    return [n for n in names if any(fits(n, at) for at in itertools.product(kinds, repeat=OPERATIONS[n].arity))]


def fitting(name: str, values: Sequence[Tensor]) -> list[tuple[int, ...]]:
    """The operands that an operation can take."""
    kinds = kinds_of(values)
    places = itertools.product(range(len(values)), repeat=OPERATIONS[name].arity)
    return [at for at in places if fits(name, tuple(kinds[i] for i in at))]


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
    script = Script(draw(st.sampled_from(dtypes)), tuple(shapes))
    network, values = script.make()

    def grow(name: str, operands: tuple[int, ...]) -> None:
        nonlocal script, values, network
        more = grown(script, Step(name, operands, ()), draw, network)
        if more is not None and max(v.numel() for v in more[1]) <= size:
            script, values, network = more

    for i in range(len(shapes)):
        if draw(st.integers(0, 9)) < 9:
            grow(draw(st.sampled_from(possible(STEMS, [values[i]]))), (i,))
    for _ in range(draw(st.integers(1, most))):
        name = draw(st.sampled_from(possible(names, values)))
        places = fitting(name, values)
        hidden = [at for at in places if min(at) >= len(shapes)]
        grow(name, draw(st.sampled_from(hidden or places)))
    taken = {i for step in script.steps for i in step.operands}
    for i in range(len(shapes), len(values)):
        if i not in taken and draw(st.integers(0, 3)) < 3 and values[i].ndim >= 2:
            grow("head", (i,))
    return script
