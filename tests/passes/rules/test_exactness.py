"""Rules whose algebra is not the processor's: powers that are rounded, and the sign of a zero.

Under powers of two an equivariant function must be equivariant to the last bit, on any input: zeros that come out of a
cancellation among them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

EXACT = (-2, -1, 0, 1, 2, 3)


class Between(nn.Module):
    """A layer, an operation, a layer; some of its hidden values are sums that cancel."""

    def __init__(self, operation: Callable[[Tensor], Tensor], width: int = 6) -> None:
        super().__init__()
        self.a, self.operation, self.c = nn.Linear(5, width), operation, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.operation(self.a(x)))


def planned(model: nn.Module, x: Tensor, mode: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, ft.Plan]:
    torch.manual_seed(0)
    model = ft.randomize(model.to(dtype).eval())
    return model, ft.plan(model, x, mode=mode)


@pytest.mark.parametrize("exponent", [-5, -3, *EXACT, 4, 5, 7, 11, 2.5, -0.5])
def test_a_power_passes_where_torch_multiplies_it_out(exponent: float) -> None:
    """Exact at 30,000 values in every format, vectorised and not; the others are wrapped, or pinned."""
    x = torch.randn(500, 5, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for mode in ("full", "weights"):
            model, plan = planned(Between(lambda h: h.abs() ** exponent, 64), x.to(dtype), mode, dtype)
            free = mode == "full" or exponent in EXACT
            assert plan.num_free == 64 * free and not plan.opaque
            report = ft.verify(model, plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0)), x.to(dtype))
            assert report.passed and report.bitwise_equal, (dtype, mode, report.first_difference)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("exponent", EXACT)
def test_torch_still_multiplies_these_out(exponent: int, dtype: torch.dtype) -> None:
    """The rule rests on it: every mantissa of bfloat16, 2**18 of the others, in rows that no vector fits too."""
    mantissas = (1 + torch.arange(1 << 18, dtype=torch.float64) / (1 << 18)).to(dtype)
    for x in (mantissas, mantissas[:3999].view(-1, 3)[:, 1]):
        for k in (1, -3, 6):
            assert torch.equal((x * 2.0**k) ** exponent, x**exponent * 2.0 ** (k * exponent))


def cancelled(h: Tensor) -> Tensor:
    """Differences of rows that are equal: +0."""
    return h.roll(1, 0) - h


ZEROS: dict[str, Callable[[Tensor], Tensor]] = {
    "1 / x": lambda h: torch.sigmoid(1 / cancelled(h)),
    "x / y": lambda h: torch.tanh(h / cancelled(h)),
    "reciprocal": lambda h: torch.sigmoid(cancelled(h).reciprocal()),
    "x ** -1": lambda h: torch.sigmoid(cancelled(h) ** -1),
    "x ** -2": lambda h: torch.tanh(cancelled(h) ** -2),
    "x ** -3": lambda h: torch.sigmoid(cancelled(h) ** -3),
    "x ** -0.5": lambda h: torch.tanh(cancelled(h) ** -0.5),
    "rsqrt": lambda h: torch.sigmoid(cancelled(h).rsqrt()),
    "digamma": lambda h: torch.sigmoid(cancelled(h).digamma()),
    "of a product": lambda h: torch.sigmoid(1 / (cancelled(h) * h)),
    "of a negated sum": lambda h: torch.sigmoid(1 / -cancelled(h)),
    "of a rectified sum": lambda h: torch.sigmoid(1 / torch.relu(cancelled(h))),
    "of a maximum": lambda h: torch.sigmoid(1 / torch.maximum(cancelled(h), -h.abs())),
    "of a tanh": lambda h: torch.sigmoid(1 / torch.tanh(cancelled(h))),
    "of a mean": lambda h: torch.sigmoid(1 / cancelled(h).mean(0, keepdim=True)),
    "of a chosen one": lambda h: torch.sigmoid(1 / torch.where(h > 0, cancelled(h), h)),
    "atan of it": lambda h: torch.atan(1 / cancelled(h)),
    "sign of it": lambda h: torch.sign(cancelled(h)) + torch.sign(h),
    "length of it": lambda h: torch.sigmoid(h / cancelled(h).norm(dim=1, keepdim=True)),
    "square of it": lambda h: torch.tanh(1 / cancelled(h).square()),
    "where it is zero": lambda h: torch.where(cancelled(h) == 0, h, 2 * h),
    "its place": lambda h: h * cancelled(h).argmax(1, keepdim=True),
    "heaviside": lambda h: h * torch.heaviside(cancelled(h), torch.tensor(0.5)),
}


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", ZEROS)
def test_a_zero_out_of_a_cancellation(name: str, mode: str) -> None:
    x = torch.randn(1, 5, generator=torch.Generator().manual_seed(0)).repeat(8, 1)
    x[5:] = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    model, plan = planned(Between(ZEROS[name]), x, mode)
    with torch.no_grad():
        want = model(x)
        assert bool((cancelled(model.a(x)) == 0).any())
        for seed in range(6):
            got = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=seed))(x)
            torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


class Single(nn.Module):
    """A layer of one weight an output has no sum in which a -0 would become +0."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.a, self.layer, self.c = nn.Linear(5, 1), layer, nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.sigmoid(1 / self.layer(cancelled(self.a(x))[:, :, None].mT).flatten(1)))


@pytest.mark.parametrize(
    "layer", [nn.Linear(1, 4, bias=False), nn.Conv1d(1, 4, 1, bias=False), nn.ConvTranspose1d(1, 4, 1, bias=False)]
)
def test_a_layer_of_one_weight_an_output(layer: nn.Module) -> None:
    x = torch.randn(1, 5, generator=torch.Generator().manual_seed(0)).repeat(8, 1)
    model = Single(layer)
    model(x)
    model, plan = planned(model, x, "full")
    with torch.no_grad():
        for seed in range(6):
            network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=seed))
            assert torch.equal(network(x), model(x))


def test_a_parameter_may_divide_with_any_sign() -> None:
    """Its zeros are scaled themselves: -0 where the original has +0."""

    class Divided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.by, self.c = nn.Linear(5, 6), nn.Parameter(torch.ones(6)), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.sigmoid(self.a(x) / self.by))

    x = torch.randn(4, 5)
    model, plan = planned(Divided(), x, "full")
    with torch.no_grad():
        model.by[2], model.by[3] = 0.0, -0.0
    assert (plan.solution.allows == 0).all()
    for seed in range(4):
        network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=seed))
        assert torch.equal(network(x), model(x))


CUTS = ("log", "sqrt", "acos", "asin", "atan", "acosh", "asinh", "atanh", "log1p", "rsqrt")


@pytest.mark.parametrize("name", CUTS)
def test_complex_numbers_on_a_branch_cut(name: str) -> None:
    """The sign of a zero part decides on the side; no real factor keeps it."""

    def operation(h: Tensor) -> Tensor:
        real = 64 * h.abs()  # on the cut of most of them, or its negative or imaginary
        zero = cancelled(h)
        parts = [torch.complex(-real, zero), torch.complex(real, zero), torch.complex(zero, real)]
        return sum(getattr(torch, name)(p).imag for p in parts)  # type: ignore[return-value]

    x = torch.randn(1, 5, generator=torch.Generator().manual_seed(0)).repeat(8, 1)
    model, plan = planned(Between(operation), x, "full")
    with torch.no_grad():
        for seed in range(4):
            network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=seed))
            assert torch.equal(network(x), model(x))


def test_a_spectral_norm_by_singular_values_is_wrapped() -> None:
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    for order in (None, "fro", 1, 2, "nuc"):
        for mode in ("full", "weights"):
            for operation in (torch.div, torch.mul):  # the quotient is wrapped as a whole
                function = Between(lambda h, o=order, f=operation: f(h, torch.linalg.norm(h, ord=o)))
                model, plan = planned(function, x, mode)
                network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
                assert torch.equal(network(x), model(x)), (order, mode)
            parts = [w.part for n, w in plan.constrained.wraps.items() if "norm" in n.name]
            assert parts == ([] if mode == "weights" else ["all" if order in (2, "nuc") else "sign"])
