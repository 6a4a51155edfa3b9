"""The compiled kernel: what it takes, and that threads and forks do not change its numbers."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from fxteleport.passes.scale import row_column_scaling
from fxteleport.passes.scale.row_column_scaling import Factor, Fused, matrix

numba = pytest.importorskip("numba", exc_type=ImportError)


def drawn(n: int, m: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(n * m)
    draw = [torch.randn(shape, generator=generator).to(dtype) for shape in ((n, m), (n, 1), (1, m))]
    return draw[0], draw[1:]


def places(factors: list[Tensor], start: int = 0) -> list[Factor]:
    """Where the numbers of some factors are, one after another."""
    starts = itertools.accumulate((f.numel() for f in factors), initial=start)
    return [(at, tuple(f.shape)) for at, f in zip(starts, factors, strict=False)]


def fused_of(*pairs: tuple[Tensor, list[Tensor]]) -> Fused:
    numbers = [f.reshape(-1) for _, factors in pairs for f in factors]
    made = Fused(torch.cat(numbers) if numbers else torch.empty(0))
    start = 0
    for weight, factors in pairs:
        found = matrix(weight, places(factors, start))
        start += sum(f.numel() for f in factors)
        assert found is not None
        made.add(found)
    return made


FORMS: dict[str, tuple[tuple[int, ...], list[tuple[int, ...]]]] = {
    "rows and columns": ((6, 4), [(6, 1), (1, 4)]),
    "columns and rows": ((6, 4), [(1, 4), (6, 1)]),
    "a convolution": ((6, 3, 2, 2), [(6, 1, 1, 1), (1, 3, 2, 2)]),
    "a grouped convolution": ((6, 3, 2, 2), [(6, 3, 1, 1)]),
    "a grouped convolution and one kernel": ((6, 3, 2, 2), [(6, 3, 1, 1), (1, 1, 2, 2)]),
    "rows": ((6, 4), [(6, 1)]),
    "columns": ((6, 4), [(1, 4)]),
    "columns that fit no cache": ((3, 5001), [(1, 5001)]),
    "rows and columns that fit no cache": ((3, 2, 5001), [(3, 1, 1), (1, 2, 5001)]),
    "every element": ((6, 4), [(6, 4)]),
    "a vector": ((5,), [(5,)]),
    "one number for all": ((6, 4), [(1, 1)]),
    "one row": ((1, 4), [(1, 1), (1, 4)]),
    "one column": ((4, 1), [(4, 1), (1, 1)]),
    "a scalar": ((), [()]),
    "a scalar twice": ((), [(), ()]),
    "nothing": ((0, 4), [(1, 4)]),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_it_takes(form: str) -> None:
    shape, others = FORMS[form]
    weight, *factors = (torch.randn(s) for s in (shape, *others))
    expected = math.prod(factors, start=weight)
    fused_of((weight, factors)).scale_()
    assert torch.allclose(weight, expected, rtol=3e-7, atol=0)


def test_what_it_does_not_take() -> None:
    weight = torch.randn(6, 4)
    rows, columns = (6, 1), (1, 4)

    def takes(tensor: Tensor, *shapes: tuple[int, ...]) -> bool:
        return matrix(tensor, places([torch.ones(s) for s in shapes])) is not None

    assert takes(weight, rows, columns)
    assert not takes(weight, rows, rows)
    assert not takes(weight, rows, (6, 4))
    assert not takes(torch.randn(3, 4, 2), (3, 4, 1), (1, 4, 2))
    assert not takes(torch.randn(3, 4, 2), (1, 4, 1))
    assert not takes(weight, rows, columns, columns)
    assert not takes(weight.T, (1, 6), (4, 1))
    assert not takes(weight.half(), rows, columns)
    assert not takes(weight.to("meta"), rows, columns)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_matrices(threads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_column_scaling, "_RUN", 500)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    shapes = ((30, 40), (1000, 7), (2, 3000), (3, 5001), (1, 1), (0, 4), (4, 0), (17, 31))
    pairs = [drawn(n, m, dtype) for n, m in shapes]
    expected = [weight * factors[0] * factors[1] for weight, factors in pairs]
    fused_of(*pairs).scale_()
    for (weight, _), right in zip(pairs, expected, strict=True):
        assert torch.equal(weight, right)


def test_the_numbers_may_change() -> None:
    weight, factors = drawn(5, 3)
    made = fused_of((weight, factors))
    before = weight.clone()
    for number in (2.0, 0.25):
        made.numbers[:5] = number
        made.numbers[5:] = 2.0
        made.scale_()
    assert torch.equal(weight, before * 2)


def test_from_many_threads_at_once() -> None:
    """Each thread has its own matrices."""

    def run(seed: int) -> bool:
        weight, factors = drawn(700 + seed, 900)
        expected = weight * factors[0] * factors[1]
        fused_of((weight, factors)).scale_()
        return torch.equal(weight, expected)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(run, range(24)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork() -> None:
    """Threads do not survive a fork, which OpenMP does not notice: the child works alone."""
    code = """
import os, numpy, torch
from fxteleport.passes.scale.row_column_scaling import Fused, matrix
torch.set_num_threads(2)
weight, numbers = numpy.ones((2000, 1000)), torch.ones(3000, dtype=torch.float64)
numbers[:2000] = 2
made = Fused(numbers)
made.add(matrix(torch.from_numpy(weight), [(0, (2000, 1)), (2000, (1, 1000))]))
made.scale_()
child = os.fork()
made.scale_()
right = bool((weight == 4).all())
if child == 0:
    os._exit(0 if right else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or not right)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=100)


def test_a_job_has_every_line_once() -> None:
    made = fused_of(*(drawn(n, m) for n, m in ((30, 40000), (7, 3), (500, 500))))
    for parts in (1, 2, 3, 64):
        job = made.job(parts)
        count, begins, table = job[0], job[1 : parts + 2], job[parts + 2 :].reshape(-1, 5)
        assert count == parts
        assert begins[0] == 0
        assert begins[-1] == len(table)
        assert (begins[1:] >= begins[:-1]).all()
        assert (table == made.table).all()
    sizes = [(t[:, 1] * t[:, 2]).sum() for t in np.split(table, begins[1:-1])]
    assert max(sizes) <= sum(sizes) / parts + row_column_scaling._RUN


def test_without_torchs_threads_torch_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_column_scaling, "team", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert matrix(torch.randn(6, 4), [(0, (6, 1))]) is None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert matrix(torch.randn(6, 4), [(0, (6, 1))]) is not None


def test_without_numba_nothing_is_fusible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fxteleport.passes.scale.numba_kernel", None)
    monkeypatch.delattr("fxteleport.passes.scale.numba_kernel", raising=False)
    for cached in ("compiled", "kernels"):
        monkeypatch.setattr(row_column_scaling, cached, getattr(row_column_scaling, cached).__wrapped__)
    assert matrix(torch.randn(6, 4), [(0, (6, 1))]) is None
    assert row_column_scaling.numbers(torch.ones(3, dtype=torch.float64), np.zeros(3, np.float32)) is None


def test_numbers_are_values_and_their_inverses() -> None:
    values = torch.tensor([2.0, -0.5, 1e-308, 3.0], dtype=torch.float64)
    found = row_column_scaling.numbers(values, np.array([0, -np.inf, 0, 0], np.float32))
    distinct = torch.cat([values, torch.ones(1)])
    assert found is not None
    assert torch.equal(found, torch.cat([distinct, distinct.reciprocal()]))


def test_numbers_without_room_for_inverses() -> None:
    """As a GPU is sent them."""
    values, found = np.array([2.0, -0.5, 3.0]), np.zeros(4)
    assert row_column_scaling.compiled().numbers(values, np.full(3, -np.inf, np.float32), found)
    assert found.tolist() == [2.0, -0.5, 3.0, 1.0]
    assert not row_column_scaling.compiled().numbers(values, np.zeros(3, np.float32), found)


@pytest.mark.parametrize("value", [0.0, -0.0, -1.0, math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_allowed(value: float) -> None:
    values = torch.tensor([1.0, value, 1.0], dtype=torch.float64)
    assert row_column_scaling.numbers(values, np.zeros(3, np.float32)) is None
    assert (row_column_scaling.numbers(values, np.full(3, -np.inf, np.float32)) is None) == (value != -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_looking_numbers_up(dtype: torch.dtype, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled and by torch, to the bit: later rounds are multiplied to the first numbers of the earlier ones."""
    there = torch.randn(50, dtype=torch.float64)
    rounds = [torch.randint(50, (30 - 10 * i,)) for i in range(count)]
    expected = there[rounds[0]].to(dtype)
    for places in rounds[1:]:
        expected[: len(places)] *= there[places].to(dtype)
    for code in (row_column_scaling.compiled(), None):
        monkeypatch.setattr(row_column_scaling, "compiled", lambda code=code: code)
        found = torch.empty(30, dtype=dtype)
        row_column_scaling.look_up(there, rounds, found)
        assert torch.equal(found, expected)


def test_bfloat16_is_rounded_as_torch_does() -> None:
    """Any bits of two bytes (infinities, NaNs and subnormals too), over several runs of columns."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**15), 2**15, (40, 5000), generator=generator).to(torch.int16)
    weight = bits.view(torch.bfloat16)
    rows, columns = (torch.randn(shape, generator=generator) for shape in ((40, 1), (1, 5000)))
    made = fused_of((weight, [columns, rows]))
    expected = (weight.float() * rows * columns).to(torch.bfloat16)
    made.scale_()
    assert torch.equal(weight.isnan(), expected.isnan())
    assert torch.equal(weight.nan_to_num(), expected.nan_to_num())
    assert len(expected.isinf().nonzero()) > 0


def test_every_bfloat16() -> None:
    """Infinities and what is no number among them: as torch multiplies in float32, and rounds once."""
    values = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).clone().view(16, -1)
    rows, columns = torch.rand(16) * 3 - 1.5, torch.rand(values.shape[1]) * 3 - 1.5
    expected = (values.float() * rows[:, None] * columns).bfloat16()
    line = [values.data_ptr(), *values.shape, rows.data_ptr(), columns.data_ptr()]
    pytest.importorskip("fxteleport.passes.scale.numba_kernel").bfloat16(np.array([line]))
    assert torch.equal(values.isnan(), expected.isnan())
    assert torch.equal(values[~values.isnan()], expected[~expected.isnan()])
