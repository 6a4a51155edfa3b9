"""torch's own samples of its operations and layers, as a test of every form of call.

    python tests/oracles/torch_samples.py

torch tests itself on a table of operations (`op_db`) and one of layers (`module_db`), each with samples of arguments
that nobody chose with teleportation in mind: keywords, scalars, broadcasts, negative axes, other layouts. Each
tensor of fractions in a sample becomes the output of a linear layer of its own, every element with a CoB of its own;
the operation runs as a function, as a method and in place; a linear head reads what comes out. The network that a plan
emits under powers of two with signs must give the same bits, in both modes, at every node.

With `--sizes` the first axis of the sample's tensors comes from the input's: planned at the sample's size and run at
others that the operation takes, where the emitted network gives the same bits or is refused, and so do weights that
went back into the original (`apply_`), unless `plan.conditions` names what they rest on.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxteleport as ft
from fxteleport.passes.domain.solution import UNIT

LARGEST = 4000  # elements in a sample
ENDS = {"equal", "unfit", "refused"}


class Sample(NamedTuple):
    """A call: the operation (a function or a module), its arguments, and the number format of what can move."""

    name: str
    operation: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dtype: torch.dtype = torch.float32


class Unfit(Exception):
    """A sample that says nothing: why."""


class Probe(nn.Module):
    """linear layers -> the call -> a linear head; or, as a `whole`, the call's result as it comes."""

    def __init__(self, sample: Sample, whole: bool = False) -> None:
        super().__init__()
        self.operation, self.dtype, self.whole = sample.operation, sample.dtype, whole
        leaves, self.structure = pytree.tree_flatten((sample.args, sample.kwargs))
        self.leaves = [x.detach() if isinstance(x, Tensor) else x for x in leaves]
        made = {str(i): self.source(x) for i, x in enumerate(self.leaves)}
        self.stems = nn.ModuleDict({i: source for i, source in made.items() if source is not None})
        self.head: nn.Module = nn.Identity()

    def source(self, x: Any) -> nn.Module | None:
        """What makes an argument out of the input; None for one that stays as it is."""
        return _stem(x) if self.moves(x) else None

    def result(self, z: Tensor) -> Any:
        leaves = [
            self.stems[str(i)](z).reshape(x.shape) if str(i) in self.stems else x for i, x in enumerate(self.leaves)
        ]
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        return self.operation(*args, **kwargs)

    def results(self, z: Tensor) -> list[Tensor]:
        return _tensors(self.result(z))

    def forward(self, z: Tensor) -> Any:
        if self.whole:
            return self.result(z)
        results = [torch.view_as_real(x.resolve_conj()) if self.is_turned(x) else x for x in self.results(z)]
        read = [x.reshape(-1) for x in results if x.dtype == self.dtype]
        return [*([self.head(torch.cat(read))] if read else []), *(x for x in results if x.dtype != self.dtype)]

    def is_turned(self, x: Tensor) -> bool:
        """True for complex numbers that came out of real ones: the head reads their parts."""
        return x.is_complex() and x.dtype.to_real() == self.dtype

    def moves(self, x: Any) -> bool:
        return isinstance(x, Tensor) and x.dtype == self.dtype and x.layout == torch.strided and x.numel() > 0


def _stem(x: Tensor) -> nn.Linear:
    """A layer that gives the sample's values, nearly: some operations take no others."""
    stem = nn.Linear(4, x.numel(), dtype=x.dtype)
    with torch.no_grad():
        stem.weight.mul_(1e-3)
        stem.bias.copy_(x.reshape(-1))
    return stem


@torch.no_grad()
def check(sample: Sample, mode: str, whole: bool = False) -> str:
    """'equal' or 'different', and the node.

    Raises:
        Unfit: the sample has nothing that could move, is large, does not run, or gives something else each time.
    """
    torch.manual_seed(0)
    model = Probe(sample, whole).eval()
    return compare(model, finished(model), mode)[0]


@torch.no_grad()
def finished(model: Probe) -> Tensor:
    """Gives the model its head; returns an input.

    Raises:
        Unfit: as for `check`.
    """
    z = torch.randn(4, dtype=model.dtype)
    width = sum(x.numel() for x in model.leaves if model.moves(x))
    if not 0 < width <= LARGEST:
        raise Unfit("nothing can move" if width == 0 else "large")
    try:
        results = _seeded(model.results, z)
        size = sum(
            x.numel() * (1 + model.is_turned(x)) for x in results if x.dtype == model.dtype or model.is_turned(x)
        )
        model.head = nn.Linear(size, 3, dtype=model.dtype) if size else model.head
        before, again = _seeded(model, z), _seeded(model, z)
    except Exception as error:
        raise Unfit("does not run") from error
    if not _same(before, again):
        raise Unfit("another result each time")
    return z


@torch.no_grad()
def compare(model: Probe, z: Tensor, mode: str) -> tuple[str, ft.Plan]:
    """'equal' or 'different', and the node; and the plan that it was found with."""
    plan = ft.plan(model, z, mode=mode)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
    if not _same(_seeded(model, z), _seeded(network, z)):
        return "different", plan
    reports = [ft.verify(model, network, z)]
    if any(wrap.common is not None for wrap in plan.constrained.wraps.values()):  # a norm, which may take one factor
        reports.append(ft.verify(model, plan.rewrite(_one_number(plan, 4.0)), z))
    first = next((r.first_difference for r in reports if r.first_difference is not None), None)
    return "equal" if first is None else f"different at {first}", plan


def _one_number(plan: ft.Plan, number: float) -> ft.ChangeOfBasis:
    """The same for every free value that may be it."""
    return plan.cob(torch.from_numpy(np.where(plan.solution.allows == UNIT, 1.0, number)))


class SizedProbe(Probe):
    """linear layers a row -> the call -> a linear head over what has one size.

    The first axis of each tensor that is as long there as the first one is that of the input; others are a row's.
    """

    def __init__(self, sample: Sample) -> None:
        super().__init__(sample)
        moving = [x for x in self.leaves if self.moves(x)]
        self.rows = next((x.shape[0] for x in moving if x.ndim), 0)
        if not self.rows:
            raise Unfit("nothing can move, or no size")
        for i, x in enumerate(self.leaves):
            if self.moves(x) and self.is_sized(x):
                self.stems[str(i)] = _stem(x.mean(0))
        self.heads = nn.ModuleDict()

    def is_sized(self, x: Tensor) -> bool:
        return x.ndim > 0 and x.shape[0] == self.rows

    def result(self, z: Tensor) -> Any:
        leaves = list(self.leaves)
        for i, x in enumerate(self.leaves):
            if self.moves(x):
                stem, shape = self.stems[str(i)], x.shape[1:]
                leaves[i] = stem(z).reshape(z.shape[0], *shape) if self.is_sized(x) else stem(z[0]).reshape(x.shape)
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        return self.operation(*args, **kwargs)

    def fit(self, one: list[Tensor], other: list[Tensor]) -> None:
        """Give heads to the results whose last axis has one size."""
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            if a.dtype == self.dtype and a.ndim and b.ndim and a.shape[-1] == b.shape[-1] > 0:
                self.heads[str(i)] = nn.Linear(a.shape[-1], 3, dtype=self.dtype)

    def forward(self, z: Tensor) -> Any:
        return [self.heads[str(i)](x) if str(i) in self.heads else x for i, x in enumerate(self.results(z))]


@torch.no_grad()
def check_sizes(sample: Sample, mode: str) -> str:
    """'equal', 'refused' or 'different', and where.

    Raises:
        Unfit: the sample has nothing that could move, takes no other size, or gives something else each time.
    """
    torch.manual_seed(0)
    model = SizedProbe(sample).eval()
    if not 0 < sum(stem.out_features for stem in model.stems.values()) <= LARGEST:
        raise Unfit("large")
    n = model.rows
    inputs = {m: torch.randn(m, 4, dtype=sample.dtype) for m in (n, n + 1, n - 1 or n + 2)}
    try:
        results = _seeded(model.results, inputs[n])
    except Exception as error:
        raise Unfit("does not run") from error
    taken = {}
    for m, z in inputs.items():
        with contextlib.suppress(Exception):  # whatever it raises for such a size
            taken[m] = _seeded(model.results, z)
    others = [m for m in taken if m != n and len(taken[m]) == len(results)]
    if not others:
        raise Unfit("takes no other size")
    model.fit(results, taken[others[0]])
    expected = {m: _seeded(model, inputs[m]) for m in (n, *others)}
    if not all(_same(expected[m], _seeded(model, inputs[m])) for m in expected):
        raise Unfit("another result each time")
    plan = ft.plan(model, inputs[n], mode=mode)
    cob = plan.sample(0.9, "inter", exact=True, seed=1)
    network, refused = plan.rewrite(cob), ""
    twin = plan.apply_(cob, copy.deepcopy(model)) if mode == "weights" and not getattr(plan, "conditions", ()) else None
    for m in expected:
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # fx prints the line that raised
                found = _seeded(network, inputs[m])
        except (ft.TeleportError, ValueError) as error:
            if not isinstance(error, ft.TeleportError) and "capture it again" not in str(error):
                raise
            refused = f"refused at {m}: {error}"
        else:
            if not _same(expected[m], found):
                return f"different at size {m} for {n}"
        if twin is not None and not _same(expected[m], _seeded(twin, inputs[m])):
            return f"different at size {m} for {n}, apply_"
    return refused or "equal"


def _seeded(fn: Callable[..., Any], *args: Any) -> Any:
    torch.manual_seed(5)
    return fn(*args)


def _tensors(x: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(x) if isinstance(x, Tensor)]


def _same(one: Any, other: Any) -> bool:
    a, b = _tensors(one), _tensors(other)
    return len(a) == len(b) and all(map(_equal, a, b))


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    if a.layout != torch.strided:
        a, b = a.to_dense(), b.to_dense()
    return torch.equal(a.nan_to_num(7e30), b.nan_to_num(7e30)) and torch.equal(a.isnan(), b.isnan())


# -- torch's tables ------------------------------------------------------------------------------------------------


def operations(every: int, most: int, dtype: torch.dtype) -> Iterator[Sample]:
    """Samples of each `every`th operation, `most` of each, in all its variants."""
    from torch.testing._internal import common_methods_invocations as table

    for module in list(sys.modules.values()):  # the wrappers of random operations, which seed inside
        if getattr(module, "wrapper_set_seed", None) is not None:
            module.wrapper_set_seed = lambda fn, *args, **kwargs: fn(*args, **kwargs)  # type: ignore[attr-defined]
    for op in table.op_db[::every]:
        if dtype not in op.dtypes or "empty" in op.name:  # whatever is in that memory differs each time
            continue
        torch.manual_seed(0)
        samples = list(op.sample_inputs("cpu", dtype, requires_grad=False))
        for s in samples[:: -(-len(samples) // most) or 1]:
            for kind in ("", "method", "in place"):
                variant = {"": op.op, "method": op.method_variant, "in place": op.inplace_variant}[kind]
                if variant is not None:
                    yield Sample(
                        f"{op.full_name} {kind}".strip(), _called(variant, kind), (s.input, *s.args), s.kwargs, dtype
                    )


def _called(variant: Callable[..., Any], kind: str) -> Callable[..., Any]:
    name = getattr(variant, "__name__", "")
    if not kind or not hasattr(Tensor, name):
        return lambda *args, **kwargs: variant(*args, **kwargs)
    if kind == "method":
        return lambda x, *args, **kwargs: getattr(x, name)(*args, **kwargs)
    return lambda x, *args, **kwargs: getattr(x * 1, name)(*args, **kwargs)  # not on the memory of a layer's output


def layers(every: int, most: int, dtype: torch.dtype) -> Iterator[Sample]:
    """Samples of each `every`th layer, `most` of each, with parameters drawn anew."""
    from torch.testing._internal.common_modules import module_db

    for info in [] if dtype.is_complex else module_db[::every]:  # of complex numbers it has none
        torch.manual_seed(0)
        given = {"device": "cpu", "dtype": dtype, "requires_grad": False, "training": False}
        samples = [s for s in info.module_inputs_func(info, **given) if s.forward_input is not None]
        for s in samples[:: -(-len(samples) // most) or 1]:
            layer = info.module_cls(*s.constructor_input.args, **s.constructor_input.kwargs)
            if not any(map(nn.parameter.is_lazy, layer.parameters())):
                layer = ft.randomize(layer.to(dtype))
                yield Sample(info.name, layer, tuple(s.forward_input.args), s.forward_input.kwargs, dtype)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="each so many'th operation and layer")
    parser.add_argument("--most", type=int, default=20, help="samples of each")
    parser.add_argument("--dtype", default="float32", help="the number format of what can move")
    parser.add_argument("--whole", action="store_true", help="return what comes out as it comes")
    parser.add_argument("--sizes", action="store_true", help="run at other sizes than planned")
    parser.add_argument("--record", type=Path, help="write one JSON line a sample")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    seen: collections.Counter[str] = collections.Counter()
    names: set[str] = set()
    for table in (operations, layers):
        for sample in table(chosen.every, chosen.most, getattr(torch, chosen.dtype)):
            for mode in ("full", "weights"):
                try:
                    result = check_sizes(sample, mode) if chosen.sizes else check(sample, mode, chosen.whole)
                except Unfit as unfit:
                    result = f"unfit: {unfit}"
                except Exception as error:
                    result = f"error: {type(error).__name__}: {error}"[:200]
                kind = result.split(" at ")[0].split(": ")[0]
                seen[kind] += 1
                names |= {sample.name} if kind == "equal" else set()
                if chosen.record:
                    with chosen.record.open("a") as file:
                        file.write(json.dumps({"name": sample.name, "mode": mode, "result": result}) + "\n")
                if kind not in ENDS:
                    print(f"{sample.name} ({mode}): {result}: {str((sample.args, sample.kwargs))[:200]}")
    print(f"{dict(seen)}, {len(names)} operations, variants and layers")
    return 1 if set(seen) - ENDS else 0


if __name__ == "__main__":
    sys.exit(main())
