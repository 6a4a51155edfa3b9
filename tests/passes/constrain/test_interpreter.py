"""The interpreter: what no rule knows, or does not look at, is pinned; structures keep the maps of their parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.operand import Operand
from fxteleport.passes.rules.registry import RULES, Rule


class Between(nn.Module):
    """Linear -> an operation -> Linear -> Linear: five neurons behind the operation are always free."""

    def __init__(self, operation: Callable[[Tensor, nn.Module], Tensor]) -> None:
        super().__init__()
        self.first, self.side = nn.Linear(3, 6), nn.Linear(3, 6)
        self.second, self.last = nn.Linear(6, 5), nn.Linear(5, 2)
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.operation(x, self)))


def scattered(x: Tensor, net: Any) -> Tensor:
    return torch.slice_scatter(net.first(x), net.side(x)[:, :2], 1, 0, 2)


def selected(x: Tensor, net: Any) -> Tensor:
    return torch.select_scatter(net.first(x), net.side(x)[:, 1], 1, 3)


def copied(x: Tensor, net: Any) -> Tensor:
    return torch.index_copy(net.first(x), 1, torch.tensor([0, 3]), net.side(x)[:, 1:3])


def by_keyword(x: Tensor, net: Any) -> Tensor:
    return F.gelu(input=net.first(x))


def filled(x: Tensor, net: Any) -> Tensor:
    return net.first(x) * torch.full_like(net.side(x), 2.0)


def drawn(x: Tensor, net: Any) -> Tensor:
    return net.first(x) + torch.as_tensor(net.side(x))


def largest(x: Tensor, net: Any) -> Tensor:
    return net.first(x).reshape(-1, 3, 2).max(2, keepdim=True).values + net.side(x).reshape(-1, 3, 2)


def by_field(x: Tensor, net: Any) -> Tensor:
    return net.first(x) - largest(x, net).reshape(-1, 6)


CASES = [scattered, selected, copied, by_keyword, filled, drawn, by_field]


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("operation", CASES, ids=lambda f: f.__name__)
def test_exact(operation: Callable[[Tensor, Any], Tensor], mode: str, assert_exact: Callable[..., ft.Plan]) -> None:
    plan = assert_exact(Between(operation), torch.randn(2, 3), mode=mode)
    assert plan.num_free >= 5


def test_an_input_by_keyword_is_pinned_with_the_reason() -> None:
    plan = ft.plan(Between(by_keyword), torch.randn(2, 3))
    assert [o.why for o in plan.opaque] == ["'gelu': its input is given by keyword"]
    assert plan.num_free == 5


@dataclasses.dataclass
class Held:
    """An object that hides a tensor from pytree."""

    tensor: Tensor


class Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Held:
        return Held(x * 2 if x.sum() > -1e9 else x)


class Hides(Between):
    def __init__(self) -> None:
        super().__init__(lambda x, net: net.hide(net.first(x)).tensor)
        self.hide = Untraceable()


def test_an_object_that_hides_a_tensor_pins(assert_exact: Callable[..., ft.Plan]) -> None:
    with pytest.warns(ft.OpaqueModuleWarning, match="hide"):
        plan = assert_exact(Hides(), torch.randn(2, 3))
    assert plan.num_free == 5
    assert [o.path for o in plan.opaque] == ["hide"]


class Slices(nn.Module):
    """An activation on a slice of a wider tensor: kernels end its rows elsewhere than a dense tensor's."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.out = nn.Linear(7, 3 * 37), nn.Linear(37, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.wide(x).split([37, 37, 37], dim=-1)
        return self.out(F.silu(b) * torch.tanh(c) + F.gelu(a))


def test_slices_keep_their_layout(assert_exact: Callable[..., ft.Plan]) -> None:
    plan = assert_exact(Slices(), torch.randn(4, 9, 7))
    assert plan.num_free == 2 * 37  # a = b * c


def test_values_that_a_rule_overlooks_pin() -> None:
    """A function of two activations, whose rule knows it as a function of one."""

    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.xlogy(self.a(x), self.b(x).abs()))

    plan = ft.plan(Slope(), torch.randn(2, 3))
    assert plan.num_free == 0
    assert "another tensor shapes" in plan.opaque[0].why


def test_a_map_that_does_not_fit_the_result_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a rule that does not know an argument which is new in torch."""

    def forgetful(call: Call, input: Operand, **settings: Any) -> CobMap:
        return input.map

    rule = Rule("forgetful", forgetful, (("input", Rule.REQUIRED),), open=True)
    monkeypatch.setitem(RULES, torch.movedim, rule)
    plan = ft.plan(Between(lambda x, net: torch.movedim(net.first(x), source=0, destination=1).mT), torch.randn(2, 3))
    assert plan.num_free == 5
    assert [o.why for o in plan.opaque] == ["'movedim': its rule does not know this form of the call"]


def test_wrong_inputs_name_the_module() -> None:
    with pytest.raises(ft.CaptureError, match=r"'first' \(Linear\)"):
        ft.plan(Between(by_keyword), torch.randn(2, 4))


class Windows(nn.Module):
    """Tokens padded to whole windows, with a bias of rows plus one of columns, as image encoders have them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 16), nn.Linear(16, 5)
        self.rows, self.columns = nn.Parameter(torch.randn(64, 16)), nn.Parameter(torch.randn(64, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.embed(x), (0, 0, 0, 4, 0, 4))
        rows, columns = x @ self.rows.T, x.transpose(1, 2) @ self.columns.T
        bias = rows[..., None] + columns.transpose(1, 2)[:, :, :, None, :]
        return self.head(x).sum() + bias.flatten(1, 2).flatten(2).softmax(-1).sum()


def test_maps_stay_as_small_as_what_varies() -> None:
    model = Windows()
    plan = ft.plan(model, torch.randn(1, 60, 60, 3))
    largest = max(
        symbols.numel()
        for node, cob in plan.constrained.maps.items()
        if node.op not in ("get_attr", "output") and cob is not None
        for symbols, _ in cob.factors
    )
    assert plan.num_free == 16
    assert largest <= 64 * 16, "a map over positions is kept where nothing varies with the position"


# Operations that give several tensors, which a model may return as they come.
SEVERAL: dict[str, Callable[[Tensor], Any]] = {
    "topk": lambda x: x.topk(2),
    "sort": lambda x: torch.sort(x, 1, descending=True),
    "max": lambda x: x.max(1),
    "median": lambda x: torch.median(x, 1),
    "mode": lambda x: x.mode(1),
    "kthvalue": lambda x: x.kthvalue(2, 1),
    "aminmax": lambda x: x.aminmax(dim=1),
    "cummax": lambda x: x.cummax(1),
    "std_mean": lambda x: torch.std_mean(x, 1),
    "split": lambda x: x.split(2, 1),
    "chunk": lambda x: x.chunk(3, 1),
    "unbind": lambda x: x.unbind(1),
    "tensor_split": lambda x: torch.tensor_split(x, 4, 1),
    "meshgrid": lambda x: torch.meshgrid(x[0], x[1], indexing="ij"),
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x, x[:1]),
    "svd": lambda x: torch.linalg.svd(x, full_matrices=False),
    "frexp": lambda x: torch.frexp(x),
    "max_pool1d": lambda x: torch.nn.functional.max_pool1d_with_indices(x[:, None], 2),
    "atleast": lambda x: torch.atleast_3d(x, x),
    "nonzero": lambda x: (x > 0).nonzero(as_tuple=True),
    "unique": lambda x: torch.unique((x > 0).long(), return_counts=True),
    "LSTM": nn.LSTM(6, 4),
    "GRU": nn.GRU(6, 4),
    "LSTMCell": nn.LSTMCell(6, 4),
    "attention": lambda x: torch.nn.functional.multi_head_attention_forward(
        x[:, None],
        x[:, None],
        x[:, None],
        6,
        2,
        torch.ones(18, 6),
        None,
        None,
        None,
        False,
        0.0,
        torch.ones(6, 6),
        None,
    ),
}


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", SEVERAL)
def test_several_results_may_be_returned_whole(name: str, mode: str) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.operation = nn.Linear(4, 5), nn.Linear(5, 6), SEVERAL[name]

        def forward(self, x: Tensor) -> Any:
            return self.operation(self.b(torch.relu(self.a(x))))

    model, x = ft.randomize(Whole().eval()), torch.randn(3, 4)
    plan = ft.plan(model, x, mode=mode)
    assert plan.num_free >= 5
    report = ft.verify(model, plan.rewrite(plan.sample(0.9, exact=True, seed=0)), x)
    assert report.bitwise_equal, report
