"""The registry of rules: third parties register their own; duplicates are refused."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.domain.cob_map import IDENTITY
from fxteleport.passes.rules.registry import RULES, lookup, named, rule


@pytest.fixture
def torchs_operations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The operations that torch tests itself on. Importing them would forbid other tests to set backends' flags."""
    monkeypatch.setattr(torch.backends, "disable_global_flags", lambda: None)
    from torch.testing._internal.common_methods_invocations import op_db

    return list(op_db)


@pytest.fixture
def registry() -> Iterator[None]:
    """Rules that a test registers are forgotten afterwards."""
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


class Doubled(nn.Module):
    """A user's operation, which no rule knows and no trace enters."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x) * 0 + 2 * x


@pytest.mark.usefixtures("registry")
def test_a_third_party_rule() -> None:
    def user_function(x: Tensor) -> Tensor:
        return torch.special.i0(x)

    model = nn.Sequential(nn.Linear(3, 5), _Function(torch.special.i0), nn.Linear(5, 2))
    x = torch.randn(2, 3)
    assert ft.plan(model, x).num_free == 0

    @rule(torch.special.i0)
    def i0(call: Any, input: Any) -> Any:
        cob = input.map.settled()
        call.wrap(cob, cob)
        return cob

    plan = ft.plan(ft.randomize(model), x)
    assert plan.num_free == 5
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert ft.verify(model, network, x).bitwise_equal
    assert user_function(x).shape == x.shape


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(("uses", "is_known"), [("nothing", False), ("map", True), ("require", True), ("shape", True)])
def test_a_rule_must_use_each_operand_that_may_carry_a_cob(uses: str, is_known: bool) -> None:
    """Else the call has a form that the rule was not written for: its contract (`Rule.apply`)."""

    @rule(torch.special.i0)
    def i0(call: Any, input: Any) -> Any:
        if uses == "map":
            call.pin(input.map, "it depends on its scale")
        elif uses == "require":
            call.require(input, IDENTITY, "it depends on its scale")
        elif uses == "shape":
            call.shape_only(input)  # untrue of this operation: the rule answers for what it says
        return IDENTITY

    plan = ft.plan(nn.Sequential(nn.Linear(3, 5), _Function(torch.special.i0)), torch.randn(2, 3))
    assert [o.why for o in plan.opaque] == (
        [] if is_known else ["'special_i0': its rule does not look at one of its tensors"]
    )


class _Function(nn.Module):
    def __init__(self, fn: Any) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x)


@pytest.mark.usefixtures("registry")
def test_a_rule_that_fails_pins_and_says_so() -> None:
    @rule(torch.special.i0)
    def broken(call: Any, input: Any) -> Any:
        raise ValueError("this rule is broken")

    model = nn.Sequential(nn.Linear(3, 5), _Function(torch.special.i0), nn.Linear(5, 2))
    plan = ft.plan(model, torch.randn(2, 3), checks=False)
    assert plan.num_free == 0
    assert "this rule is broken" in plan.opaque[0].why
    with pytest.raises(ft.RuleError, match=r"the rule of special_i0 \(special_i0\) fails: this rule is broken"):
        ft.plan(model, torch.randn(2, 3), checks=True)


@pytest.mark.usefixtures("registry")
def test_a_rule_that_declines_half_way_leaves_no_constraint() -> None:
    @rule(torch.special.i0)
    def half(call: Any, input: Any) -> Any:
        call.pin(input.map, "half way")
        call.fresh((3,))
        call.decline("not today")

    plan = ft.plan(nn.Sequential(nn.Linear(3, 5), _Function(torch.special.i0), nn.Linear(5, 2)), torch.randn(2, 3))
    assert "not today" in plan.opaque[0].why
    assert not any("half way" in g.why for g in plan.groups)


@pytest.mark.usefixtures("registry")
def test_duplicates_and_nonsense_are_refused() -> None:
    with pytest.raises(ft.RuleError, match="already has"):
        rule(F.gelu)(lambda call, input: None)
    with pytest.raises(ft.RuleError):
        rule(3)(lambda call, input: None)


def test_every_spelling_has_the_rule() -> None:
    assert {torch.relu, F.relu, torch.relu_, F.relu_, "relu", "relu_"} <= set(named("relu"))
    assert {"add", "add_", "__add__", "__radd__", "__iadd__", torch.add} <= set(named("add"))
    for spelling in named("relu"):
        assert RULES[spelling] is RULES[torch.relu]


def test_modules_are_looked_up_by_their_nearest_class() -> None:
    class Mine(nn.Linear):
        pass

    assert lookup("call_module", Mine(2, 3)) is RULES[nn.Linear]
    assert lookup("call_module", nn.Module()) is None
    assert lookup("call_method", "no_such_method") is None


def test_every_rule_is_documented_by_its_family() -> None:
    for found in {r.name: r for r in RULES.values()}.values():
        module = __import__(found.fn.__module__, fromlist=["x"])
        assert module.__doc__


@pytest.mark.usefixtures("registry")
def test_a_rule_that_declines_leaves_nothing_behind() -> None:
    """Free values that it made, and constraints."""

    @rule(torch.special.bessel_j0)
    def bessel(call: Any, input: Any) -> Any:
        out = call.fresh(input.shape)
        call.same(out, input.map, "for now")
        call.decline("it changed its mind")

    class Bessel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.special.bessel_j0(self.a(x)))

    plan = ft.plan(Bessel(), torch.randn(2, 3))
    assert plan.num_free == 0
    assert [o.why for o in plan.opaque] == ["'special_bessel_j0': it changed its mind"]


def test_an_alias_has_a_rule_where_its_twin_has(torchs_operations: list[Any]) -> None:
    """torch's own table of operations names the aliases of each."""
    for operation in torchs_operations:
        names = [operation.name, *(alias.name for alias in operation.aliases)]
        functions = [f for f in map(resolved, names) if callable(f)]
        assert len({f in RULES for f in functions}) <= 1, names
        methods = [name for name in names if callable(getattr(torch.Tensor, name, None))]  # `mH` is an attribute
        assert len({name in RULES for name in methods}) <= 1, names


def resolved(name: str) -> Any:
    """`torch.name`, where there is one."""
    return functools.reduce(lambda space, part: getattr(space, part, None), name.split("."), torch)
