"""Forms: how a value depends on one tensor x, with everything else constant.

`@rule(..., form=...)` gives an operation's: a function of the call's arguments, with forms in place of those computed
from x. It returns the form of the result, or None where that is unknown. `constrain/regions.py` tells by these which
part of a graph is elementwise, and which is a norm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from torch import Tensor

SMALL = 1e-2  # a number up to this that is added counts as an epsilon, which homogeneity ignores


@dataclass(frozen=True, slots=True)
class Form:
    """How a value depends on x.

    Attributes:
        degree: of homogeneity, f(t x) = t^degree f(x) for t > 0, ignoring epsilons; None if it has none.
        exponent: of x's CoB in the value's, by the rules of the operations; None if they do not agree on one.
        is_elementwise: each of its elements depends on x's element at the same position alone.
        is_signless: it is the same bit for bit whether a zero of x is +0 or -0.
        has_poles: it is infinite at a zero of x, with the sign of the zero.
    """

    degree: Fraction | None = Fraction(1)
    exponent: Fraction | None = Fraction(1)
    is_elementwise: bool = True
    is_signless: bool = False
    has_poles: bool = False

    def to(self, power: Fraction | int) -> Form:
        """The form of the value to this power."""
        degree = None if self.degree is None else self.degree * power
        return replace(self, degree=degree, exponent=None if self.exponent is None else self.exponent * power)

    def inverted(self) -> Form:
        """The form of 1 / value."""
        return replace(self.to(-1), has_poles=self.has_poles or not self.is_signless)


def both(a: Form, b: Form, degree: Fraction | None, exponent: Fraction | None) -> Form:
    """The form of two values combined element by element."""
    elementwise, signless = a.is_elementwise and b.is_elementwise, a.is_signless and b.is_signless
    return Form(degree, exponent, elementwise, signless, a.has_poles or b.has_poles)


def sum_of(a: Fraction | None, b: Fraction | None) -> Fraction | None:
    return None if a is None or b is None else a + b


def number(x: Any) -> float | None:
    """A number, or the one value of a tensor; None for anything else."""
    if isinstance(x, Tensor):
        return float(x) if x.numel() == 1 and not x.is_meta and not x.is_complex() else None
    return float(x) if isinstance(x, (int, float)) and not isinstance(x, bool) else None


def is_small(x: Any) -> bool:
    value = number(x)
    return value is not None and abs(value) <= SMALL


# -- the forms of operations -----------------------------------------------------------------------------
# `name` is the operation's, and `swapped` is True for a method such as `__rsub__`, whose arguments are the other way.


def product(name: str, swapped: bool, a: Any, b: Any) -> Form | None:
    if not (isinstance(a, Form) and isinstance(b, Form)):
        return a if isinstance(a, Form) else b  # type: ignore[no-any-return]
    return both(a, b, sum_of(a.degree, b.degree), sum_of(a.exponent, b.exponent))


def quotient(name: str, swapped: bool, a: Any, b: Any, rounding_mode: Any = None) -> Form | None:
    if rounding_mode is not None:
        return None
    a, b = (b, a) if swapped else (a, b)
    return product(name, False, a, b.inverted() if isinstance(b, Form) else b)


def total(name: str, swapped: bool, a: Any, b: Any, alpha: Any = 1) -> Form | None:
    if isinstance(a, Form) and isinstance(b, Form):
        return both(a, b, a.degree if a.degree == b.degree else None, a.exponent if a.exponent == b.exponent else None)
    x, c = (a, b) if isinstance(a, Form) else (b, a)
    if number(c) == 0:
        return x  # type: ignore[no-any-return]
    return replace(x, degree=x.degree if is_small(c) else None, exponent=None, is_signless=True)


def power(name: str, swapped: bool, x: Any, exponent: Any) -> Form | None:
    value = number(exponent)
    if swapped or not isinstance(x, Form) or value is None:
        return None
    fraction = Fraction(value).limit_denominator(64)
    raised = x.to(fraction)
    if value.is_integer() and int(value) % 2:
        return raised if value > 0 else replace(raised, has_poles=x.has_poles or not x.is_signless)
    return replace(raised, is_signless=True)


def square(name: str, swapped: bool, x: Form) -> Form:
    return replace(x.to(2), is_signless=True)


def reciprocal(name: str, swapped: bool, x: Form) -> Form:
    return x.inverted()


def kept(name: str, swapped: bool, x: Any, *rest: Any, **settings: Any) -> Form | None:
    """A positively homogeneous function, element by element."""
    if not isinstance(x, Form) or name == "rrelu" or _any_form(rest, settings):
        return None
    return replace(x, is_signless=True) if name in ("abs", "absolute") else x


_CASTS = frozenset(
    "clone contiguous detach to type float double half bfloat16 neg negative pos positive Identity".split()
)


def cast(name: str, swapped: bool, x: Any, *rest: Any, **settings: Any) -> Form | None:
    return x if name in _CASTS and isinstance(x, Form) and not _any_form(rest, settings) else None


_WITHOUT_SIGN = frozenset("exp exp2 sigmoid expit cosh cos softplus erfc Sigmoid Softplus".split())


def function(name: str, swapped: bool, x: Any, *rest: Any, **settings: Any) -> Form | None:
    """Any function of one element; its rule gives it the CoB of x."""
    if not isinstance(x, Form) or _any_form(rest, settings):
        return None
    if name in ("sqrt", "rsqrt"):
        root = replace(x.to(Fraction(1, 2)), exponent=x.exponent)
        return root if name == "sqrt" else replace(root.inverted(), exponent=x.exponent)
    sign = x.is_signless or name in _WITHOUT_SIGN
    poles = x.has_poles or (name in ("digamma", "psi") and not x.is_signless)
    return replace(x, degree=Fraction(0) if x.degree == 0 else None, is_signless=sign, has_poles=poles)


def clipped(name: str, swapped: bool, x: Any, low: Any = None, high: Any = None, **settings: Any) -> Form | None:
    """Clamped: from below by a small number only, this is an epsilon."""
    low, high = settings.get("min", low), settings.get("max", high)
    if not isinstance(x, Form) or _any_form((low, high), {}) or name == "clamp_max":
        return None
    return replace(x, degree=x.degree if high is None and is_small(low) else None)


def reduced(name: str, swapped: bool, x: Any, *rest: Any, **settings: Any) -> Form | None:
    """A mean, a sum, a norm or a maximum over some axes."""
    if not isinstance(x, Form) or _any_form(rest, settings):
        return None
    order = settings.get("ord", settings.get("p", rest[0] if rest and name == "norm" else 2))
    signless = x.is_signless or name in ("norm", "vector_norm", "std")
    return replace(x, is_elementwise=False, is_signless=signless) if order != 0 else None


def variance(name: str, swapped: bool, x: Any, *rest: Any, **settings: Any) -> Form | None:
    return None if (squared := reduced(name, swapped, x, *rest, **settings)) is None else square(name, False, squared)


def spread(name: str, swapped: bool, x: Any, *rest: Any, **settings: Any) -> tuple[Form, Form] | None:
    """A variance, or a deviation, and a mean."""
    mean = reduced(name, swapped, x, *rest, **settings)
    if mean is None:
        return None
    return (square(name, False, mean) if name == "var_mean" else replace(mean, is_signless=True)), mean


def indexed(name: str, swapped: bool, x: Any, *index: Any, **settings: Any) -> Form | None:
    """`x[..., None]`: all of it, with one more axis."""
    items = index[0] if len(index) == 1 and isinstance(index[0], tuple) else index
    everything = name == "getitem" and all(item is None or item is ... or item == slice(None) for item in items)
    return replace(x, is_elementwise=False) if everything and isinstance(x, Form) else None


def expanded(name: str, swapped: bool, x: Any, *rest: Any, **settings: Any) -> Form | None:
    return replace(x, is_elementwise=False) if isinstance(x, Form) else None  # `expand_as` reads only a shape of others


def unsqueezed(name: str, swapped: bool, x: Any, *rest: Any, **settings: Any) -> Form | None:
    """With one more axis of size 1, where a reduced value meets what it was reduced from."""
    return replace(x, is_elementwise=False) if name == "unsqueeze" and isinstance(x, Form) else None


def _any_form(rest: Any, settings: Any) -> bool:
    return any(isinstance(r, Form) for r in (*rest, *settings.values()))
