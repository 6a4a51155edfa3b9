"""Bilinear: products of CoBs; what is contracted has a constant product."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft

PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mul": lambda x, y: x * y,
    "imul": lambda x, y: x.mul_(y),
    "div": lambda x, y: x / y,
    "divide in place": lambda x, y: x.div_(y),
    "reciprocal": lambda x, y: x * y.reciprocal(),
    "number over": lambda x, y: x * (2.0 / y),
    "square": lambda x, y: x * y.square() / y,
    "pow": lambda x, y: x**3 / y**2,
    "three": lambda x, y: x * y * x * y * x * y,
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_pass(name: str, check_operation: Callable[..., None]) -> None:
    check_operation(PRODUCTS[name], full=16, weights=16, streams=2)


def test_products_equal_to_a_third(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y, z: z + x * y, full=16, weights=16, streams=3)
    check_operation(lambda x, y, z: z + x / y, full=16, weights=16, streams=3)
    check_operation(lambda x, y, z: x * y + y * z, full=16, weights=16, streams=3)


def test_a_square_added_to_its_root_is_pinned(check_operation: Callable[..., None]) -> None:
    """t**2 = t; in mode="full" it is one activation, but not where something else reads the square."""
    check_operation(lambda x: x + x * x, full=8, weights=0)
    check_operation(lambda x: (x + (y := x * x), y), full=0, weights=0)


def test_a_square_keeps_its_sign(check_operation: Callable[..., None]) -> None:
    """1 + t**2: the sign is free."""
    check_operation(lambda x: 1 + x.square(), full=8, weights=8)


CONTRACTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    # x * y = one number a contracted axis: 8 of x, and one for the product (the mean over positions is free)
    "dot": (lambda x, y: torch.einsum("bchw,bchw->b", x, y), 8 + 1),
    "dot positions": (lambda x, y: torch.einsum("bchw,bchw->bc", x, y), 16),
    "gram": (lambda x, y: x.flatten(2) @ y.flatten(2).transpose(1, 2), 16),
    "matmul": (lambda x, y: torch.matmul(x.flatten(2).transpose(1, 2), y.flatten(2)), 8 + 1),
    "bmm": (lambda x, y: torch.bmm(x.flatten(2).transpose(1, 2), y.flatten(2)), 8 + 1),
    "einsum": (lambda x, y: torch.einsum("bchw,bdhw->bcd", x, y), 16),
    "einsum of a list": (lambda x, y: torch.einsum("bchw,bdhw->bcd", [x, y]), 16),
    "einsum broadcasting": (lambda x, y: torch.einsum("...hw,...hw->...hw", x, y.mean(0)), 16),
    "einsum ellipsis": (lambda x, y: torch.einsum("bc...,bd...->b...cd", x, y), 16),
    "outer": (lambda x, y: x.mean((2, 3))[:, :, None] * y.mean((2, 3))[:, None], 16),
    "tensordot": (lambda x, y: torch.tensordot(x, y, dims=([2, 3], [-2, 3])).transpose(1, 2), 16),
    "tensordot of the last": (lambda x, y: torch.tensordot(x.permute(0, 2, 3, 1), y.mean((0, 2, 3)), 1), 8 + 1),
    "tensordot of the last two": (lambda x, y: torch.tensordot(x[0], y[0].permute(1, 2, 0)).expand(2, -1, -1), 16),
    "tensordot of one": (lambda x, y: torch.tensordot(x.permute(0, 2, 3, 1), y[0].flatten(1), 1), 8 + 1),
    "tensordot of channels": (lambda x, y: torch.tensordot(x, y.mean((0, 2, 3)), ([1], [0])), 8 + 1),
    "tensordot of nothing": (lambda x, y: torch.tensordot(x, y.mean((0, 2, 3)), 0), 16),
    "inner": (lambda x, y: torch.inner(x.flatten(2).mT, y.flatten(2).mT), 8 + 1),
    "inner of two vectors": (lambda x, y: torch.inner(x.mean((0, 2, 3)), y.mean((0, 2, 3))).expand(2), 8 + 1),
    "inner with a number": (lambda x, y: torch.inner(x.mean((0, 2, 3))[0], y), 16),
    "inner of a number": (lambda x, y: torch.inner(x, y.mean((0, 2, 3))[0]), 16),
}


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contractions(name: str, check_operation: Callable[..., None]) -> None:
    operation, free = CONTRACTIONS[name]
    check_operation(operation, full=free, weights=free, streams=2)


SOLVED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    # a is pinned; the solution has the CoB of what it is solved for, one along the contracted axis
    "solve": (lambda a, x: torch.linalg.solve(a[0, 0] + EYE, x.flatten(2).mT[..., :4, :]), 8),
    "solve for channels": (lambda a, x: torch.linalg.solve(a[0, 0] + EYE, x[:, :4].flatten(2)), 4 + 1),
    "solve for a square": (lambda a, x: torch.linalg.solve(a[:, 0] + EYE, x[:, :4, 0]), 4 + 1),
    "solve for one matrix": (lambda a, x: torch.linalg.solve(a[:, 0] + EYE, x[0, :4, 0, :3]), 4 + 1),
    "solve for a vector": (lambda a, x: torch.linalg.solve(A=a[0, 0] + EYE, B=x[0, :4, 0, 0]).expand(2, -1), 4 + 1),
    "solve for vectors": (lambda a, x: torch.linalg.solve(a[:, 0] + EYE, x[:, :4, 0, 0]), 4 + 1),
    "solve from the right": (lambda a, x: torch.linalg.solve(a[:, 0] + EYE, x[:, :, 0], left=False), 8),
    "triangular": (lambda a, x: torch.linalg.solve_triangular(a[:, 0] + EYE, x.flatten(2).mT[:, :4], upper=False), 8),
    "triangular from the right": (
        lambda a, x: torch.linalg.solve_triangular(a[:, 0] + EYE, x[:, :, 0], upper=True, left=False), 8
    ),
    "triangular for zeros": (
        lambda a, x: torch.linalg.solve_triangular(a[:, 0] + EYE, F.pad(x[:, :3, 0], (0, 0, 1, 0)), upper=False), 5 + 1
    ),
    "unitriangular": (
        lambda a, x: torch.linalg.solve_triangular(a[:, 0], x[:, :, 0].mT, upper=False, unitriangular=True), 8
    ),
}  # fmt: skip
EYE = 4 * torch.eye(4)


@pytest.mark.parametrize("name", SOLVED)
def test_solving_keeps_the_matrix(name: str, check_operation: Callable[..., None]) -> None:
    """Of the matrix a single channel is read: 7 of its 8 values are free."""
    operation, free = SOLVED[name]
    check_operation(operation, full=7 + free, weights=7 + free, streams=2)


def heads(x: Tensor, n: int = 2) -> Tensor:
    return x.flatten(2).unflatten(1, (n, -1)).transpose(2, 3)


def test_attention(check_operation: Callable[..., None]) -> None:
    """q = 1 / k by head and dimension; v is free."""
    check_operation(lambda q, k, v: F.scaled_dot_product_attention(heads(q), heads(k), heads(v)), full=16, weights=16,
                    streams=3)  # fmt: skip
    check_operation(
        lambda q, k, v: ((heads(q) @ heads(k).mT) * 0.5).softmax(-1) @ heads(v), full=16, weights=16, streams=3
    )
    check_operation(
        lambda q, k, v: F.scaled_dot_product_attention(heads(q), heads(k), heads(v), is_causal=True, scale=0.1),
        full=16, weights=16, streams=3,
    )  # fmt: skip


def test_sums_of_products_along_channels(check_operation: Callable[..., None]) -> None:
    """Rows are channels here; `addbmm` adds up matrices, here one a channel."""
    weights = torch.randn(8, 16, 16, generator=torch.Generator().manual_seed(0))

    def rows(x: Tensor) -> Tensor:
        return x[0].flatten(1)

    def addmm(x: Tensor, y: Tensor) -> Tensor:
        return torch.addmm(rows(x), rows(y), weights[0].to(x.dtype)).expand(2, -1, -1)

    def addbmm(x: Tensor, y: Tensor) -> Tensor:
        return torch.addbmm(x.mean(1).flatten(1), y.flatten(2).transpose(0, 1), weights.to(x.dtype))

    check_operation(addmm, full=8, weights=8, streams=2)
    check_operation(addbmm, full=1, weights=1, streams=2)

    def addbmm_of_rows(x: Tensor, y: Tensor) -> Tensor:  # y's channels are columns of what is added up
        return torch.addbmm(x.mean((0, 2, 3)), weights[:2, :2].to(x.dtype), y.flatten(2).mT)

    check_operation(addbmm_of_rows, full=8, weights=8, streams=2)

    def added_up(x: Tensor) -> Tensor:
        return torch.addbmm(x.new_zeros(2, 16), x.flatten(2).transpose(0, 1), weights.to(x.dtype))

    check_operation(added_up, full=1, weights=1)


def test_attention_masks(check_operation: Callable[..., None]) -> None:
    mask = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(heads(q), heads(k), heads(v), mask.to(q.dtype))

    def boolean(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(heads(q), heads(k), heads(v), attn_mask=mask > 0)

    check_operation(masked, full=16, streams=3)
    check_operation(boolean, full=16, streams=3)


def test_talking_heads(check_operation: Callable[..., None]) -> None:
    """Heads mixed after the softmax: v's CoB must be one over heads."""
    mix = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (heads(q) @ heads(k).mT).softmax(-1)
        return torch.einsum("bhqk,hg->bgqk", weights, mix.to(q.dtype)) @ heads(v)

    check_operation(attend, full=16, weights=16, streams=3)


def test_rounded_division_pins(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: torch.div(x, y, rounding_mode="floor"), full=0, weights=0, streams=2, known=False)


def test_positions_of_attention_are_met_by_all_others(check_operation: Callable[..., None]) -> None:
    """Channels as positions: each query meets each key, so all share one CoB, and so do the values."""

    def tokens(x: Tensor) -> Tensor:
        return x.flatten(2)[:, None]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(tokens(q), tokens(k), tokens(v))

    check_operation(attend, full=2, weights=2, streams=3)


def test_keys_and_values_without_a_batch(check_operation: Callable[..., None]) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(heads(q), heads(k)[0], heads(v)[0]).transpose(1, 2)

    check_operation(attend, full=16, weights=16, streams=3)


@pytest.mark.parametrize("shared", [False, True])
def test_heads_that_share_keys_and_values(shared: bool, assert_exact: Callable[..., ft.Plan]) -> None:
    """4 query heads on 2 of keys and values, 3 dimensions each: q = 1 / k for 2 x 3 values, and v for 2 x 3.

    If the two are copies of one, for 3 values.
    """

    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = 3 if shared else 6
            self.q, self.k = nn.Linear(8, 12), nn.Linear(8, width)
            self.v, self.o = nn.Linear(8, width), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (f(x).unflatten(-1, (-1, 3)).transpose(1, 2) for f in (self.q, self.k, self.v))
            k, v = k.expand(-1, 2, -1, -1), v.expand(-1, 2, -1, -1)
            x = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            return self.o(x.transpose(1, 2).flatten(2))

    plan = assert_exact(Grouped(), torch.randn(3, 7, 8))
    assert plan.num_free == (3 + 3 if shared else 6 + 6)
    assert not plan.opaque


def test_a_gram_matrix_keeps_one_value(check_operation: Callable[..., None]) -> None:
    """x x^T contracts the channels: they share one CoB up to a sign, and its square is the output's."""
    check_operation(lambda x: x.flatten(2).mT @ x.flatten(2), full=1, weights=1)


def test_a_long_product_gets_a_name(check_operation: Callable[..., None]) -> None:
    """Past four factors a map is one symbol a position, equal to the product."""
    check_operation(lambda *xs: math.prod(xs), full=40, weights=40, streams=5)
    for streams, factors in ((4, 4), (5, 1)):
        model, x = Product(streams), torch.randn(2, 3)
        plan = ft.plan(model, x)
        node = [n for n in plan.captured.graph.nodes if n.name.startswith("mul")][-1]
        assert len(plan.constrained.maps[node].factors) == factors


class Product(nn.Module):
    def __init__(self, streams: int) -> None:
        super().__init__()
        self.streams, self.head = nn.ModuleList(nn.Linear(3, 5) for _ in range(streams)), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(math.prod(stream(x) for stream in self.streams))


def test_products_broadcast(check_operation: Callable[..., None]) -> None:
    """A factor with fewer axes is aligned to the last ones, and moves with them."""
    check_operation(lambda x, y: (x * y.mean(0)).permute(0, 2, 3, 1), full=16, weights=16, streams=2)
    check_operation(lambda x, y: (x / y.mean(0)).permute(0, 2, 3, 1), full=16, weights=16, streams=2)
    check_operation(lambda x, y: (x.mean(0) * y).permute(0, 2, 3, 1), full=16, weights=16, streams=2)


def test_one_over_padding_is_not_zero(check_operation: Callable[..., None]) -> None:
    """Two channels are 1 / 0: what is added to them has a CoB of 1."""

    def padded(y: Tensor) -> Tensor:
        return F.pad(y[:, :6], (0, 0, 0, 0, 2, 0))

    check_operation(lambda x, y: torch.sigmoid(x + padded(y).reciprocal()), full=8, streams=2)
    check_operation(lambda x, y: torch.sigmoid(x + padded(y) ** -1), full=8, streams=2)
    check_operation(lambda x, y: torch.sigmoid(x + 1 / padded(y)), full=8, streams=2)


VARIANCES: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "positions": (lambda x: x.var((2, 3)), 8),
    "positions, axes kept": (lambda x: x * x.var((2, 3), keepdim=True), 8),
    "positions, positional": (lambda x: x.var((2, 3), False, True) * x, 8),
    "channels": (lambda x: x.var(1), 1),
    "all": (lambda x: x.var() * x, 1),
    "added to a square": (lambda x: x.mean((2, 3)).square() + x.var((2, 3)), 8),
    "of padded": (lambda x: F.pad(x, (1, 1)).var((2, 3)), 8),
    "over padding": (lambda x: F.pad(x[:, :6], (0, 0, 0, 0, 2, 0)).var(1), 3),
    "and means": (lambda x: torch.cat(torch.var_mean(x, (2, 3), keepdim=True), 1), 8),
    "and means of channels": (lambda x: torch.cat(torch.var_mean(x, 1), 1), 1),
    "deviations and means": (lambda x: torch.cat(torch.std_mean(x, (2, 3)), 1), 8),
    "deviations and means of channels": (lambda x: torch.stack(torch.std_mean(x, 1), 1), 1),
    "products of one": (lambda x: x[..., :1].prod(-1), 8),
    "products of four": (lambda x: x.prod(-1), 8),
    "products of none": (lambda x: x[..., :0].prod(-1) + x[..., 0], 0),
    "products of two": (lambda x: x[..., :2].prod(-1), 8),
    "products of channels": (lambda x: x[:, :3].prod(1, keepdim=True), 6),
}


@pytest.mark.parametrize("name", VARIANCES)
def test_variance_is_a_square(name: str, check_operation: Callable[..., None]) -> None:
    operation, free = VARIANCES[name]
    check_operation(operation, full=free, weights=free)


def square_matrix(x: Tensor) -> Tensor:
    """[2, 8, 8], a row a channel."""
    return x.flatten(2)[:, :, :8]


SUMS: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], int]] = {
    # x = y z in every channel
    "addcmul": (lambda x, y, z: torch.addcmul(x, y, z, value=0.5).permute(0, 2, 3, 1), 16),
    "addcmul broadcast": (lambda x, y, z: torch.addcmul(x.mean(0), y, z.mean(0)).permute(0, 2, 3, 1), 16),
    "addcmul of vectors": (lambda x, y, z: torch.addcmul(x, y.mean(0), z.mean(0)).permute(0, 2, 3, 1), 16),
    # x_ij = y_ik z_kj: z has one CoB for its channels, as columns
    "baddbmm": (lambda x, y, z: torch.baddbmm(*map(square_matrix, (x, y)), square_matrix(z).mT).mT, 8 + 1),
    "addbmm": (
        lambda x, y, z: torch.addbmm(x.mean(0)[:, 0, :1], square_matrix(y), square_matrix(z)).expand(2, -1, -1).mT,
        8 + 1,
    ),
    "addmm": (lambda x, y, z: torch.addmm(x.mean((0, 2, 3)), y.mean((2, 3)), square_matrix(z)[0]), 8 + 1),
}  # fmt: skip


@pytest.mark.parametrize("name", SUMS)
def test_sums_of_products(name: str, check_operation: Callable[..., None]) -> None:
    operation, free = SUMS[name]
    check_operation(operation, full=free, weights=free, streams=3)


VECTORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "matrix by vector": lambda x, y: x.flatten(2) @ y.flatten(2)[0, :, 0].repeat(2),
    "vector by matrix": lambda x, y: x.mean((0, 2, 3)) @ y.flatten(2),
    "dot": lambda x, y: x.mean((0, 2, 3)).dot(y.mean((0, 2, 3))).expand(2),
    "outer": lambda x, y: x.mean((0, 2, 3)).outer(y.mean((0, 2, 3)))[None].expand(2, -1, -1),
    "named": lambda x, y: torch.matmul(x.flatten(2), other=torch.mv(y.flatten(2)[0].mT, vec=x.mean((0, 2, 3)))),
    "batches named": lambda x, y: torch.baddbmm(
        x.flatten(2), batch1=x.flatten(2) @ y.flatten(2).mT, batch2=y.flatten(2)
    ),
    "matrix by batch": lambda x, y: x.mean(0)[:, 0, :] @ y.permute(0, 2, 3, 1).flatten(1, 2).mT[:, :4, :4],
}


def last(x: Tensor) -> Tensor:
    """[2, 4, 4, 3]: three channels."""
    return x.permute(0, 2, 3, 1)[..., :3]


CROSSED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "an axis": lambda x, y: torch.linalg.cross(x[:, :3], y[:, :3], dim=1),
    "the last": lambda x, y: torch.linalg.cross(last(x), last(y)),
    "from the end": lambda x, y: torch.cross(last(x), last(y), dim=-1),
    "the first of three": lambda x, y: torch.cross(x[:, :3, :3], y[:, :3, :3]),
    "broadcast": lambda x, y: torch.linalg.cross(last(x.mean((0, 2, 3), keepdim=True)), last(y)),
    "zeros": lambda x, y: (
        torch.linalg.cross(x[:, :3], F.pad(y[:, :3], (0, 0, 0, 0, 1, 0))[:, :3], dim=1) + 0 * x[:, :3]
    ),
}


@pytest.mark.parametrize("name", CROSSED)
def test_coordinates_share_a_cob(name: str, check_operation: Callable[..., None]) -> None:
    check_operation(CROSSED[name], full=(1 + 5) + (1 + 5), weights=12, streams=2)


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name: str, check_operation: Callable[..., None]) -> None:
    check_operation(VECTORS[name], full=None, streams=2)


def test_a_mask_of_activations_is_pinned(check_operation: Callable[..., None]) -> None:
    def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(heads(q), heads(k), heads(v), mask.flatten(2)[:, :1, :, None])

    check_operation(masked, full=16 + 7, weights=16 + 7, streams=4)


def test_keys_that_differ_by_position(check_operation: Callable[..., None]) -> None:
    """Channels are positions here: the product of queries and keys is 1 at every pair of them."""
    check_operation(
        lambda q, k, v: F.scaled_dot_product_attention(q.flatten(2), k.flatten(2), v.flatten(2)), full=1 + 1, streams=3
    )


def test_an_einsum_without_an_output_has_what_occurs_once(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: torch.einsum("bchw,dhw", x, y[0]), full=16, streams=2)  # as with "->bcd"
    check_operation(lambda x, y: torch.einsum("c...h,dh", x.transpose(0, 1), y[0, :, 0]), full=16, streams=2)


def test_other_einsums_are_opaque(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: torch.einsum("...cc,bdhw->bd", x[:, :4, 0], y), full=None, streams=2, known=False)
    check_operation(lambda x, y: torch.einsum("bccw,bdhw->bd", x[:, :4], y), full=None, streams=2, known=False)


@pytest.mark.parametrize(
    "operation", [lambda x, y: x.abs() ** y, lambda x, y: 2.0**x + y, lambda x, y: torch.pow(2.0, x) + y]
)
def test_exponents_are_pinned(
    operation: Callable[[Tensor, Tensor], Tensor], check_operation: Callable[..., None]
) -> None:
    check_operation(operation, full=0, weights=0, streams=2, known=False)


def test_axes_that_are_counted_by_a_tensor() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Parameter(torch.randn(4, 2))

        def forward(self, x: Tensor, axes: Tensor) -> Tensor:
            return torch.tensordot(self.a(x), self.b, axes)

    plan = ft.plan(Counted(), torch.randn(2, 3), torch.tensor(1))
    assert plan.num_free == 0
    assert "which axes it contracts is not known before the run" in plan.opaque[0].why


class Solved(nn.Module):
    """A constant matrix, or a batch of them, solved with features that are vectors or matrices."""

    def __init__(self, matrix: Tensor, size: tuple[int, ...], left: bool) -> None:
        super().__init__()
        self.size, self.left = size, left
        self.stem, self.head = nn.Linear(5, math.prod(size)), nn.Linear(3, 2)
        self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        solution = torch.linalg.solve(self.matrix, self.stem(x).view(self.size), left=self.left)
        return self.head(solution.flatten()[:3])


@pytest.mark.parametrize(
    ("matrices", "size", "left", "free"),
    [
        ((), (3,), True, 1),
        ((4,), (3,), True, 1),  # one vector for all of the matrices
        ((2, 4), (3,), True, 1),
        ((4,), (4, 3), True, 4),  # a vector for each of them
        ((4,), (3, 3), True, 3),  # one matrix for all
        ((3,), (3, 3), True, 3),  # which torch takes for a vector for each
        ((4,), (2, 3), False, 2),
        ((4,), (4, 3, 2), True, 8),
        ((2, 4), (2, 4, 3), True, 8),
    ],
)
def test_a_right_side_of_vectors(
    matrices: tuple[int, ...], size: tuple[int, ...], left: bool, free: int, assert_exact: Callable[..., ft.Plan]
) -> None:
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(*matrices, 3, 3, generator=generator) + 4 * torch.eye(3)
    for mode in ("full", "weights"):
        plan = assert_exact(Solved(matrix, size, left), torch.randn(5), mode=mode, randomize=False)
        assert plan.num_free == free and not plan.opaque


class Crossed(nn.Module):
    """A cross product along the first axis of three elements of its input, which is not that of the result."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(4, 18), nn.Linear(18, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).view(1, 2, 3), self.b(x).view(3, 2, 3)
        return self.head(torch.cross(a, b).flatten())


@pytest.mark.filterwarnings("ignore:Using torch.cross")
def test_the_axis_of_a_cross_product_is_that_of_its_input(assert_exact: Callable[..., ft.Plan]) -> None:
    for mode in ("full", "weights"):
        plan = assert_exact(Crossed(), torch.randn(4), mode=mode)
        assert plan.num_free == 2 + 6 and not plan.opaque  # one for each three coordinates


def test_nothing_is_contracted_with_a_number(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: torch.tensordot(x, y[0, 0, 0, 0], dims=0), full=None, streams=2)
