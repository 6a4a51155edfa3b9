"""Forms: what an operation makes of a degree of homogeneity, and of the sign of a zero."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from fxteleport.passes.rules import forms
from fxteleport.passes.rules.forms import Form

X = Form()
CASES: dict[str, tuple[Form | None, Callable[[Tensor], Tensor]]] = {
    "product": (forms.product("mul", False, X, X), lambda x: x * x),
    "scaled": (forms.product("mul", False, X, 3.0), lambda x: x * 3),
    "quotient": (forms.quotient("div", False, X, forms.kept("abs", False, X)), lambda x: x / x.abs()),
    "swapped": (forms.quotient("__rtruediv__", True, X, 1.0), lambda x: 1.0 / x),
    "sum": (forms.total("add", False, X, X), lambda x: x + x),
    "a small number": (forms.total("add", False, forms.square("square", False, X), 1e-6), lambda x: x.square() + 1e-6),
    "cube": (forms.power("pow", False, X, 3), lambda x: x**3),
    "square root": (forms.function("sqrt", False, forms.square("square", False, X)), lambda x: x.square().sqrt()),
    "its inverse": (forms.function("rsqrt", False, forms.square("square", False, X)), lambda x: x.square().rsqrt()),
    "mean": (forms.reduced("mean", False, X, -1, True), lambda x: x.mean(-1, True)),
    "variance": (forms.variance("var", False, X, -1), lambda x: x.var(-1)),
    "length": (forms.reduced("norm", False, X, dim=-1), lambda x: x.norm(dim=-1)),
    "negative": (forms.cast("neg", False, X), lambda x: -x),
}


@pytest.mark.parametrize("name", CASES)
def test_degrees(name: str) -> None:
    form, function = CASES[name]
    assert form is not None and form.degree is not None
    x = 1e3 * (torch.rand(3, 5, dtype=torch.float64) + 0.5)
    for t in (2.0, 0.5):
        assert torch.allclose(function(t * x), t ** float(form.degree) * function(x), rtol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_signs_of_zeros(name: str) -> None:
    """Where none is said to show, and no pole to have two sides, the results are the same to the last bit."""
    form, function = CASES[name]
    zeros = torch.zeros(2, 4, dtype=torch.float64)
    plus, minus = function(zeros), function(-zeros)
    if form is not None and form.is_signless:
        assert torch.equal(torch.signbit(plus), torch.signbit(minus))
    if form is not None and not form.has_poles:
        assert torch.equal(plus.nan_to_num(), minus.nan_to_num())


def test_what_has_no_form() -> None:
    assert forms.product("mul", False, X, forms.function("tanh", False, X)).degree is None
    assert forms.total("add", False, X, forms.square("square", False, X)).exponent is None
    assert forms.total("add", False, X, 1.0).degree is None
    assert forms.kept("rrelu", False, X) is None
    assert forms.cast("dropout", False, X) is None
    assert forms.cast("type_as", False, X, X) is None
    assert forms.power("pow", False, X, X) is None
    assert forms.indexed("getitem", False, X, (..., 0)) is None
    assert forms.clipped("clamp", False, X, 0.0, 6.0).degree is None
    assert forms.reduced("norm", False, X, 0) is None
    assert forms.function("sqrt", False, X).degree == Fraction(1, 2)


def test_poles() -> None:
    assert forms.reciprocal("reciprocal", False, X).has_poles
    assert forms.function("rsqrt", False, X).has_poles
    assert forms.power("pow", False, X, -1).has_poles
    assert not forms.power("pow", False, X, -2).has_poles
    assert not forms.quotient("div", False, X, forms.function("exp", False, X)).has_poles
