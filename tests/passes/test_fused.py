"""The compiled kernel: what it takes, and that threads and forks do not change its numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from fxteleport.passes import fused
from fxteleport.passes.fused import Fused, fusible

numba = pytest.importorskip("numba")


def matrix(n: int, m: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(n * m)
    draw = [torch.randn(shape, generator=generator).to(dtype) for shape in ((n, m), (n, 1), (1, m))]
    return draw[0], draw[1:]


def test_what_it_takes() -> None:
    weight, factors = matrix(6, 4)
    assert fusible(weight, factors)
    assert fusible(weight, factors[::-1])
    assert fusible(torch.randn(6, 2, 2), [torch.ones(6, 1, 1), torch.ones(1, 2, 2)])
    assert not fusible(weight, factors[:1])
    assert not fusible(weight, [factors[0], factors[0]])
    assert not fusible(weight, [factors[0], torch.ones(6, 4)])
    assert not fusible(weight, [torch.ones(6, 4), factors[1]])  # a grouped convolution's out, and a common in
    assert not fusible(weight, [factors[0], torch.ones(1, 1)])
    assert not fusible(weight.T, factors)
    assert not fusible(weight.half(), factors)
    assert not fusible(weight.to("meta"), factors)
    assert not fusible(torch.randn(1, 4), [torch.ones(1, 1), torch.ones(1, 4)])


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_matrices(threads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_SHARE", 500)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    made = Fused()
    shapes = ((30, 40), (1000, 7), (2, 3000), (1, 1), (0, 4), (4, 0), (17, 31))
    pairs = [matrix(n, m, dtype) for n, m in shapes]
    expected = [weight * factors[0] * factors[1] for weight, factors in pairs]
    for weight, factors in pairs:
        made.add(weight, factors)
    made.scale_()
    for (weight, _), right in zip(pairs, expected, strict=True):
        assert torch.equal(weight, right)


def test_factors_are_views_that_may_change() -> None:
    weight, factors = matrix(5, 3)
    made = Fused()
    made.add(weight, factors)
    before = weight.clone()
    for number in (2.0, 0.25):
        factors[0].fill_(number)
        factors[1].fill_(2.0)
        made.scale_()
    assert torch.equal(weight, before * 2)


def test_from_many_threads_at_once() -> None:
    """Each thread has its own matrices."""

    def run(seed: int) -> bool:
        weight, factors = matrix(700 + seed, 900)
        expected = weight * factors[0] * factors[1]
        made = Fused()
        made.add(weight, factors)
        made.scale_()
        return torch.equal(weight, expected)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(run, range(24)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork() -> None:
    """The pool's threads do not survive a fork: the child makes its own."""
    code = """
import os, numpy, torch
from fxteleport.passes.fused import Fused
torch.set_num_threads(2)
made = Fused()
weight, rows, columns = numpy.ones((2000, 1000)), numpy.full((2000, 1), 2.0), numpy.ones((1, 1000))
made.add(torch.from_numpy(weight), [torch.from_numpy(rows), torch.from_numpy(columns)])
made.scale_()
child = os.fork()  # torch's own threads were not started: they do not survive either
made.scale_()
right = bool((weight == 4).all())
if child == 0:
    os._exit(0 if right else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or not right)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=100)


def test_without_numba_nothing_is_fusible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fxteleport.passes.kernel", None)
    monkeypatch.setattr(fused, "kernels", fused.kernels.__wrapped__)
    assert not fusible(*matrix(6, 4))


def test_bfloat16_is_rounded_as_torch_does() -> None:
    """Any bits of two bytes (infinities, NaNs and subnormals too), over several runs of columns."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**15), 2**15, (40, 5000), generator=generator).to(torch.int16)
    weight = bits.view(torch.bfloat16)
    rows, columns = (torch.randn(shape, generator=generator) for shape in ((40, 1), (1, 5000)))
    assert fusible(weight, [columns, rows])
    expected = (weight.float() * rows * columns).to(torch.bfloat16)
    made = Fused()
    made.add(weight, [columns, rows])
    made.scale_()
    assert torch.equal(weight.isnan(), expected.isnan())
    assert torch.equal(weight.nan_to_num(), expected.nan_to_num())
    assert len(expected.isinf().nonzero()) > 0
