"""Every form of call of the operations that have axes: a table, one line an operation.

A line draws twice. `pick` says what is computed: ranks, sizes, axes, flags; `spell` says how that is written: negative
axes, a tuple, a list or one number, by keyword, by numpy's keyword or by position, as a function or as a method. Two
spellings of one call are the same function, so a plan must find the same in both.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_samples import Probe, Sample, Unfit

import fxteleport as ft

_NUMPY = {"dim": "axis", "keepdim": "keepdims", "input": "x", "other": "x2"}  # what torch calls them, too


class Draw:
    """Picks one of its options; the first ones are the plainest."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(self.random.randrange(1 << 30))

    def __call__(self, *options: Any) -> Any:
        if not options:
            raise Unfit("nothing to choose from")
        return self.random.choice(options)

    def some(self, options: Sequence[int], least: int = 1) -> list[int]:
        """Some of the options, in any order."""
        if len(options) < least:
            raise Unfit("too few to choose from")
        return self.random.sample(list(options), self.random.randint(least, len(options)))

    def shape(self, *ranks: int, least: int = 1) -> tuple[int, ...]:
        return tuple(self(*(n for n in (2, 3, 1, 4) if n >= least)) for _ in range(self(*ranks)))

    def tensor(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def index(self, below: int, *shape: int) -> Tensor:
        return torch.randint(max(below, 1), shape, generator=self.generator)

    def flag(self) -> bool:
        return bool(self(False, True))


Line = Callable[[Draw, Draw], tuple[Any, ...]]  # (pick, spell) -> operation, arguments, keyword arguments
FORMS: dict[str, Line] = {}


def form(name: str) -> Callable[[Line], Line]:
    def register(line: Line) -> Line:
        assert name not in FORMS
        FORMS[name] = line
        return line

    return register


def sample(name: str, seed: int, spelling: int) -> Sample:
    """A call of an operation: what it computes is drawn by `seed`, how it is written by `spelling`.

    Raises:
        Unfit: this draw is no call.
    """
    operation, args, kwargs = FORMS[name](Draw(f"{name} {seed}"), Draw(f"{name} {seed} {spelling}"))
    return Sample(f"{name} {seed} {spelling}", operation, args, kwargs)


# -- how a call is written -----------------------------------------------------------------------------------------


def axis(spell: Draw, i: int, rank: int) -> int:
    """An axis from the front or from the back."""
    return spell(i, i - max(rank, 1))


def axes(spell: Draw, over: Sequence[int], rank: int) -> Any:
    """Axes as one number (where it is one), as a tuple or a list."""
    given = [axis(spell, i, rank) for i in over]
    ways = [tuple(given), given]
    return spell(*ways, *given) if len(given) == 1 else spell(*ways)


class Written:
    """A call in words: a function or a method of a name; trailing arguments by position or by keyword."""

    def __init__(self, target: Callable[..., Any] | str) -> None:
        self.target = target

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.target, str):
            return getattr(x, self.target)(*args, **kwargs)
        return self.target(x, *args, **kwargs)


def written(
    spell: Draw, name: str, first: Sequence[Any], settings: dict[str, Any], only: str = "", spaces: Sequence[Any] = ()
) -> tuple[Any, ...]:
    """A call by name of what comes first; `only` are settings that torch takes by keyword alone."""
    spaces = spaces or (torch, F, torch.special)
    functions = [getattr(space, name) for space in spaces if hasattr(space, name)]
    methods = [name] if spaces[0] is torch and hasattr(Tensor, name) else []
    target = spell(*functions[:1], *methods)
    places = [n for n in settings if n not in only.split()]
    cut = spell(*range(len(places) + 1))
    numpy = spell(False, False, True)
    named = {n: v for n, v in settings.items() if n not in places[:cut]}
    kwargs = {_NUMPY.get(n, n) if numpy else n: v for n, v in named.items()}
    return Written(target), (*first, *(settings[n] for n in places[:cut])), kwargs


# -- reductions ----------------------------------------------------------------------------------------------------


def over_many(name: str, least: int = 1, ranks: Sequence[int] = (2, 3, 1, 4, 5, 0), **given: Any) -> None:
    """An operation over one axis, several, or all."""

    @form(name)
    def line(pick: Draw, spell: Draw) -> tuple[Any, ...]:
        x = pick.tensor(*pick.shape(*ranks, least=least))
        keepdim = pick(False, True)
        if pick(False, False, True) or not x.ndim:
            ways = (
                [{}, {"dim": None}, {"dim": tuple(range(x.ndim))}] if not keepdim else [{"dim": tuple(range(x.ndim))}]
            )
            settings = spell(*ways)
        else:
            settings = {"dim": axes(spell, pick.some(range(x.ndim)), x.ndim)}
        if keepdim and settings:
            settings["keepdim"] = True
        elif settings and spell(False, True):
            settings["keepdim"] = False
        only = "keepdim" if name in ("var", "std", "var_mean", "std_mean") else ""
        return written(spell, name, (x,), settings, only)


for _name in ("sum", "mean", "nansum", "nanmean", "amax", "amin", "logsumexp"):
    over_many(_name)
for _name in ("var", "std", "var_mean", "std_mean"):
    over_many(_name, least=2)


def over_one(name: str, keeps: bool = True, whole: bool = False, ranks: Sequence[int] = (2, 3, 1, 4, 5, 0)) -> None:
    """An operation over one axis; `whole`: or over all of them if none is given."""

    @form(name)
    def line(pick: Draw, spell: Draw) -> tuple[Any, ...]:
        x = pick.tensor(*pick.shape(*ranks))
        if whole and pick(False, False, True):
            return written(spell, name, (x,), {})
        settings: dict[str, Any] = {"dim": axis(spell, pick(*range(max(x.ndim, 1))), x.ndim)}
        if keeps and pick(False, True):
            settings["keepdim"] = True
        elif keeps and spell(False, True):
            settings["keepdim"] = False
        return written(spell, name, (x,), settings)


for _name in ("prod", "median", "nanmedian", "max", "min", "argmax", "argmin"):
    over_one(_name, whole=True)
for _name in ("mode",):
    over_one(_name)
for _name in ("cumsum", "cummax", "cummin", "softmax", "log_softmax"):
    over_one(_name, keeps=False)


@form("diff")
def _diff(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4, 5, least=2))
    settings = {"n": pick(1, 1, 0), "dim": axis(spell, pick(*range(x.ndim)), x.ndim)}
    if settings["n"] == 1 and spell(True, False):
        return written(spell, "diff", (x,), {"dim": settings["dim"]}, "dim")
    return written(spell, "diff", (x,), settings)


@form("norm")
def _norm(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4, 5, 0))
    order, keepdim = pick(2, 1, math.inf, 3, -math.inf, 2.0, 0.5), pick(False, True)
    over = pick.some(range(x.ndim)) if x.ndim and pick(True, True, False) else None
    dim = None if over is None else axes(spell, over, x.ndim)
    if spell(True, False):
        name, order_name, spaces = "norm", "p", (torch,)
    else:
        name, order_name, spaces = "vector_norm", "ord", (torch.linalg,)
    settings = {order_name: order, "dim": dim, "keepdim": keepdim}
    if not keepdim and spell(True, False):
        del settings["keepdim"]
        if over is None and spell(True, False):
            del settings["dim"]
    return written(spell, name, (x,), settings, spaces=spaces)


@form("linalg.norm")
def _linalg_norm(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4))
    over = pick.some(range(x.ndim))[:2]
    order = pick(2, 1, math.inf, None, "fro", "nuc", 0, -1) if len(over) == 2 else pick(2, 1, None, math.inf, 3, 0)
    settings = {"ord": order, "dim": axes(spell, over, x.ndim), "keepdim": pick(False, True)}
    return written(spell, "norm", (x,), settings, spaces=(torch.linalg,))


@form("kthvalue")
def _kthvalue(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4, 0))
    i = pick(*range(max(x.ndim, 1)))
    k = pick(*range(1, 1 + (x.shape[i] if x.ndim else 1)))
    settings = {"k": k, "dim": axis(spell, i, x.ndim), "keepdim": pick(False, True)}
    if i == x.ndim - 1 and not settings["keepdim"] and spell(True, False):
        settings = {"k": k}
    return written(spell, "kthvalue", (x,), settings)


@form("quantile")
def _quantile(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4, 0))
    q = pick(0.25, 0.5, torch.tensor(0.5), torch.tensor([0.25, 0.75]), torch.tensor([0.5]))
    over = pick(None, *range(max(x.ndim, 1)))
    settings = {"q": q, "dim": None if over is None else axis(spell, over, x.ndim), "keepdim": pick(False, True)}
    return written(spell, pick("quantile", "nanquantile"), (x,), settings)


@form("topk")
def _topk(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4, 0))
    i = pick(*range(max(x.ndim, 1)))
    k = pick(*range(1, 1 + (x.shape[i] if x.ndim else 1)))
    return written(spell, "topk", (x,), {"k": k, "dim": axis(spell, i, x.ndim), "largest": pick(True, False)})


@form("sort")
def _sort(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4, 0))
    i = pick(*range(max(x.ndim, 1)))
    settings = {"dim": axis(spell, i, x.ndim), "descending": pick(False, True)}
    if i == x.ndim - 1 and not settings["descending"] and spell(True, False):
        settings = {}
    if pick(False, True):
        settings["stable"] = True
    return written(
        spell, pick("sort", "argsort"), (x,), settings, "stable dim descending" if "stable" in settings else ""
    )


# -- movement ------------------------------------------------------------------------------------------------------


@form("transpose")
def _transpose(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 4, 5, 1))
    i, j = pick(*range(x.ndim)), pick(*range(x.ndim))
    a, b = axis(spell, i, x.ndim), axis(spell, j, x.ndim)
    name = spell("transpose", "swapaxes", "swapdims", "permute", "movedim")
    if name == "permute":
        order = list(range(x.ndim))
        order[i], order[j] = j, i
        given = [axis(spell, k, x.ndim) for k in order]
        return Written(spell(torch.permute, "permute")), (x, spell(given, tuple(given))), {}
    if name == "movedim":
        pairs = ([a, b], [b, a]) if i != j else ([a], [b])
        return Written(spell(torch.movedim, torch.moveaxis, "movedim")), (x, *map(spell(list, tuple), pairs)), {}
    keywords = ("axis0", "axis1") if name == "swapaxes" else ("dim0", "dim1")
    return written(spell, name, (x,), dict(zip(keywords, (a, b), strict=True)))


@form("turned")
def _turned(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 4))
    kind = pick("matrix", "t")
    if kind == "t" and x.ndim == 2:
        return Written(spell("t", torch.t, lambda x: x.T, lambda x: x.mT, lambda x: x.transpose(0, 1))), (x,), {}
    return Written(spell(lambda x: x.mT, lambda x: x.mH, lambda x: x.transpose(-1, -2), torch.adjoint)), (x,), {}


@form("flip")
def _flip(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 4, 1))
    over = [axis(spell, i, x.ndim) for i in pick.some(range(x.ndim))]
    return Written(spell(torch.flip, "flip")), (x, spell(over, tuple(over))), {}


@form("roll")
def _roll(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 4, 1))
    if pick(False, True):
        return Written(spell(torch.roll, "roll")), (x, pick(1, -1, 2)), {}
    over = pick.some(range(x.ndim))
    shifts = [pick(1, -1, 2) for _ in over]
    dims = [axis(spell, i, x.ndim) for i in over]
    if len(over) == 1 and spell(True, False):
        return written(spell, "roll", (x,), {"shifts": shifts[0], "dims": dims[0]})
    return written(spell, "roll", (x,), {"shifts": tuple(shifts), "dims": tuple(dims)})


@form("rot90")
def _rot90(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 4))
    i, j = pick.some(range(x.ndim), 2)[:2]
    return written(
        spell, "rot90", (x,), {"k": pick(1, 2, 3, -1), "dims": [axis(spell, i, x.ndim), axis(spell, j, x.ndim)]}
    )


@form("repeat")
def _repeat(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    """More repeats than axes put new axes in front."""
    x = pick.tensor(*pick.shape(2, 1, 3, 0))
    times = [pick(1, 2) for _ in range(x.ndim + pick(0, 1, 2))]
    return (
        Written(spell(lambda x, t: x.repeat(t), lambda x, t: x.repeat(*t), lambda x, t: torch.tile(x, tuple(t)))),
        (x, times),
        {},
    )


@form("tile")
def _tile(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    """Fewer repeats than axes are of the last ones."""
    x = pick.tensor(*pick.shape(2, 3, 1))
    times = [pick(1, 2) for _ in range(pick(*range(x.ndim + 2)))]
    return Written(spell(torch.tile, "tile")), (x, tuple(times)), {}


@form("repeat_interleave")
def _repeat_interleave(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4))
    if pick(False, False, True):
        return written(spell, "repeat_interleave", (x,), {"repeats": 2})
    i = pick(*range(x.ndim))
    repeats = pick(2, torch.arange(x.shape[i]) % 2 + 1)
    return written(spell, "repeat_interleave", (x,), {"repeats": repeats, "dim": axis(spell, i, x.ndim)})


@form("expand")
def _expand(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 0))
    new = [pick(1, 2) for _ in range(pick(0, 1, 2))]
    sizes = [pick(3, 2) if n == 1 else spell(n, -1) for n in x.shape]
    whole = [*new, *(n if m == -1 else m for n, m in zip(x.shape, sizes, strict=True))]
    ways = [
        lambda x: x.expand(*new, *sizes),
        lambda x: x.expand([*new, *sizes]),
        lambda x: torch.broadcast_to(x, whole),
    ]
    return Written(spell(*ways)), (x,), {}


@form("squeeze")
def _squeeze(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    shape = tuple(pick(1, 2, 3, 1) for _ in range(pick(2, 3, 4, 5, 1, 0)))
    x = pick.tensor(*shape)
    if pick(False, False, True) or not shape:
        return written(spell, "squeeze", (x,), {})
    over = pick.some(range(x.ndim))
    given = [axis(spell, i, x.ndim) for i in over]
    return written(spell, "squeeze", (x,), {"dim": spell(given[0], tuple(given)) if len(given) == 1 else tuple(given)})


@form("unsqueeze")
def _unsqueeze(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4, 0))
    return written(spell, "unsqueeze", (x,), {"dim": axis(spell, pick(*range(x.ndim + 1)), x.ndim + 1)})


@form("flatten")
def _flatten(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4, 5, 0))
    i = pick(*range(max(x.ndim, 1)))
    j = pick(*range(i, max(x.ndim, 1)))
    start, end = axis(spell, i, x.ndim), axis(spell, j, x.ndim)
    if x.ndim and spell(True, False):
        return nn.Flatten(start, end), (x,), {}
    return written(spell, "flatten", (x,), {"start_dim": start, "end_dim": end})


@form("unflatten")
def _unflatten(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    shape = list(pick.shape(2, 3, 1, 4))
    i = pick(*range(len(shape)))
    shape[i] = pick(4, 6, 2)
    first = pick(2, 1)
    sizes = (first, spell(-1, shape[i] // first))
    dim = axis(spell, i, len(shape))
    if spell(True, False):
        return nn.Unflatten(dim, (first, shape[i] // first)), (pick.tensor(*shape),), {}
    return written(spell, "unflatten", (pick.tensor(*shape),), {"dim": dim, "sizes": sizes})


@form("diagonal")
def _diagonal(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 4))
    i, j = pick.some(range(x.ndim), 2)[:2]
    settings = {"offset": pick(0, 1, -1), "dim1": axis(spell, i, x.ndim), "dim2": axis(spell, j, x.ndim)}
    return written(spell, "diagonal", (x,), settings)


@form("diag")
def _diag(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(1, 2, 3))
    name = pick("diag", "diag_embed", "diagflat") if x.ndim < 3 else "diag_embed"
    offset = pick(0, 1, -1)
    if name == "diag_embed" and pick(True, False):
        i, j = pick.some(range(x.ndim + 1), 2)[:2]
        dims = {"dim1": axis(spell, i, x.ndim + 1), "dim2": axis(spell, j, x.ndim + 1)}
        return written(spell, name, (x,), {"offset": offset, **dims})
    return written(spell, name, (x,), {"diagonal" if name == "diag" else "offset": offset})


@form("tril")
def _tril(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    return written(spell, pick("tril", "triu"), (pick.tensor(*pick.shape(2, 3, 4)),), {"diagonal": pick(0, 1, -1)})


@form("split")
def _split(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4))
    i = pick(*range(x.ndim))
    dim, n = axis(spell, i, x.ndim), x.shape[i]
    kind = pick("split", "chunk", "tensor_split", "sizes", "indices", "unbind")
    if kind == "unbind":
        return written(spell, "unbind", (x,), {"dim": dim})
    cut = pick(*range(1, n + 1))
    if kind == "sizes":
        return Written(spell(torch.split, "split")), (x, spell([cut, n - cut], (cut, n - cut)), dim), {}
    if kind == "split":
        return Written(spell(torch.split, "split")), (x, cut), {"dim": dim}
    if kind == "indices":
        return written(spell, "tensor_split", (x,), {"indices": spell((cut,), [cut]), "dim": dim})
    key = {"chunk": "chunks", "tensor_split": "sections"}[kind]
    return written(spell, kind, (x,), {key: pick(2, 1, 3), "dim": dim})


@form("select")
def _select(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4))
    i = pick(*range(x.ndim))
    n, dim = x.shape[i], axis(spell, i, x.ndim)
    at = pick(*range(n))
    if pick(True, False):
        if spell(True, False):
            return written(spell, "select", (x,), {"dim": dim, "index": spell(at, at - n)})
        lead = (slice(None),) * i
        tail = (slice(None),) * (x.ndim - 1 - i)
        return Written(spell(lambda x: x[(*lead, at)], lambda x: x[(..., at - n, *tail)])), (x,), {}
    if spell(True, False):
        return written(spell, "narrow", (x,), {"dim": dim, "start": at, "length": n - at})
    lead = (slice(None),) * i
    return Written(lambda x: x[(*lead, slice(at, None))]), (x,), {}


@form("indexed")
def _indexed(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    """By tensors of indices, of which several are broadcast, and which an axis may come between."""
    x = pick.tensor(*pick.shape(2, 3, 4, 1))
    count = pick(1, 2, 3)
    parts: list[Any] = []
    sizes, mask = list(x.shape), pick(True, False)
    while sizes and len(parts) < 5:
        n = sizes.pop(0)
        index = pick.index(n, count)
        parts.append(pick(index, index, slice(None), slice(0, None, 2), 0, None, "mask"))
        if parts[-1] is None:
            sizes.insert(0, n)
        elif isinstance(parts[-1], str):  # of one axis or two, with as many positions as the other indices
            shape = (n, *sizes[:1]) if mask else (n,)
            sizes = sizes[len(shape) - 1 :]
            held = torch.arange(math.prod(shape)) < count
            parts[-1] = held[torch.randperm(held.numel(), generator=pick.generator)].view(shape)
        if pick(False, False, True):
            break
    if sizes and pick(True, False):
        after = pick(0, 1)
        if after and len(sizes) > 1:
            parts += [..., pick.index(sizes[-1], count)]
        else:
            parts.append(...)
    return (lambda x, *index: x[index]), (x, *parts), {}


@form("index_select")
def _index_select(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4, 0))
    i = pick(*range(max(x.ndim, 1)))
    index = pick.index(x.shape[i] if x.ndim else 1, pick(1, 2, 3) if x.ndim else 1)
    return written(spell, "index_select", (x,), {"dim": axis(spell, i, x.ndim), "index": index})


@form("gather")
def _gather(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4, 0))
    i = pick(*range(max(x.ndim, 1)))
    shape = [pick(2, 1, 3) if k == i else pick(*range(1, n + 1)) for k, n in enumerate(x.shape)]
    index = pick.index(x.shape[i] if x.ndim else 1, *shape)
    return written(spell, "gather", (x,), {"dim": axis(spell, i, x.ndim), "index": index})


@form("take_along_dim")
def _take_along_dim(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4))
    if pick(False, False, True):
        return written(spell, "take_along_dim", (x,), {"indices": pick.index(x.numel(), *pick.shape(1, 2))})
    i = pick(*range(x.ndim))
    shape = [pick(2, 1) if k == i else pick(n, 1) for k, n in enumerate(x.shape)]
    return written(
        spell, "take_along_dim", (x,), {"indices": pick.index(x.shape[i], *shape), "dim": axis(spell, i, x.ndim)}
    )


@form("method unfold")
def _method_unfold(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4))
    i = pick(*range(x.ndim))
    size = pick(*range(1, x.shape[i] + 1))
    return written(
        spell, "unfold", (x,), {"dimension": axis(spell, i, x.ndim), "size": size, "step": pick(1, 2)}, spaces=(torch,)
    )


@form("cat")
def _cat(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    shape = pick.shape(2, 3, 1, 4, 5)
    i = pick(*range(len(shape)))
    others = [[pick(1, 2) if k == i else n for k, n in enumerate(shape)] for _ in range(pick(1, 2))]
    parts = [pick.tensor(*s) for s in (shape, *others)]
    names = {"dim": axis(spell, i, len(shape))}
    target = spell(torch.cat, torch.concat, torch.concatenate)
    way = spell("position", "dim", "axis")
    kwargs = {} if way == "position" else {way: names["dim"]}
    return (
        (lambda *xs, **kw: target(list(xs), *([names["dim"]] if way == "position" else []), **kw)),
        tuple(parts),
        kwargs,
    )


@form("stack")
def _stack(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    shape = pick.shape(2, 3, 1, 0)
    parts = [pick.tensor(*shape) for _ in range(pick(2, 1, 3))]
    kind = pick("stack", "stack", "hstack", "vstack", "dstack", "column_stack")
    if kind != "stack":
        return (lambda *xs: getattr(torch, kind)(xs)), tuple(parts), {}
    dim = axis(spell, pick(*range(len(shape) + 1)), len(shape) + 1)
    return spell(lambda *xs: torch.stack(xs, dim), lambda *xs: torch.stack(xs, dim=dim)), tuple(parts), {}


@form("pad")
def _pad(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4, 5, least=2))
    mode = pick("constant", "constant", "reflect", "replicate", "circular")
    count = (
        pick(*range(1, x.ndim + 1)) if mode == "constant" else pick(*(k for k in (1, 2, 3) if k + 1 <= x.ndim <= k + 2))
    )
    pads = [pick(1, 0, -1) if mode == "constant" else pick(1, 0) for _ in range(2 * count)]
    value = pick(0.0, 0.0, 1.5) if mode == "constant" else None
    settings = {"pad": spell(pads, tuple(pads)), "mode": mode, "value": value}
    if mode == "constant" and not value and spell(True, False):
        settings = {"pad": settings["pad"]}
    if mode != "constant" and spell(True, False):
        del settings["value"]
    return written(spell, "pad", (x,), settings, spaces=(F,))


@form("pad module")
def _pad_module(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    spatial = pick(1, 2, 3)
    kind = pick("ZeroPad", "ConstantPad", "ReflectionPad", "ReplicationPad", "CircularPad")
    x = pick.tensor(*pick.shape(spatial + 1, spatial + 2, least=2))
    same = pick(True, False)
    pads = [1] * 2 * spatial if same else [pick(1, 0) for _ in range(2 * spatial)]
    given = spell(1, tuple(pads)) if same else tuple(pads)
    extra = (pick(0.0, 1.5),) if kind == "ConstantPad" else ()
    return getattr(nn, f"{kind}{spatial}d")(given, *extra), (x,), {}


@form("pixel shuffle")
def _pixel_shuffle(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    lead = pick.shape(1, 0, 2)
    if pick(True, False):
        x = pick.tensor(*lead, pick(4, 8), 2, 3)
        return (
            spell(nn.PixelShuffle(2), lambda x: F.pixel_shuffle(x, 2), lambda x: F.pixel_shuffle(x, upscale_factor=2)),
            (x,),
            {},
        )
    x = pick.tensor(*lead, pick(1, 2), 4, 2)
    return spell(nn.PixelUnshuffle(2), lambda x: F.pixel_unshuffle(x, 2)), (x,), {}


@form("unfold")
def _unfold(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(1, 0), pick(2, 1), 3, 4)
    kernel, stride, padding = pick(2, (1, 2), (2, 3)), pick(1, 2), pick(0, 1)
    if spell(True, False):
        return nn.Unfold(kernel, stride=stride, padding=padding), (x,), {}
    return written(
        spell, "unfold", (x,), {"kernel_size": kernel, "dilation": 1, "padding": padding, "stride": stride}, spaces=(F,)
    )


@form("fold")
def _fold(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    """[channels * window, positions], in a batch or alone; channels may be as many as positions."""
    channels, kernel, padding = pick(2, 1, 3), pick((2, 2), (1, 2), (2, 1)), pick(0, 1)
    size = pick((3, 3), (2, 3), (2, 2))
    positions = math.prod(n + 2 * padding - k + 1 for n, k in zip(size, kernel, strict=True))
    x = pick.tensor(*pick.shape(1, 0), channels * math.prod(kernel), positions)
    if spell(True, False):
        return nn.Fold(size, kernel, padding=padding), (x,), {}
    settings = {"output_size": size, "kernel_size": kernel, "dilation": 1, "padding": padding}
    return written(spell, "fold", (x,), settings, spaces=(F,))


# -- scattering ----------------------------------------------------------------------------------------------------


@form("scatter")
def _scatter(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 1, 3, 0))
    i = pick(*range(max(x.ndim, 1)))
    name = pick("scatter", "scatter_add", "scatter_reduce", "scatter value")
    shape = [pick(n, n, *range(1, n + 1)) for n in x.shape]
    index = pick.index(x.shape[i] if x.ndim else 1, *shape)
    if len(shape) and pick(False, True):  # each position once
        index = (
            torch.randperm(x.shape[i], generator=pick.generator)[: shape[i]]
            .view([-1 if k == i else 1 for k in range(x.ndim)])
            .expand(shape)
            .clone()
        )
    elif name == "scatter":
        index = (
            torch.zeros_like(index) + torch.arange(shape[i]).view([-1 if k == i else 1 for k in range(x.ndim)])
            if x.ndim
            else index
        )
    settings: dict[str, Any] = {"dim": axis(spell, i, x.ndim), "index": index}
    if name == "scatter value":
        return written(spell, "scatter", (x,), settings | {"value": pick(0.0, 2.0)}, "value")
    src = pick.tensor(*(pick(n, n, n + 1) for n in shape))
    if name == "scatter_reduce":
        reduce = pick("sum", "mean", "amax", "amin", "prod")
        return written(
            spell,
            name,
            (x,),
            settings | {"src": src, "reduce": reduce, "include_self": pick(True, False)},
            "include_self",
        )
    return written(spell, name, (x,), settings | {"src": src})


@form("index_add")
def _index_add(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 1, 3, 4, 0))
    i = pick(*range(max(x.ndim, 1)))
    n = x.shape[i] if x.ndim else 1
    index = torch.randperm(n, generator=pick.generator)[: pick(*range(1, n + 1))]
    source = pick.tensor(*(len(index) if k == i else m for k, m in enumerate(x.shape)))
    name = pick("index_add", "index_copy", "index_reduce", "index_fill")
    settings: dict[str, Any] = {"dim": axis(spell, i, x.ndim), "index": index}
    if name == "index_fill":
        return written(spell, name, (x,), settings | {"value": pick(0.0, 2.0)})
    settings |= {"source": source}
    if name == "index_reduce":
        settings |= {"reduce": pick("amax", "amin", "mean", "prod")}
    return written(spell, name, (x,), settings)


@form("slice_scatter")
def _slice_scatter(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4))
    i = pick(*range(x.ndim))
    dim, n = axis(spell, i, x.ndim), x.shape[i]
    at = pick(*range(n))
    if pick(True, False):
        src = pick.tensor(*(m for k, m in enumerate(x.shape) if k != i))
        return written(spell, "select_scatter", (x,), {"src": src, "dim": dim, "index": spell(at, at - n)})
    src = pick.tensor(*(n - at if k == i else m for k, m in enumerate(x.shape)))
    return written(spell, "slice_scatter", (x,), {"src": src, "dim": dim, "start": at, "end": spell(n, None)})


@form("diagonal_scatter")
def _diagonal_scatter(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 4))
    i, j = pick.some(range(x.ndim), 2)[:2]
    offset = pick(0, 1, -1)
    src = pick.tensor(*torch.diagonal(x, offset, i, j).shape)
    dims = {"dim1": axis(spell, i, x.ndim), "dim2": axis(spell, j, x.ndim)}
    return written(spell, "diagonal_scatter", (x,), {"src": src, "offset": offset, **dims})


@form("setitem")
def _setitem(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4))
    i = pick(*range(x.ndim))
    at = pick(*range(x.shape[i]))
    lead = (slice(None),) * i
    whole = x[(*lead, at)]
    value = pick.tensor(*whole.shape[pick(*range(whole.ndim + 1)) :])

    def write(x: Tensor, value: Any) -> Tensor:
        out = x.clone()
        out[(*lead, at)] = value
        return out

    return write, (x, pick(value, value, 0.0, 2.0)), {}


# -- products ------------------------------------------------------------------------------------------------------


@form("matmul")
def _matmul(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    n, k, m = pick(2, 3, 1), pick(3, 2, 1), pick(2, 4, 1, 3)
    batch = pick.shape(1, 2, 0)
    a = (k,) if pick(False, False, True) else (*(pick(b, 1) for b in batch[pick(*range(len(batch) + 1)) :]), n, k)
    b = (k,) if pick(False, False, True) else (*(pick(b, 1) for b in batch[pick(*range(len(batch) + 1)) :]), k, m)
    ways: list[Any] = [
        torch.matmul,
        "matmul",
        lambda x, y: x @ y,
        lambda x, y: x.__matmul__(y),
        lambda x, y: torch.matmul(x, other=y),
    ]
    ways += [torch.mm, "mm"] if len(a) == len(b) == 2 else []
    ways += [torch.mv, "mv", lambda x, y: torch.mv(x, vec=y)] if (len(a), len(b)) == (2, 1) else []
    ways += [torch.dot, torch.vdot, torch.inner] if len(a) == len(b) == 1 else []
    ways += [torch.bmm, lambda x, y: torch.bmm(x, mat2=y)] if len(a) == len(b) == 3 and a[0] == b[0] else []
    return Written(spell(*ways)), (pick.tensor(*a), pick.tensor(*b)), {}


@form("addmm")
def _addmm(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    n, k, m, batch = pick(2, 3), pick(3, 2), pick(2, 4), pick(2, 3)
    kind = pick("addmm", "baddbmm", "addbmm", "addmv", "addr")
    lead = (batch,) if kind in ("baddbmm", "addbmm") else ()
    a, b = pick.tensor(*lead, n, k), pick.tensor(*lead, k, m)
    whole = (*lead, n, m) if kind == "baddbmm" else (n, m)
    if kind == "addmv":
        b, whole = pick.tensor(k), (n,)
    if kind == "addr":
        a, b = pick.tensor(n), pick.tensor(m)
    base = pick.tensor(*(pick(s, s, 1) for s in whole[pick(0, 0, *range(len(whole))) :]))
    return written(spell, kind, (base, a, b), {"beta": pick(1, 0.5), "alpha": pick(1, 2)}, "beta alpha")


@form("tensordot")
def _tensordot(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    a = pick.tensor(*pick.shape(2, 3, 1, 4))
    over = pick.some(range(a.ndim), 0)
    kept = list(pick.shape(1, 0, 2))
    order = list(range(len(kept) + len(over)))
    pick.random.shuffle(order)
    sizes = [*kept, *(a.shape[i] for i in over)]
    b = pick.tensor(*(sizes[i] for i in order))
    into = [order.index(len(kept) + i) for i in range(len(over))]
    dims: Any = ([axis(spell, i, a.ndim) for i in over], [axis(spell, i, b.ndim) for i in into])
    if over == list(range(a.ndim - len(over), a.ndim)) and into == list(range(len(over))):
        dims = spell(dims, len(over))
    elif spell(True, False):
        dims = [tuple(d) for d in dims]
    return written(spell, "tensordot", (a, b), {"dims": dims}, spaces=(torch,))


@form("einsum")
def _einsum(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    """Letters in any order, some contracted, and an ellipsis of axes that broadcast."""
    letters, sizes = "abcd", dict(zip("abcd", (pick(2, 3), pick(3, 2), pick(2, 1), pick(2, 3)), strict=True))
    terms = ["".join(pick.random.sample(letters, pick(2, 1, 3, 0))) for _ in range(pick(2, 1, 3))]
    used = sorted(set("".join(terms)))
    out = "".join(pick.some(range(len(used)), 0) and [used[i] for i in pick.some(range(len(used)), 0)])
    dots = pick(None, None, 0, 1, 2)
    shapes, written_terms = [], []
    for term in terms:
        shape = [sizes[c] for c in term]
        if dots is not None:
            at = pick(*range(len(term) + 1))
            wide = pick(*range(dots + 1))
            shape[at:at] = [pick(2, 1) for _ in range(wide)]
            term = f"{term[:at]}...{term[at:]}"
        shapes.append(shape)
        written_terms.append(term)
    if dots is not None:
        at = pick(*range(len(out) + 1))
        out = f"{out[:at]}...{out[at:]}"
    space = spell("", " ")
    equation = f"{(',' + space).join(written_terms)}{space}->{space}{out}"
    tensors = [pick.tensor(*shape) for shape in shapes]
    ways = [lambda *xs: torch.einsum(equation, *xs), lambda *xs: torch.einsum(equation, list(xs))]
    return spell(*ways), tuple(tensors), {}


@form("einsum without an output")
def _einsum_implicit(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    terms = pick(("ba", "ac"), ("ij", "jk"), ("ii",), ("...ii",), ("ab", "ab"), ("...a", "a..."), ("aab", "b"))
    output = {
        ("ba", "ac"): "bc",
        ("ij", "jk"): "ik",
        ("ii",): "",
        ("...ii",): "...",
        ("ab", "ab"): "",
        ("...a", "a..."): "...",
        ("aab", "b"): "",
    }[terms]
    tensors = [pick.tensor(*(2 for c in t.replace("...", "." * pick(1, 2, 0)))) for t in terms]
    equation = ",".join(terms) + spell("", f"->{output}")
    return (lambda *xs: torch.einsum(equation, *xs)), tuple(tensors), {}


@form("inner")
def _inner(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    k = pick(2, 3, 1)
    a, b = ((*pick.shape(1, 0, 2), k) if pick(True, True, True, False) else () for _ in range(2))
    return written(spell, "inner", (pick.tensor(*a), pick.tensor(*b)), {})


@form("outer")
def _outer(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    return (
        Written(spell(torch.outer, torch.ger, "outer", lambda x, y: torch.outer(x, vec2=y))),
        (pick.tensor(pick(2, 3)), pick.tensor(pick(3, 2, 1))),
        {},
    )


@form("cross")
def _cross(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    """Both may be broadcast; `torch.cross` without an axis takes the first of three elements of its input."""
    rank = pick(2, 1, 3)
    i = pick(*range(rank))
    shape = [3 if k == i else pick(3, 2, 3) for k in range(rank)]
    a, b = (pick.tensor(*(n if k == i else pick(n, n, 1) for k, n in enumerate(shape))) for _ in range(2))
    if pick(False, True):
        return (Written(spell(torch.cross, "cross"))), (a, b), {}
    if i == rank - 1 and spell(True, False):
        return (Written(torch.linalg.cross)), (a, b), {}
    dim = axis(spell, i, rank)
    return (Written(spell(torch.cross, torch.linalg.cross))), (a, b), {"dim": dim}


@form("solve")
def _solve(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    """Vectors, matrices and batches of them; a right side that is one vector, or as many as there are matrices."""
    n, m, batch = pick(3, 2), pick(2, 3, 1), pick.shape(1, 0, 2)
    matrix = pick.tensor(*batch, n, n) + 4 * torch.eye(n)
    left = pick(True, True, False)
    kind = pick("vector", "vectors", "matrix", "matrices", "other batch")
    if kind in ("vector", "vectors"):
        right = (n,) if kind == "vector" else (*batch, n)
        left = True
    else:
        lead = {"matrix": (), "matrices": batch, "other batch": tuple(pick(b, 1) for b in batch)}[kind]
        right = (*lead, n, m) if left else (*lead, m, n)
    return _spelled_solve(spell, matrix, pick.tensor(*right), {} if left and spell(True, False) else {"left": left})


def _spelled_solve(spell: Draw, matrix: Tensor, right: Tensor, settings: dict[str, Any]) -> tuple[Any, ...]:
    ways = [lambda a, b: torch.linalg.solve(a, b, **settings), lambda a, b: torch.linalg.solve(A=a, B=b, **settings)]
    return spell(*ways), (matrix, right), {}


@form("solve a constant")
def _solve_constant(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    """As above, with a matrix that has no CoB."""
    fn, (matrix, right), kwargs = _solve(pick, spell)
    return (lambda b: fn(matrix, b, **kwargs)), (right,), {}


@form("solve_triangular")
def _solve_triangular(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    n, m, batch = pick(3, 2), pick(2, 3, 1), pick.shape(1, 0)
    matrix = (pick.tensor(*batch, n, n) + 4 * torch.eye(n)).triu()
    left = pick(True, False)
    lead = pick(batch, tuple(pick(b, 1) for b in batch), ())
    right = pick.tensor(*lead, *((n, m) if left else (m, n)))
    settings = {} if left and spell(True, False) else {"left": left}
    return (lambda b: torch.linalg.solve_triangular(matrix, b, upper=True, **settings)), (right,), {}


@form("attention")
def _attention(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    lead, e, v = pick.shape(1, 0, 2), pick(2, 3), pick(2, 3)
    length, keys = pick(2, 3), pick(3, 2)
    q, k = pick.tensor(*lead, length, e), pick.tensor(*(pick(b, 1) for b in lead), keys, e)
    value = pick.tensor(*(pick(b, 1) for b in lead), keys, v)
    if pick(True, False):
        return Written(F.scaled_dot_product_attention), (q, k, value), spell({}, {"attn_mask": None})
    mask = pick.tensor(*pick((length, keys), (1, keys), (length, 1)))
    if spell(True, False):
        return Written(F.scaled_dot_product_attention), (q, k, value, mask), {}
    return Written(F.scaled_dot_product_attention), (q, k, value), {"attn_mask": mask}


@form("grouped attention")
def _grouped_attention(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    lead, heads, group = pick.shape(1, 0), pick(2, 1), pick(2, 3)
    q = pick.tensor(*lead, heads * group, 2, 3)
    k, v = pick.tensor(*lead, heads, 3, 3), pick.tensor(*lead, heads, 3, 2)
    return Written(F.scaled_dot_product_attention), (q, k, v), {"enable_gqa": True}


# -- layers --------------------------------------------------------------------------------------------------------


@form("linear")
def _linear(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(1, 0, 2, 3, 4), pick(3, 2, 1))
    n, out, bias = x.shape[-1], pick(2, 3, 1), pick(True, False)
    layer = ft.randomize(nn.Linear(n, out, bias=bias))
    if spell(True, False):
        return layer, (x,), {}
    weight, own = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    return _Held(lambda x, w, b: F.linear(x, w, b), weight, own), (x,), {}


class _Held(nn.Module):
    """A function of tensors, of a weight and of a bias."""

    def __init__(self, fn: Callable[..., Any], weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.fn, self.weight = fn, nn.Parameter(weight.clone())
        self.bias = None if bias is None else nn.Parameter(bias.clone())

    def forward(self, *xs: Tensor) -> Any:
        return self.fn(*xs, self.weight, self.bias)


@form("linear of a vector")
def _linear_vector(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    """F.linear takes a weight of one axis; and one that is computed."""
    n = pick(2, 3)
    x = pick.tensor(*pick.shape(1, 0, 2), n)
    weight = pick.tensor(n) if pick(True, False) else pick.tensor(pick(n, 2), n)
    return Written(F.linear), (x, weight), {}


@form("bilinear")
def _bilinear(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    lead = pick.shape(1, 0, 2)
    layer = ft.randomize(nn.Bilinear(2, 3, pick(2, 1), bias=pick(True, False)))
    if spell(True, False):
        return layer, (pick.tensor(*lead, 2), pick.tensor(*lead, 3)), {}
    return _Held(F.bilinear, layer.weight.detach(), layer.bias), (pick.tensor(*lead, 2), pick.tensor(*lead, 3)), {}


@form("convolution")
def _convolution(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    """In a batch or alone; channels may be as many as positions or images."""
    spatial, groups, transposed = pick(1, 2, 3), pick(1, 2), pick(False, True)
    channels, out = pick(2, 4, 2) if groups == 2 else pick(2, 3, 1), groups * pick(1, 2)
    kernel = pick(2, 1)
    settings = {"stride": pick(1, 2), "padding": pick(0, 1), "groups": groups, "bias": pick(True, False)}
    name = f"conv{'_transpose' if transposed else ''}{spatial}d"
    layer = ft.randomize(
        getattr(nn, f"Conv{'Transpose' if transposed else ''}{spatial}d")(channels, out, kernel, **settings)
    )
    x = pick.tensor(*pick.shape(1, 0), channels, *(pick(2, 3, channels) for _ in range(spatial)))
    if spell(True, False):
        return layer, (x,), {}
    bias = settings.pop("bias") and layer.bias.detach()
    function = spell(getattr(F, name), getattr(torch, name))
    return (
        _Held(
            lambda x, w, b: function(x, w, b, **settings), layer.weight.detach(), bias if bias is not False else None
        ),
        (x,),
        {},
    )


@form("convolution of a computed weight")
def _computed_convolution(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    spatial, groups, transposed = pick(1, 2), pick(1, 2), pick(False, True)
    channels, out = groups * pick(1, 2), groups * pick(1, 2)
    shape = (channels, out // groups) if transposed else (out, channels // groups)
    x = pick.tensor(*pick.shape(1, 0), channels, *(pick(2, 3) for _ in range(spatial)))
    function = getattr(F, f"conv{'_transpose' if transposed else ''}{spatial}d")
    kernel = pick(2, 1)
    return (
        (lambda x, w, b: function(x, w, b, groups=groups)),
        (x, pick.tensor(*shape, *(kernel,) * spatial), pick.tensor(out)),
        {},
    )


def pooling(kind: str) -> None:
    @form(f"{kind} pool")
    def line(pick: Draw, spell: Draw) -> tuple[Any, ...]:
        """In a batch or alone; over all axes but the channels (and the batch)."""
        spatial = pick(1, 2, 3)
        x = pick.tensor(*pick.shape(1, 0), pick(2, 3), *(pick(2, 3, 4) for _ in range(spatial)))
        if pick(False, True):
            size = pick(1, 2)
            size = spell(size, (size,) * spatial)
            if spell(True, False):
                return getattr(nn, f"Adaptive{kind}Pool{spatial}d")(size), (x,), {}
            return written(spell, f"adaptive_{kind.lower()}_pool{spatial}d", (x,), {"output_size": size}, spaces=(F,))
        settings = {"kernel_size": 2, "stride": pick(1, 2), "padding": pick(0, 1)}
        if spell(True, False):
            return getattr(nn, f"{kind}Pool{spatial}d")(**settings), (x,), {}
        return written(spell, f"{kind.lower()}_pool{spatial}d", (x,), settings, spaces=(F,))


pooling("Avg")
pooling("Max")


@form("max pool with indices")
def _pool_indices(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    spatial = pick(1, 2, 3)
    x = pick.tensor(*pick.shape(1, 0), pick(2, 3), *(pick(2, 4) for _ in range(spatial)))
    pool, back = getattr(F, f"max_pool{spatial}d"), getattr(F, f"max_unpool{spatial}d")
    if pick(True, False):
        return (lambda x: pool(x, 2, return_indices=True)), (x,), {}
    indices = pool(x, 2, return_indices=True)[1]
    small = pick.tensor(*indices.shape)
    return spell(lambda x, i: back(x, i, 2), lambda x, i: back(x, indices=i, kernel_size=2)), (small, indices), {}


@form("interpolate")
def _interpolate(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    spatial = pick(1, 2, 3)
    x = pick.tensor(pick(2, 1), pick(2, 3), *(pick(2, 3) for _ in range(spatial)))
    mode = pick(
        "nearest",
        "nearest-exact",
        {1: "linear", 2: "bilinear", 3: "trilinear"}[spatial],
        *(["bicubic", "area"] if spatial == 2 else []),
    )
    size = tuple(2 * n for n in x.shape[2:])
    settings = (
        spell({"scale_factor": 2.0}, {"size": size}, {"size": list(size)}) if mode == "nearest" else {"size": size}
    )
    return (lambda x: F.interpolate(x, mode=mode, **settings)), (x,), {}


@form("grid_sample")
def _grid_sample(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    spatial = pick(2, 3)
    x = pick.tensor(2, pick(2, 3), *(pick(2, 3) for _ in range(spatial)))
    grid = pick.tensor(2, *(pick(2, 3) for _ in range(spatial)), spatial)
    settings = {
        "mode": pick("bilinear", "nearest"),
        "padding_mode": pick("zeros", "border", "reflection"),
        "align_corners": False,
    }
    if pick(False, True):
        return (lambda x: F.grid_sample(x, grid, **settings)), (x,), {}
    return written(spell, "grid_sample", (x, grid), settings, spaces=(F,))


def normalised(kind: str) -> None:
    @form(kind)
    def line(pick: Draw, spell: Draw) -> tuple[Any, ...]:
        x = pick.tensor(*pick.shape(2, 3, 1, 4, 5, least=2))
        shape = x.shape[pick(*range(x.ndim)) :]
        affine, bias = pick(True, False), pick(True, False)
        weight = pick.tensor(*shape) if affine else None
        shift = pick.tensor(*shape) if affine and bias and kind == "layer_norm" else None
        given = spell(tuple(shape), list(shape), *([shape[0]] if len(shape) == 1 and kind == "module" else []))
        settings = {"normalized_shape": given, "weight": weight, "bias": shift, "eps": 0.125}
        if kind == "rms_norm":
            del settings["bias"]
        return _with_parameters(spell, getattr(F, kind), x, settings)


def _with_parameters(spell: Draw, fn: Callable[..., Any], x: Tensor, settings: dict[str, Any]) -> tuple[Any, ...]:
    """A function whose tensors are parameters of a module; its settings by position or by keyword."""
    held = nn.Module()
    plain = {}
    for name, value in settings.items():
        if isinstance(value, Tensor):
            held.register_parameter(name, nn.Parameter(value))
        else:
            plain[name] = value
    cut = spell(*range(len(settings) + 1))
    places = list(settings)[:cut]

    def forward(x: Tensor) -> Any:
        values = {name: plain[name] if name in plain else getattr(held, name) for name in settings}
        return fn(x, *(values[n] for n in places), **{n: v for n, v in values.items() if n not in places})

    held.forward = forward  # type: ignore[method-assign]
    return _Calls(held, fn, places, plain, list(settings)), (x,), {}


class _Calls(nn.Module):
    """A function of a tensor, with settings of which some are parameters."""

    def __init__(
        self, held: nn.Module, fn: Callable[..., Any], places: list[str], plain: dict[str, Any], names: list[str]
    ) -> None:
        super().__init__()
        self.fn, self.places, self.plain, self.names = fn, places, plain, names
        for name, parameter in held.named_parameters(recurse=False):
            self.register_parameter(name, parameter)

    def forward(self, x: Tensor) -> Any:
        values = {name: self.plain[name] if name in self.plain else getattr(self, name) for name in self.names}
        return self.fn(
            x, *(values[n] for n in self.places), **{n: v for n, v in values.items() if n not in self.places}
        )


normalised("layer_norm")
normalised("rms_norm")


@form("norm module")
def _norm_module(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    """A norm over channels, which are the second axis in a batch and the first of one alone."""
    spatial = pick(1, 2, 3)
    channels = pick(2, 4)
    alone = pick(False, True)
    sizes = [pick(2, 3, channels) for _ in range(spatial)]
    kind = pick("BatchNorm", "InstanceNorm", "GroupNorm")
    affine = pick(True, False)
    if kind == "GroupNorm":
        layer: nn.Module = nn.GroupNorm(pick(1, 2), channels, eps=0.125, affine=affine)
        x = pick.tensor(2, channels, *sizes[: pick(*range(spatial + 1))])
    elif kind == "InstanceNorm":
        layer = getattr(nn, f"InstanceNorm{spatial}d")(
            channels, eps=0.125, affine=affine, track_running_stats=pick(False, True)
        )
        x = pick.tensor(*(() if alone else (2,)), channels, *sizes)
    else:
        layer = getattr(nn, f"BatchNorm{spatial}d")(channels, eps=0.125, affine=affine)
        x = pick.tensor(3, channels, *([] if spatial == 1 and alone else sizes))
    return ft.randomize(layer).eval(), (x,), {}


@form("norm function")
def _norm_function(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    channels = pick(2, 4)
    x = pick.tensor(2, channels, *(pick(2, 3, channels) for _ in range(pick(1, 2, 3))))
    weight, bias = (pick.tensor(channels) if pick(True, False) else None for _ in range(2))
    kind = pick("group_norm", "instance_norm", "batch_norm")
    if kind == "group_norm":
        settings: dict[str, Any] = {"num_groups": pick(1, 2), "weight": weight, "bias": bias, "eps": 0.125}
    elif kind == "instance_norm":
        settings = {"running_mean": None, "running_var": None, "weight": weight, "bias": bias}
    else:
        settings = {"running_mean": None, "running_var": None, "weight": weight, "bias": bias, "training": True}
    return _with_parameters(spell, getattr(F, kind), x, settings)


@form("normalize")
def _normalize(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4, least=2))
    over = pick.some(range(x.ndim))
    given = axes(spell, over, x.ndim)
    return (Written(F.normalize)), (x,), {"p": pick(2.0, 1.0), "dim": given}


@form("glu")
def _glu(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*(2 * n for n in pick.shape(2, 1, 3)))
    dim = axis(spell, pick(*range(x.ndim)), x.ndim)
    return spell(nn.GLU(dim), lambda x: F.glu(x, dim), lambda x: F.glu(x, dim=dim)), (x,), {}


@form("prelu")
def _prelu(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4, least=2))
    slopes = x.shape[1] if x.ndim > 1 and pick(False, True) else 1
    return ft.randomize(nn.PReLU(slopes)), (x,), {}


@form("embedding")
def _embedding(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    index = pick.index(4, *pick.shape(2, 1, 3, 0))
    layer = ft.randomize(nn.Embedding(4, pick(2, 3), padding_idx=pick(None, 0)))
    x = pick.tensor(*index.shape, layer.embedding_dim)
    return _Held(lambda x, i, w, _: x + F.embedding(i, w), layer.weight.detach(), None), (x, index), {}


@form("embedding bag")
def _embedding_bag(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    """Rows [bags, length], or one after another with the offsets of the bags."""
    mode = pick("mean", "sum", "max")
    table = pick.tensor(5, pick(2, 3))
    weighted = mode == "sum" and pick(False, True)
    if pick(True, False):
        index, offsets = pick.index(5, pick(2, 3), pick(2, 3)), None
        bags = index.shape[0]
    else:
        index, offsets = pick.index(5, 5), torch.tensor([0, 2, 3])
        bags = 3
    settings: dict[str, Any] = {"offsets": offsets, "mode": mode}
    x = pick.tensor(bags, table.shape[1])
    if weighted:
        return (
            _Held(lambda x, i, s, w, _: x + F.embedding_bag(i, w, per_sample_weights=s, **settings), table, None),
            (x, index, pick.tensor(*index.shape)),
            {},
        )
    return _Held(lambda x, i, w, _: x + F.embedding_bag(i, w, **settings), table, None), (x, index), {}


@form("multi-head attention")
def _multihead(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    """In a batch, first or second, or alone."""
    first, alone, width = pick(True, False), pick(False, True), pick(2, 4)
    sizes = pick({}, {"kdim": 3, "vdim": 2})
    bare = pick(False, True)
    layer = ft.randomize(
        nn.MultiheadAttention(width, 2, batch_first=first, bias=not bare, add_bias_kv=pick(False, True), **sizes)
    ).eval()

    def tokens(n: int, features: int) -> Tensor:
        shape = (n,) if alone else (2, n) if first else (n, 2)
        return pick.tensor(*shape, features)

    q, k, v = tokens(3, width), tokens(2, sizes.get("kdim", width)), tokens(2, sizes.get("vdim", width))
    if spell(True, False):
        return layer, (q, k, v), {"need_weights": pick(True, False)}
    return layer, (q, k), {"value": v, "need_weights": pick(True, False)}


@form("recurrent")
def _recurrent(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    """In a batch, first or second, or alone; a cell or a layer."""
    kind = pick("RNN", "LSTM", "GRU")
    if pick(False, True):
        return ft.randomize(getattr(nn, f"{kind}Cell")(3, 2)), (pick.tensor(*pick.shape(1, 0), 3),), {}
    layer = getattr(nn, kind)(3, 2, batch_first=pick(True, False), bidirectional=pick(False, True))
    return ft.randomize(layer), (pick.tensor(*pick.shape(1, 2), 3),), {}


# -- elements together ---------------------------------------------------------------------------------------------


@form("add")
def _add(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    """Of ranks and sizes that broadcast."""
    shape = pick.shape(2, 3, 1, 4, 0)
    a, b = ([pick(n, n, 1) for n in shape[pick(0, 0, *range(len(shape) + 1)) :]] for _ in range(2))
    name = pick("add", "sub", "mul", "div", "maximum", "where", "lerp", "addcmul", "addcdiv")
    x, y = pick.tensor(*a), pick.tensor(*b)
    if name == "where":
        return (lambda x, y, mask: torch.where(mask, x, y)), (x, y, pick.index(2, *shape).bool()), {}
    if name == "lerp":
        return (lambda x, y: torch.lerp(x, y, 0.25)), (x, y), {}
    if name in ("addcmul", "addcdiv"):
        return written(spell, name, (x, y, pick.tensor(*shape)), {"value": 0.5}, "value")
    return written(spell, name, (x, y), {})


@form("fourier")
def _fourier(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1, 4, least=2))
    if pick(True, False):
        i = pick(*range(x.ndim))
        settings: dict[str, Any] = {"n": pick(None, 3), "dim": axis(spell, i, x.ndim)}
        return written(
            spell, pick("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"), (x,), settings, spaces=(torch.fft,)
        )
    over = pick.some(range(x.ndim))
    if len(over) == 2 and pick(True, False):
        name, settings = pick("fft2", "rfft2", "ifft2"), {"s": None, "dim": tuple(axis(spell, i, x.ndim) for i in over)}
    elif pick(True, False):
        name, settings = "fftn", {"s": None, "dim": [axis(spell, i, x.ndim) for i in over]}
    else:
        name, settings = "fftn", {"s": [pick(2, 3) for _ in over], "dim": None}
    return written(spell, name, (x,), settings, spaces=(torch.fft,))


@form("fftshift")
def _fftshift(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(2, 3, 1))
    over = pick(None, pick.some(range(x.ndim)))
    return written(
        spell,
        pick("fftshift", "ifftshift"),
        (x,),
        {"dim": None if over is None else axes(spell, over, x.ndim)},
        spaces=(torch.fft,),
    )


@form("stft")
def _stft(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(1, 0), 6)
    real = pick(False, True)

    def run(x: Tensor) -> Tensor:
        found = torch.stft(x, 4, 2, window=torch.ones(4), return_complex=True)
        return torch.view_as_real(found) if real else found

    return run, (x,), {}


@form("complex")
def _complex(pick: Draw, spell: Draw) -> tuple[Any, ...]:
    x = pick.tensor(*pick.shape(1, 2, 0), 2)
    return spell(torch.view_as_complex, lambda x: torch.view_as_complex(x.contiguous())), (x,), {}


# -- values whose CoB varies in every way --------------------------------------------------------------------------


class Source(nn.Module):
    """What makes a tensor out of the input: its CoB varies over all its elements, along some axes, as a product of
    axes, or beside zeros; or it is a parameter; or it has none."""

    def __init__(self, pick: Draw, x: Tensor) -> None:
        super().__init__()
        self.shape = tuple(x.shape)
        long = [i for i, n in enumerate(x.shape) if n > 1]
        self.kind = pick("own", "own", "axes", "product", "parameter", *(["zeros"] if long else []), "axes")
        kept = [[i for i in range(x.ndim) if pick(True, False)]] if self.kind == "axes" else [[i] for i in long[:2]]
        self.sizes = [tuple(n if i in over else 1 for i, n in enumerate(x.shape)) for over in kept]
        if self.kind == "zeros":
            self.axis = pick(*long)
            self.sizes = [tuple(n - (i == self.axis) for i, n in enumerate(x.shape))]
        if self.kind == "own":
            self.sizes = [self.shape]
        self.stems = nn.ModuleList(nn.Linear(4, math.prod(size)) for size in self.sizes)
        self.own = nn.Parameter(x.detach().clone(), requires_grad=False) if self.kind == "parameter" else None
        self.register_buffer("base", x.detach().clone())
        with torch.no_grad():
            for stem in self.stems:  # type: ignore[assignment]
                stem.weight.mul_(1e-3)
                stem.bias.copy_(torch.ones_like(stem.bias) if self.kind not in ("own", "zeros") else stem.bias)
            if self.kind == "own":
                self.stems[0].bias.copy_(x.reshape(-1))
            if self.kind == "zeros":
                self.stems[0].bias.copy_(x.narrow(self.axis, 0, x.shape[self.axis] - 1).reshape(-1))

    def forward(self, z: Tensor) -> Tensor:
        if self.own is not None:
            return self.own
        made = [stem(z).view(size) for stem, size in zip(self.stems, self.sizes, strict=True)]
        if self.kind == "own":
            return made[0]
        if self.kind == "zeros":
            (value,) = made
            return torch.cat([value, torch.zeros_like(value.narrow(self.axis, 0, 1))], self.axis)
        value = self.base
        for part in made:
            value = value * part
        return value


class Found(nn.Module):
    """An index that the run finds."""

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, z: Tensor) -> Tensor:
        return self.index + (z[0] * 0).long()


class Varied(Probe):
    """A probe whose tensors are made in every way, and whose indices may be found by the run."""

    def __init__(self, given: Sample, seed: str) -> None:
        self.pick = [Draw(seed)]
        super().__init__(given)

    def source(self, x: Any) -> nn.Module | None:
        (pick,) = self.pick
        if self.moves(x):
            return Source(pick, x)
        if isinstance(x, Tensor) and x.dtype == torch.long and pick(False, False, True):
            return Found(x)
        return None
