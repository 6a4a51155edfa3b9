"""Maps: every operation on factors equals the same operation on the fully expanded symbols."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fxteleport.passes.domain import cob_map
from fxteleport.passes.domain.cob_map import ANY, IDENTITY, ONE, CobMap, compress, reshape, single, structural_zeros

SYMBOLS = 7


@st.composite
def factor(draw: st.DrawFn, shape: tuple[int, ...]) -> Tensor:
    """Symbols broadcastable to a shape, of its rank."""
    own = [n if draw(st.booleans()) else 1 for n in shape]
    values = draw(st.lists(st.integers(0, SYMBOLS - 1), min_size=math.prod(own), max_size=math.prod(own)))
    return torch.tensor(values, dtype=torch.int64).reshape(own)


@st.composite
def cob_maps(draw: st.DrawFn, shape: tuple[int, ...]) -> CobMap:
    exponents = draw(st.lists(st.sampled_from([-2, -1, 1, 2, 3]), max_size=3))
    return CobMap(tuple((draw(factor(shape)), e) for e in exponents))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.integers(1, 4), max_size=4)))


@st.composite
def regroupings(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes of one size: products of runs of the same primes, with axes of size 1 strewn in."""
    primes = draw(st.lists(st.sampled_from([2, 2, 3]), max_size=6))

    def cut() -> tuple[int, ...]:
        sizes = [1]
        for p in primes:
            if draw(st.booleans()):
                sizes.append(p)
            else:
                sizes[-1] *= p
        for _ in range(draw(st.integers(0, 2))):
            sizes.insert(draw(st.integers(0, len(sizes))), 1)
        return tuple(sizes)

    return cut(), cut()


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
    old, new = draw(regroupings())
    return draw(factor(old)), old, new


def values() -> Tensor:
    """A number for each symbol: powers of two, so that products are exact. ONE and ANY are 1."""
    return torch.tensor([1.0, 1.0, 2.0, -0.5, 4.0, -8.0, 0.25], dtype=torch.float64)[:SYMBOLS]


@given(reshapes())
def test_reshape_is_the_reshape_of_expanded_symbols(arguments: tuple[Tensor, tuple[int, ...], tuple[int, ...]]) -> None:
    symbols, old, new = arguments
    result = reshape(symbols, old, new)
    assert result.ndim == len(new)
    assert torch.equal(result.expand(new), symbols.expand(old).reshape(new))


@given(regroupings(), st.data())
def test_reshape_back_and_forth(both: tuple[tuple[int, ...], tuple[int, ...]], data: st.DataObject) -> None:
    old, new = both
    symbols = data.draw(factor(old))
    again = reshape(reshape(symbols, old, new), new, old)
    assert torch.equal(again.expand(old), symbols.expand(old))


def test_reshape_stays_small() -> None:
    """[2, 64, 56, 56] -> [2, 64, 3136] keeps one symbol a channel."""
    symbols = torch.arange(64).view(1, 64, 1, 1)
    assert reshape(symbols, (2, 64, 56, 56), (2, 64, 3136)).shape == (1, 64, 1)
    assert reshape(symbols, (2, 64, 56, 56), (2, 8, 8, 56, 56)).shape == (1, 8, 8, 1, 1)
    assert reshape(symbols, (2, 64, 56, 56), (128, 3136)).numel() == 128


def test_reshape_of_nothing() -> None:
    assert reshape(torch.tensor([[2]]), (0, 3), (3, 0)).shape == (1, 1)


@given(shapes(), st.data())
def test_compress_keeps_every_symbol_and_drops_every_constant_axis(shape: tuple[int, ...], data: st.DataObject) -> None:
    symbols = data.draw(factor(shape)).expand(shape)
    small = compress(symbols)
    assert torch.equal(small.expand(shape), symbols)
    for axis, n in enumerate(small.shape):
        if n > 1:
            assert not torch.equal(small, small.narrow(axis, 0, 1).expand_as(small))
    assert torch.equal(compress(small), small)


def test_compress_lets_go_of_large_storage() -> None:
    big = torch.zeros(1000, 1000, dtype=torch.int64)
    big[0] = 3
    assert compress(big[:1]).untyped_storage().nbytes() < 100


def full(cob: CobMap, shape: tuple[int, ...]) -> Tensor:
    scale = cob.scale(values())
    return torch.ones(shape, dtype=torch.float64) if scale is None else scale.expand(shape)


@given(shapes(), st.data())
def test_algebra(shape: tuple[int, ...], data: st.DataObject) -> None:
    a, b = data.draw(cob_maps(shape)), data.draw(cob_maps(shape))
    assert torch.equal(full(a * b, shape), full(a, shape) * full(b, shape))
    assert torch.equal(full(a / b, shape), full(a, shape) / full(b, shape))
    assert torch.equal(full(b * a, shape), full(a * b, shape))
    for exponent in (-2, -1, 0, 1, 2, 3):
        assert torch.equal(full(a**exponent, shape), full(a, shape) ** exponent)
    assert torch.equal(full(a * IDENTITY, shape), full(a, shape))


@given(shapes(), st.data())
def test_a_map_over_itself_has_no_factors(shape: tuple[int, ...], data: st.DataObject) -> None:
    a = data.draw(cob_maps(shape))
    assert (a / a).factors == ()
    assert (a * a**-1).scale(values()) is None


@given(shapes(), st.data())
def test_aligned_is_broadcasting(shape: tuple[int, ...], data: st.DataObject) -> None:
    a = data.draw(cob_maps(shape))
    wide = a.aligned(len(shape) + 2)
    assert all(s.ndim == len(shape) + 2 for s, _ in wide.factors)
    assert torch.equal(full(wide, (2, 2, *shape)), full(a, shape).expand(2, 2, *shape))


@given(shapes(), st.data())
def test_varies(shape: tuple[int, ...], data: st.DataObject) -> None:
    a = data.draw(cob_maps(shape))
    scale = full(a, shape)
    for axis in range(len(shape)):
        if not a.varies(axis):
            assert torch.equal(scale, scale.narrow(axis, 0, 1).expand(shape))


def test_structural_zeros_settle_at_one() -> None:
    zeros = structural_zeros(3)
    assert zeros.zeros
    assert [s.tolist() for s, _ in zeros.factors] == [[[[ANY]]]]
    mixed = CobMap(((torch.tensor([ANY, 3, ANY]), 1),), zeros=True)
    assert mixed.settled().factors[0][0].tolist() == [ONE, 3, ONE]
    assert not mixed.settled().zeros
    plain = single(torch.tensor([2]))
    assert plain.settled() is plain


def test_padding_with_zeros_pads_with_structural_zeros() -> None:
    padded = torch.nn.functional.pad(torch.tensor([2, 3]), (1, 1))
    assert padded.tolist() == [ANY, 2, 3, ANY]


def test_scale_is_differentiable() -> None:
    cob = CobMap(((torch.tensor([[2], [3]]), 1), (torch.tensor([[4, 5, 5]]), -1), (torch.tensor([[6]]), 2)))
    assert torch.autograd.gradcheck(cob.scale, (values().requires_grad_(),))


@pytest.mark.parametrize("fn", [lambda s: s.flip(0), lambda s: s.transpose(0, 1), lambda s: torch.cat([s, s], 1)])
def test_move_runs_the_operation(fn) -> None:  # type: ignore[no-untyped-def]
    cob = CobMap(((torch.tensor([[2], [3]]), 1), (torch.tensor([[4, 5, 6]]), -1)))
    moved = cob.each(lambda s: cob_map.compress(cob_map.on_symbols(fn, s.expand(2, 3))))
    expected = fn(full(cob, (2, 3)))
    assert torch.equal(full(moved, tuple(expected.shape)), expected)


def test_on_symbols_falls_back_to_floating_point() -> None:
    symbols = torch.tensor([[[2**40, 3], [4, 5]]])
    unfolded = cob_map.on_symbols(lambda s: torch.nn.functional.unfold(s[None], 1), symbols)
    assert unfolded.dtype == torch.int64
    assert unfolded.flatten().tolist() == [2**40, 3, 4, 5]


@given(shapes(), st.data())
def test_together_keeps_every_factor(shape: tuple[int, ...], data: st.DataObject) -> None:
    cobs = [data.draw(cob_maps(shape)) for _ in range(3)]
    slots = cob_map.together(cobs)
    for i, cob in enumerate(cobs):
        again = CobMap(tuple((columns[i], e) for columns, e in slots if columns[i] is not None))
        assert len(again.factors) == len(cob.factors)
        assert torch.equal(full(again, shape), full(cob, shape))
