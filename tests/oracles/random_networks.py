"""Random networks: directed acyclic graphs over the tables of operations, drawn by hypothesis or by a seed.

A network is plain data, a `Script`: for each step the operation's name, the values it takes and what it picked.
`Network` is the module that runs it. Values that nothing takes are the outputs, so nothing is dead code. Most
networks run at other sizes, too, of each axis that is no feature axis (`others` finds them).
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import hypothesis.strategies as st
import random_operations
import torch
from hypothesis import assume
from random_changes import CHANGES
from random_operations import Function, Operation, Unfit
from random_sizes import SIZES
from torch import Tensor, nn

import fxteleport as ft

OPERATIONS: dict[str, Operation] = {**random_operations.OPERATIONS, **SIZES, **CHANGES}
KINDS = [*SIZES, *CHANGES]  # what a plan may take for what it was in the example
SHAPES = [
    *[(2, 3), (2, 3, 4), (2, 4, 3), (2, 4, 2, 2), (2, 2, 3, 3), (2, 3, 4, 2), (2, 1, 2)],
    *[(1, 4), (1, 3, 4), (1, 1, 4), (1, 2, 3, 3)],  # where a batch of one hides what a view mixes
]
STEMS = ["Linear", "Conv2d", "Conv1d"]
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
Draw = Callable[[int], int]  # a number below another
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
        """The network in eval mode, its parameters re-drawn, and inputs for it; the same at each call."""
        inputs = self.draw(self.inputs)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Network(self, inputs), inputs

    def draw(self, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Inputs of other shapes."""
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(shape, generator=generator).to(self.dtype) for shape in shapes]


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

    def made(self) -> Network:
        """Itself, without what it was made with."""
        self.earlier, self.drafts = [], []
        return self

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
        draw: Draw | None = None,
    ) -> None:
        self.answers, self.earlier, self.draw, self.asked = list(answers), earlier, draw, 0

    def __call__(self, *options: Any) -> Any:
        if not options:
            raise Unfit
        if self.asked == len(self.answers):
            self.answers.append(self.draw(len(options)) if self.draw else 0)
        self.asked += 1
        return options[self.answers[self.asked - 1]]


@torch.no_grad()
def grown(
    script: Script, step: Step, draw: Draw | None = None, network: Network | None = None
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
    except (Unfit, RuntimeError, ValueError, IndexError):
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


# -- other sizes ----------------------------------------------------------------------------------------------------

Shapes = tuple[tuple[int, ...], ...]


def stretched(inputs: Shapes) -> Iterator[tuple[str, Shapes]]:
    """The shapes of inputs with one axis of another size, and which: the batch of all, or an axis of all that share it.

    Two other sizes an axis, one larger; of an axis of size 1 both are.
    """
    sizes = {2: (3, 1)}
    for n in {shape[0] for shape in inputs}:
        for other in sizes.get(n, (n + 1, n + 2)):
            yield "batch", tuple((other, *shape[1:]) for shape in inputs)
    for axis in range(1, max(map(len, inputs))):
        for n in {shape[axis] for shape in inputs if len(shape) > axis}:
            for other in (n + 1, n - 1 or n + 2):
                yield (
                    f"axis {axis} of {n}",
                    tuple((*s[:axis], other, *s[axis + 1 :]) if s[axis : axis + 1] == (n,) else s for s in inputs),
                )


@torch.no_grad()
def others(script: Script, network: Network, among: Sequence[tuple[str, Shapes]] = ()) -> list[tuple[str, Shapes]]:
    """Which other sizes of its inputs a network takes, with moderate values."""
    found = []
    for axis, shapes in among or stretched(script.inputs):
        try:
            values = network.values(script.draw(shapes))
        except Exception:  # whatever an operation raises for such a size
            continue
        if all(bool(v.abs().max() <= _LARGEST) for v in values if v.numel()):
            found.append((axis, shapes))
    return found


# -- drawing --------------------------------------------------------------------------------------------------------


def build(
    draw: Draw,
    names: Sequence[str] = tuple(OPERATIONS),
    most: int = 16,
    size: int = _MOST,
    dtypes: Sequence[torch.dtype] = DTYPES,
    sized: bool = True,
) -> Script:
    """Draw a network of up to `most` steps beside stems and heads, with values of up to `size` elements.

    Where it is to be `sized`, most steps that would leave an axis with no other size are not taken, and no step that
    would leave none of them one. What is drawn rests on values, and so on torch's random numbers: the same each time.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _built(draw, names, most, size, dtypes, sized)


def _built(
    draw: Draw, names: Sequence[str], most: int, size: int, dtypes: Sequence[torch.dtype], sized: bool
) -> Script:

    def among(options: Sequence[Any]) -> Any:
        return options[draw(len(options))]

    shapes = tuple(among(SHAPES) for _ in range(1 + draw(2)))
    if sized:  # one batch for all
        shapes = tuple((shapes[0][0], *s[1:]) for s in shapes)
    script = Script(among(dtypes), shapes)
    network, values = script.make()
    takes = list(stretched(shapes)) if sized else []
    kinds = [n for n in KINDS if n in names]

    def grow(name: str, operands: tuple[int, ...]) -> None:
        nonlocal script, values, network, takes
        more = grown(script, Step(name, operands, ()), draw, network)
        if more is None or max(v.numel() for v in more[1]) > size:
            return
        if takes:
            left = others(more[0], more[2], takes)
            lost = {axis for axis, _ in left} < {axis for axis, _ in takes} and name not in STEMS
            if not left or (lost and draw(8)):
                return
            takes = left
        script, values, network = more

    for i in range(len(shapes)):
        if draw(16):
            grow(among(possible(STEMS, [values[i]])), (i,))
    for _ in range(1 + draw(most)):
        pool = names
        if sized:  # a layer between the others keeps something free
            pool = among([names, names, names, kinds, kinds, ["Linear"]])
        fit = possible(pool, values)
        if not fit:
            continue
        name = among(fit)
        places = fitting(name, values)
        grow(name, among([at for at in places if min(at) >= len(shapes)] or places))
    taken = {i for step in script.steps for i in step.operands}
    ends = ["head", *(["end of all lengths"] * 3 if sized else [])]
    for i in range(len(shapes), len(values)):
        if i not in taken and draw(8) and values[i].ndim >= 2:
            grow(among(ends), (i,))
    return script


@st.composite
def scripts(draw: Any, **settings: Any) -> Script:
    """Networks drawn by hypothesis (see `build`), of a step at least."""
    script = build(lambda n: draw(st.integers(0, n - 1)), **settings)
    assume(script.steps)
    return script


def seeded(seed: int, number: int, **settings: Any) -> Script:
    """Network `number` of a seed, whatever was drawn before it."""
    return build(random.Random(f"{seed} {number}").randrange, **settings)
