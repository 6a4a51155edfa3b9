"""Conditions: everything that a trace fixes is one, but for what the model's own code insists on."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, _assert, nn
from torch.utils import _pytree as pytree

import fxteleport as ft
from fxteleport.passes.graph.conditions import KINDS, Condition, in_short
from fxteleport.passes.graph.guards import GUARDS, insist


class Does(nn.Module):
    """Two layers, with something of Python's between them."""

    def __init__(self, does: Callable[[Any], Any]) -> None:
        super().__init__()
        self.up, self.down, self.does = nn.Linear(4, 6), nn.Linear(6, 3), does

    def forward(self, x: Tensor) -> Any:
        return self.down(self.does(self.up(x)))


class Masked(Does):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        h = self.does(self.up(x))
        return self.down(h if mask is None else h * mask)


class Adds(nn.Module):
    def forward(self, x: Tensor, how: Any) -> Tensor:
        return x + (how if isinstance(how, float) else sum(how))


def branches(h: Tensor) -> Tensor:
    return h * 2 if h.shape[0] > 2 else h


def ranks(h: Tensor) -> Tensor:
    return h if h.ndim == 2 else h.mean(1)


def numbers(h: Tensor) -> Tensor:
    return h * [1.0, 2.0, 4.0, 8.0][h.shape[0]]


def types(h: Tensor) -> Tensor:
    return h * 2 if h.dtype == torch.float32 else h


def tables(h: Tensor) -> Tensor:
    return h * {3: 2.0}.get(h.shape[0], 1.0)


class Mode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, h: Tensor) -> Tensor:
        h = self.layer(h)
        return h if not self.training or float(h.detach().sum()) > 0 else -h


FIXED = {
    "a branch": (branches, "branch"),
    "a rank": (ranks, "form"),
    "a number": (numbers, "number"),
    "a type": (types, "form"),
    "a table of sizes": (tables, "number"),
}


def planned(model: nn.Module, *inputs: Any, **keywords: Any) -> ft.Plan:
    return ft.plan(model.eval(), *inputs, mode="weights", **keywords)


@pytest.mark.parametrize("name", FIXED)
def test_what_is_fixed_is_a_condition(name: str) -> None:
    does, kind = FIXED[name]
    found = planned(Does(does), torch.randn(3, 4)).conditions
    assert kind in {c.kind for c in found} <= KINDS.keys()
    line = next(c.source for c in found if c.kind == kind)
    assert __file__ in line
    assert "return" in line  # the text of the line


@pytest.mark.parametrize("name", FIXED)
def test_every_guard_has_its_condition(name: str) -> None:
    plan = planned(Does(FIXED[name][0]), torch.randn(3, 4))
    guarded = [n.args[0].name for n in plan.captured.graph.nodes if n.target in GUARDS and n.target is not insist]  # type: ignore[union-attr]
    assert set(guarded) <= {c.node for c in plan.conditions}


def test_a_mode_without_a_graph() -> None:
    (found,) = planned(Does(Mode()), torch.randn(3, 4)).conditions
    assert (found.kind, found.path) == ("mode", "does")


@pytest.mark.parametrize(("given", "said"), [((1.0,), "input 'how' is 1.0"), (([1.0, 2.0],), "[1.0, 2.0]")])
def test_plain_inputs(given: Any, said: str) -> None:
    (found,) = planned(Adds(), torch.randn(3, 4), *given).conditions
    assert found.kind == "form"
    assert said in found.value


def test_the_structure_of_an_input() -> None:
    found = planned(Adds(), torch.randn(3, 4), [torch.randn(4), torch.randn(4)]).conditions
    assert any("'how' is a list" in c.value for c in found)


def test_an_argument_that_was_not_given() -> None:
    (found,) = planned(Masked(nn.Identity()), torch.randn(3, 4)).conditions
    assert found.value == "forward is not given mask"
    (found,) = planned(Masked(nn.Identity()), torch.randn(3, 4), torch.ones(3, 6)).conditions
    assert found.value == "forward is given mask"


class Optional(nn.Module):
    """What it does with what it is given may not hold where it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor, more: Tensor | None = None, *rest: Tensor, **named: Tensor) -> Tensor:
        h = self.a(x)
        held = [t for t in (more, *rest, *named.values()) if t is not None]
        out: Tensor = self.c(h + sum(map(self.b, held)) if held else torch.tanh(h))
        return out


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("given", [((0,), {}), ((), {"more": 0}), ((None, 0, 0), {}), ((), {"bias": 0})])
def test_a_tensor_that_may_be_left_out(given: Any, mode: str) -> None:
    args, kwargs = pytree.tree_map_only(int, lambda _: torch.randn(3, 6), given)
    model = ft.randomize(Optional().eval())
    plan = ft.plan(model, torch.randn(3, 4), *args, mode=mode, **kwargs)
    assert plan.num_free == 6
    assert any(c.value.startswith("forward is given ") for c in plan.conditions)
    cob, x = plan.sample(exact=True, landscape="inter", seed=0), torch.randn(5, 4)
    network = plan.rewrite(cob)
    tensors = pytree.tree_map_only(Tensor, lambda _: torch.randn(5, 6), (args, kwargs))
    assert torch.equal(network(x, *tensors[0], **tensors[1]), model(x, *tensors[0], **tensors[1]))
    nothing = pytree.tree_map_only(Tensor, lambda _: None, (args, kwargs))
    with pytest.raises(ft.GuardError, match="a tensor"):
        network(x, *nothing[0], **nothing[1])
    if mode == "weights":
        with pytest.raises(ft.ConditionError):
            plan.apply_(cob, model=copy.deepcopy(model), strict=True)


def test_rescaled_statistics_need_eval_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    assert planned(model, torch.randn(3, 4)).conditions == ()
    (found,) = planned(model, torch.randn(3, 4), norm_stats="rescaled").conditions
    assert found.kind == "mode"


# -- what the model insists on itself --------------------------------------------------------------------


_own: dict[str, Any] = {}
exec("def asserted(h):\n    assert h.shape[1] == 6\n    return h", _own)  # pytest makes another thing of an assert
asserted = _own["asserted"]


def raised(h: Tensor) -> Tensor:
    if h.shape[1] != 6:
        raise ValueError("six")
    return h


def unpacked(h: Tensor) -> Tensor:
    b, c = h.shape
    return h.view(b, 2, c // 2).flatten(1)


def checked(h: Tensor) -> Tensor:
    torch._assert(h.shape[1] == 6, f"{h.shape[1]} features")
    torch._assert(h.shape[1] % 2 == 0, f"{h.shape}, " + "not even")
    return h


def imported(h: Tensor) -> Tensor:
    _assert(h.size(0) <= len([h] * 9), "many")
    return h


def checked_rank(h: Tensor) -> Tensor:
    _assert(h.ndim == 2, f"{h.ndim} axes")
    return h


def raised_rank(h: Tensor) -> Tensor:
    if h.dim() != 2:
        raise ValueError(f"{h.dim()} axes")
    return h


def compared_only(h: Tensor) -> Tensor:
    same = h.shape[0] == 3
    torch._assert(True, f"{same}")
    return h * 2 if same else h


def asserted_of_two(h: Tensor) -> Tensor:
    _assert(h.ndim in (2, 3), "two or three")
    return h.sum(1, keepdim=True) * h


def test_a_comparison_that_only_a_message_shows_is_a_branch() -> None:
    assert planned(Does(compared_only), torch.randn(3, 4)).conditions


def test_a_rank_of_which_several_pass_is_a_condition() -> None:
    (found,) = planned(Does(asserted_of_two), torch.randn(3, 4)).conditions
    assert found.value == "'x' has 2 axes"


def test_the_facts_of_a_type_are_none() -> None:
    """They are constants of the emitted network; weights of the original class are not made of them."""

    def does(h: Tensor) -> Tensor:
        return h.masked_fill(torch.arange(6) > 2, torch.finfo(h.dtype).min)

    assert planned(Does(does), torch.randn(3, 4)).conditions == ()


@pytest.mark.parametrize("does", [checked, imported, checked_rank, raised_rank])
def test_what_the_model_asserts_is_none(does: Callable[[Any], Any]) -> None:
    plan = planned(Does(does), torch.randn(3, 4))
    assert plan.conditions == ()
    with pytest.raises(ft.GuardError):  # as the original raises
        plan.rewrite(plan.identity())(torch.randn(10, 3, 4))


@pytest.mark.parametrize("does", [asserted, raised, unpacked])
def test_its_own_checks_are_none(does: Callable[[Any], Any]) -> None:
    assert planned(Does(does), torch.randn(3, 4)).conditions == ()


def tried(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def does(h: Tensor) -> Tensor:
        try:
            return check(h) * 2
        except (AssertionError, ValueError):
            return h

    return does


@pytest.mark.parametrize("does", [asserted, raised, unpacked])
def test_checks_whose_errors_are_caught_are_branches(does: Callable[[Any], Any]) -> None:
    assert planned(Does(tried(does)), torch.randn(3, 4)).conditions


def test_what_was_rolled_back_is_none() -> None:
    """A part that cannot be traced is run as it is: what it asked before decides nothing."""

    class Hard(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            h = branches(h)
            return h if float(h.sum()) > 0 else -h

    with pytest.warns(ft.OpaqueModuleWarning):
        plan = planned(Does(Hard()), torch.randn(3, 4))
    assert plan.opaque
    assert plan.conditions == ()


# -- text ------------------------------------------------------------------------------------------------


def test_in_short() -> None:
    some = [Condition("branch", f"gt_{i}", "a.b" if i else "", "f.py:1: if x", f"gt_{i} is True") for i in range(4)]
    assert in_short(some[:1]) == "the model: gt_0 is True (f.py:1: if x)"
    assert in_short(some, 2).endswith("a.b: gt_1 is True (f.py:1: if x); and 2 more")
    assert planned(Does(branches), torch.randn(3, 4)).specialized == ["the model: gt is True"]


# -- weights have no guard: they say it, or are refused --------------------------------------------------


def test_apply_says_once_what_it_rests_on() -> None:
    model = Does(branches)
    plan = planned(model, torch.randn(3, 4))
    with pytest.warns(ft.ConditionWarning, match="gt is True"):
        plan.apply_(plan.sample(seed=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan.apply_(plan.sample(seed=1))
        free = planned(Does(unpacked), torch.randn(3, 4))
        free.apply_(free.sample(seed=0), strict=True)


def test_strict_refuses_before_anything_is_changed(tmp_path: Path) -> None:
    model, x = Does(branches), torch.randn(3, 4)
    before = copy.deepcopy(model.state_dict())
    plan = planned(model, x)
    cob = plan.sample(seed=0)
    save_file(before, tmp_path / "in.safetensors")
    for refused in (
        lambda: plan.apply_(cob, strict=True),
        lambda: plan.apply_(cob, copy.deepcopy(model), strict=True),
        lambda: ft.stream(plan, cob, tmp_path / "in.safetensors", tmp_path / "out.safetensors", strict=True),
        lambda: ft.teleport(model, x, strict=True),
    ):
        with pytest.raises(ft.ConditionError, match=r"gt is True \(.*return h \* 2 if"):
            refused()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not (tmp_path / "out.safetensors").exists()
    with pytest.warns(ft.ConditionWarning):
        ft.stream(plan, cob, tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    ft.teleport(Does(unpacked).eval(), x, strict=True)


def test_live_weights_say_it_too() -> None:
    live = ft.Teleportable(Does(branches).eval(), torch.randn(3, 4), mode="weights")
    with pytest.warns(ft.ConditionWarning):
        live.teleport_(live.plan.sample(seed=0))
