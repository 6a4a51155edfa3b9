"""The system: require_one's anchored equations say what the full grid of equations says."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fxteleport.passes.domain import constraints
from fxteleport.passes.domain.cob_map import ANY, ONE, CobMap, single
from fxteleport.passes.domain.constraints import Origin, System
from fxteleport.passes.domain.solution import POSITIVE, UNIT
from fxteleport.passes.errors import RuleError
from fxteleport.passes.solve.solve import solve

HERE = Origin("node", "because")


def same_space(a: np.ndarray, b: np.ndarray) -> bool:
    """The two systems of equations have the same solutions (over the real magnitudes)."""
    rank = np.linalg.matrix_rank
    both = rank(np.concatenate([a, b])) if len(a) + len(b) else 0
    return (rank(a) if len(a) else 0) == both == (rank(b) if len(b) else 0)


def mod_two(a: np.ndarray) -> int:
    """Rank over the two-element field: the equations between signs."""
    rows = [int("".join(str(int(abs(x)) % 2) for x in row), 2) for row in a]
    rank = 0
    while rows:
        pivot = rows.pop()
        if pivot:
            rank += 1
            low = pivot & -pivot
            rows = [r ^ pivot if r & low else r for r in rows]
    return rank


@st.composite
def products(draw: st.DrawFn) -> tuple[int, CobMap, tuple[int, ...]]:
    """(symbols, map, shape): a few factors over the axes of a small grid, symbols shared among them."""
    shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    count = draw(st.integers(3, 10))
    factors = []
    for _ in range(draw(st.integers(1, 4))):
        own = [n if draw(st.booleans()) else 1 for n in shape]
        size = math.prod(own)
        symbols = draw(st.lists(st.integers(1, count - 1), min_size=size, max_size=size))
        factors.append((torch.tensor(symbols).reshape(own), draw(st.sampled_from([-2, -1, 1, 2]))))
    return count, CobMap(tuple(factors)), shape


@given(products())
def test_anchored_equations_are_equivalent_to_the_full_grid(
    exponent_matrix: Callable[[System], np.ndarray], product: tuple[int, CobMap, tuple[int, ...]]
) -> None:
    count, cob, shape = product
    anchored, grid = System(count), System(count)
    anchored.require_one(cob, HERE)
    grid.add([s.expand(shape) for s, _ in cob.factors], [e for _, e in cob.factors], HERE)
    a, b = exponent_matrix(anchored), exponent_matrix(grid)
    assert same_space(a, b)
    assert mod_two(a) == mod_two(b) == mod_two(np.concatenate([a, b]))


@given(products())
def test_anchored_equations_are_no_more_than_the_factors_sizes(product: tuple[int, CobMap, tuple[int, ...]]) -> None:
    count, cob, _ = product
    system = System(count)
    system.require_one(cob, HERE)
    assert sum(len(b.symbols) for b in system.equations) <= sum(s.numel() for s, _ in cob.factors)


def test_a_large_outer_product_stays_small() -> None:
    system = System()
    a, b = system.fresh((5000, 1), HERE), system.fresh((1, 5000), HERE)
    system.same(single(a), single(b), HERE)
    assert sum(len(batch.symbols) for batch in system.equations) == 10000
    assert solve(system).num_free == 1


@given(products(), st.data())
def test_constant_is_the_grid_of_equalities(
    exponent_matrix: Callable[[System], np.ndarray], product: tuple[int, CobMap, tuple[int, ...]], data: st.DataObject
) -> None:
    """`constant` leaves the solutions for which the product does not vary along the axes, and returns its value."""
    count, cob, shape = product
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    system, grid = System(count), System(count)
    result = system.constant(cob, axes, HERE)
    assert all(s.size(axis) == 1 for s, _ in result.factors for axis in axes)
    first = cob.each(lambda s: _first(s, axes))
    both = [(s.expand(shape), e) for s, e in cob.factors] + [(s.expand(shape), -e) for s, e in first.factors]
    grid.add([s for s, _ in both], [e for _, e in both], HERE)
    # Symbols that `constant` made are determined: the space may not grow.
    wide = np.pad(exponent_matrix(grid), ((0, 0), (0, system.count - count)))
    rank = np.linalg.matrix_rank
    found = exponent_matrix(system)
    made = system.count - count
    assert (rank(found) if len(found) else 0) == (rank(wide) if len(wide) else 0) + made
    assert rank(np.concatenate([found, wide])) == (rank(found) if len(found) else 0) if len(found) + len(wide) else True
    solution = solve(system)
    values = torch.tensor([2.0, -0.5, 4.0] * solution.num_free, dtype=torch.float64)[: solution.num_free]
    tau = solution.tau(torch.where(torch.from_numpy(solution.allows == UNIT), values.sign(), values))
    expected, value = cob.scale(tau), result.scale(tau)
    left = torch.ones(shape, dtype=torch.float64) if expected is None else expected.expand(shape)
    right = torch.ones(shape, dtype=torch.float64) if value is None else value.expand(shape)
    assert torch.equal(left, right)


def _first(symbols: Tensor, axes: set[int]) -> Tensor:
    for axis in axes:
        symbols = symbols.narrow(axis, 0, 1)
    return symbols


def test_constant_of_what_does_not_vary_adds_nothing() -> None:
    system = System()
    cob = single(system.fresh((1, 4), HERE))
    assert system.constant(cob, [0], HERE) is cob
    assert not system.equations


def test_structural_zeros_fit_every_cob() -> None:
    system = System()
    a = system.fresh((4,), HERE)
    padded = CobMap(((torch.tensor([ANY, ONE, ANY, 2]), 1),), zeros=True)
    system.same(single(a), padded, HERE)
    solution = solve(system)
    # a[1] = 1, a[3] = symbol 2, which is a[0]: a[0] and a[2] stay free.
    assert solution.num_free == 2


def test_fresh_symbols_are_new_and_remember_their_origin() -> None:
    system = System()
    a, b = system.fresh((2, 3), HERE), system.fresh((4,), Origin("other", "why"))
    assert a.flatten().tolist() == list(range(2, 8))
    assert b.tolist() == list(range(8, 12))
    assert [(v.start, v.size, v.origin.node) for v in system.vectors] == [(2, 6, "node"), (8, 4, "other")]
    assert system.count == 12


def test_pinned_symbols_know_why() -> None:
    system = System()
    a = system.fresh((3,), HERE)
    system.pin(single(a), Origin("end", "it is an output"))
    solution = solve(system)
    assert solution.num_free == 0
    assert {solution.origins[i].why for i in solution.reason[2:]} == {"it is an output"}


def test_a_positive_product_has_positive_factors() -> None:
    system = System()
    a, b = system.fresh((3,), HERE), system.fresh((3,), HERE)
    system.require_positive(single(a) / single(b), HERE)
    assert solve(system).allows.tolist() == [POSITIVE] * 6


def test_a_product_of_magnitude_1_leaves_its_factors_free() -> None:
    system = System()
    a, b = system.fresh((3,), HERE), system.fresh((3,), HERE)
    system.require_unit(single(a) / single(b), HERE)
    assert solve(system).allows.tolist() == [0] * 3  # a = b
    system.pin(single(b), HERE)
    assert solve(system).allows.tolist() == [UNIT] * 3


def test_an_even_power_is_positive_by_itself() -> None:
    system = System()
    system.require_positive(single(system.fresh((3,), HERE)) ** 2, HERE)
    assert solve(system).allows.tolist() == [0] * 3


@pytest.mark.parametrize(("width", "count"), [(1, 50), (2, 50), (3, 1000), (5, 10**6)])
def test_distinct_rows_are_all_rows_once(width: int, count: int) -> None:
    generator = torch.Generator().manual_seed(width)
    few = torch.randint(0, count, (20, width), generator=generator)
    rows = few[torch.randint(0, 20, (500,), generator=generator)]
    found = constraints._distinct(rows.unbind(1), count)
    assert len(found) == len(set(map(tuple, found.tolist())))
    assert set(map(tuple, found.tolist())) == set(map(tuple, rows.tolist()))


def test_distinct_rows_of_a_grid() -> None:
    found = constraints._distinct([torch.tensor([[2], [3], [2]]), torch.tensor([[4, 5, 4, 4]])], 10)
    assert sorted(found.tolist()) == [[2, 4], [2, 5], [3, 4], [3, 5]]


def test_a_table_read_at_many_positions_makes_few_equations() -> None:
    made = System()
    table = made.fresh((30,), Origin("table", ""))
    read = table[torch.randint(0, 30, (200, 200))]
    made.pin(single(read), Origin("softmax", ""))
    assert [len(batch.symbols) for batch in made.equations] == [30]


@pytest.mark.parametrize("axes", [[-1], [2], [0, -2], [5]])
def test_what_is_no_axis_is_a_mistake(axes: list[int]) -> None:
    made = System()
    cob = single(made.fresh((2, 3), HERE))
    with pytest.raises(RuleError, match=r"the rule of 'node' requires a map of rank 2 .* \(because\)"):
        made.constant(cob, axes, HERE)
    assert not made.equations
