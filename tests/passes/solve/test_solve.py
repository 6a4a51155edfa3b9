"""Solve: what it returns satisfies every equation, and leaves no freedom on the table."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxteleport.passes.domain.cob_map import ANY, ONE, single
from fxteleport.passes.domain.constraints import Batch, Origin, System
from fxteleport.passes.domain.solution import FREE, POSITIVE, UNIT, Solution
from fxteleport.passes.solve.solve import solve
from fxteleport.plan.cob import sample_values

HERE = Origin("node", "because")
UNRESOLVED = "could not be resolved"


@st.composite
def systems(draw: st.DrawFn, exponents: tuple[int, ...] = (-2, -1, 1, 2), longest: int = 4, most: int = 12) -> System:
    """Random monomial equations: a few symbols, one to four factors an equation."""
    count = draw(st.integers(3, 12))
    system = System(count)
    for _ in range(draw(st.integers(0, most))):
        powers = draw(st.lists(st.sampled_from(exponents), min_size=1, max_size=longest))
        symbols = draw(st.lists(st.integers(ONE, count - 1), min_size=len(powers), max_size=len(powers)))
        system.add([torch.tensor([s]) for s in symbols], powers, Origin("equation", "drawn"))
    return system


@st.composite
def one_sided(draw: st.DrawFn, system: System) -> System:
    for name in ("positive", "unit"):
        chosen = draw(st.lists(st.integers(2, system.count - 1), max_size=3))
        if chosen:
            getattr(system, name).append(Batch(torch.tensor(chosen)[:, None], (1,), HERE))
    return system


def satisfied(system: System, tau: Tensor) -> bool:
    """Every equation holds to the last bit."""
    for batch in system.equations:
        product = torch.ones(len(batch.symbols), dtype=torch.float64)
        for column, exponent in zip(batch.symbols.T, batch.exponents, strict=True):
            product = product * tau[column] ** exponent
        if not bool((product == 1).all()):
            return False
    return True


def drawn(solution: Solution, seed: int, largest: int = 2) -> Tensor:
    """Signed powers of two that the solution allows."""
    random = np.random.default_rng(seed)
    powers = random.integers(-largest, largest + 1, solution.num_free)
    values = random.choice([-1.0, 1.0], solution.num_free) * 2.0**powers
    values = np.where(solution.allows == POSITIVE, np.abs(values), values)
    return torch.from_numpy(np.where(solution.allows == UNIT, np.sign(values), values))


def unresolved(solution: Solution) -> bool:
    return any(UNRESOLVED in solution.origins[i].why for i in solution.reason if i >= 0)


@settings(max_examples=400)
@given(systems(), st.integers(0, 2**16))
def test_sound(system: System, seed: int) -> None:
    solution = solve(system)
    tau = solution.tau(drawn(solution, seed))
    assert tau.shape == (system.count,)
    assert float(tau[ONE]) == float(tau[ANY]) == 1
    assert torch.isfinite(tau).all()
    assert satisfied(system, tau)


@settings(max_examples=300)
@given(systems().flatmap(one_sided), st.integers(0, 2**16))
def test_sound_with_one_sided_constraints(system: System, seed: int) -> None:
    solution = solve(system)
    tau = solution.tau(drawn(solution, seed))
    assert satisfied(system, tau)
    for batch in system.positive:
        assert bool((tau[batch.symbols] > 0).all())
    for batch in system.unit:
        assert bool((tau[batch.symbols].abs() == 1).all())


@settings(max_examples=400)
@given(systems())
def test_complete(exponent_matrix: Callable[[System], np.ndarray], system: System) -> None:
    """The free magnitudes are as many as the symbols minus the rank of the equations."""
    solution = solve(system)
    magnitudes = int((solution.allows != UNIT).sum())
    exponents = exponent_matrix(system)
    rank = int(np.linalg.matrix_rank(exponents)) if len(exponents) else 0
    expected = system.count - 2 - rank
    assert magnitudes <= expected
    # A one-sided constraint on a product is put on its factors: sound, and not complete.
    if not unresolved(solution) and (solution.allows != UNIT).all():
        assert magnitudes == expected


@given(systems(), st.integers(0, 2**16))
def test_free_values_are_independent(system: System, seed: int) -> None:
    """Other free values give another tau: no value is counted twice."""
    solution = solve(system)
    values = drawn(solution, seed)
    tau = solution.tau(values)
    for i in range(solution.num_free):
        other = values.clone()
        other[i] = -other[i] if solution.allows[i] == UNIT else other[i] * 4
        assert not torch.equal(solution.tau(other), tau)


@given(systems(), st.integers(0, 2**16), st.integers(0, 2**16))
def test_tau_is_a_homomorphism(system: System, one: int, two: int) -> None:
    solution = solve(system)
    a, b = drawn(solution, one), drawn(solution, two)
    assert torch.equal(solution.tau(a * b), solution.tau(a) * solution.tau(b))
    assert torch.equal(solution.tau(a.reciprocal()), solution.tau(a).reciprocal())
    assert torch.equal(solution.tau(torch.ones_like(a)), torch.ones(system.count, dtype=torch.float64))


@settings(max_examples=30)
@given(systems(), st.integers(0, 2**16))
def test_tau_is_differentiable(system: System, seed: int) -> None:
    solution = solve(system)
    if solution.num_free:
        values = drawn(solution, seed, largest=0).mul(1.1).requires_grad_()
        assert torch.autograd.gradcheck(solution.tau, (values,), rtol=1e-4)


@settings(max_examples=30)
@given(systems())
def test_deterministic(system: System) -> None:
    a, b = solve(system), solve(system)
    for name in ("index", "exponent", "many", "many_index", "many_exponent", "allows", "reason"):
        assert np.array_equal(getattr(a, name), getattr(b, name))


@given(systems())
def test_every_pinned_symbol_has_a_reason(system: System) -> None:
    solution = solve(system)
    pinned = solution.index == solution.num_free
    pinned[solution.many] = False
    assert (solution.reason[pinned][2:] >= 0).all()
    assert (solution.reason[~pinned] < 0).all()


# -- by hand -------------------------------------------------------------------------------------------------


def test_a_symbol_that_is_its_own_inverse_keeps_its_sign() -> None:
    system = System()
    a = system.fresh((3,), HERE)
    system.require_one(single(a) ** 2, HERE)
    solution = solve(system)
    assert solution.allows.tolist() == [UNIT] * 3
    assert satisfied(system, solution.tau(torch.tensor([-1.0, 1.0, -1.0]).double()))


def test_inverse_through_a_chain_is_unit() -> None:
    """a = b, a = 1 / b."""
    system = System()
    a, b = (single(system.fresh((2,), HERE)) for _ in range(2))
    system.same(a, b, HERE)
    system.require_one(a * b, HERE)
    assert solve(system).allows.tolist() == [UNIT] * 2


def test_a_sign_and_a_magnitude_pinned_is_pinned() -> None:
    system = System()
    a = single(system.fresh((2,), HERE))
    system.require_positive(a, HERE)
    system.require_unit(a, HERE)
    solution = solve(system)
    assert solution.num_free == 0
    why = {solution.origins[i].why for i in solution.reason[2:]}
    assert why == {"one operation pins its sign, another its magnitude"}


def test_pinned_factors_collapse_products() -> None:
    """z = x * y with y pinned is z = x; with z pinned it is x = 1 / y."""
    system = System()
    x, y, z = (single(system.fresh((4,), HERE)) for _ in range(3))
    system.same(z, x * y, HERE)
    system.pin(y, HERE)
    solution = solve(system)
    assert solution.num_free == 4
    assert not len(solution.many)
    other = System()
    x, y, z = (single(other.fresh((4,), HERE)) for _ in range(3))
    other.same(z, x * y, HERE)
    other.pin(z, HERE)
    solution = solve(other)
    tau = solution.tau(torch.tensor([2.0, -4.0, 8.0, 0.5]).double())
    assert torch.equal(tau[2:6], tau[6:10].reciprocal())


def test_products_of_products() -> None:
    """v = x * g1 * g2 through an intermediate; w = v: three of five are free."""
    system = System()
    x, g, h, u, v = (single(system.fresh((5,), HERE)) for _ in range(5))
    system.same(u, x * g, HERE)
    system.same(v, u * h, HERE)
    solution = solve(system)
    assert solution.num_free == 15
    assert satisfied(system, solution.tau(drawn(solution, 0)))


def test_a_unit_factor_leaves_the_others_free() -> None:
    """a = 1 / a and a * b * c = 1: b's magnitude is free."""
    system = System()
    a, b, c = (single(system.fresh((1,), HERE)) for _ in range(3))
    system.require_one(a**2, HERE)
    system.require_one(a * b * c, HERE)
    assert sorted(solve(system).allows.tolist()) == [FREE, UNIT]


def test_sums_of_products_share_one_value() -> None:
    """a * b = c * d: three of four."""
    system = System()
    a, b, c, d = (single(system.fresh((3,), HERE)) for _ in range(4))
    system.same(a * b, c * d, HERE)
    assert solve(system).num_free == 9


def test_a_common_exponent_gives_up_a_sign_only() -> None:
    """A Gram matrix x x^T needs s**2 = t**2: both stay free, as s = t."""
    system = System()
    s, t, u = (single(system.fresh((3,), HERE)) for _ in range(3))
    system.same(s**2, t**2, HERE)
    system.same(s**2 * t**2, u**4, HERE)
    solution = solve(system)
    assert solution.num_free == 3
    tau = solution.tau(drawn(solution, 0))
    assert satisfied(system, tau)
    assert not bool((tau[2:] == 1).all())


def test_signs_of_products_stay_free() -> None:
    """|s t| = 1 for many s and one t, of which |t| = 1: each has a sign."""
    system = System(6)
    for s in (2, 3, 4):
        system.require_unit(single(torch.tensor([s])) * single(torch.tensor([5])), HERE)
    system.require_unit(single(torch.tensor([5])), HERE)
    solution = solve(system)
    assert solution.num_free == 4
    assert (solution.allows == UNIT).all()


def test_empty_system() -> None:
    solution = solve(System())
    assert solution.num_free == 0
    assert solution.tau(torch.ones(0, dtype=torch.float64)).tolist() == [1, 1]


def test_signs_of_a_square_product() -> None:
    """a**2 * b = 1 makes b positive through the monomial b = a**-2, and a free."""
    system = System()
    a, b = (single(system.fresh((2,), HERE)) for _ in range(2))
    system.require_one(a**2 * b, HERE)
    system.require_positive(b, HERE)
    solution = solve(system)
    assert solution.allows.tolist() == [FREE] * 2


def test_a_positive_product_makes_its_factors_positive() -> None:
    system = System()
    x, y, z = (single(system.fresh((2,), HERE)) for _ in range(3))
    system.same(z, x * y, HERE)
    system.require_positive(z, HERE)
    solution = solve(system)
    values = sample_values(solution.allows, 0.9, "inter", exact=True, seed=0)
    assert bool((solution.tau(values)[6:8] > 0).all())


def chained(n: int) -> System:
    """n products z = x * y, half of them chained."""
    system = System()
    x, y, z, w = (system.fresh((n,), HERE) for _ in range(4))
    system.same(single(z), single(x) * single(y), HERE)
    half = n // 2
    system.same(single(w[:half]), single(z[:half]) * single(y[half : 2 * half]), HERE)
    return system


def test_many_products() -> None:
    solution = solve(chained(1000))
    assert solution.num_free == 2000 + 500
    assert not unresolved(solution)


@pytest.mark.slow
def test_a_million_products_take_seconds() -> None:
    system = chained(1_000_000)
    start = time.perf_counter()
    solution = solve(system)
    seconds = time.perf_counter() - start
    assert solution.num_free == 2_500_000
    assert seconds < 20
