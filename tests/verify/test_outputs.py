"""All outputs are compared, of all kinds; what tells nothing is named."""

from __future__ import annotations

import copy
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.verify.outputs import outputs

X = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
Pair = namedtuple("Pair", "a b")
Turned = namedtuple("Turned", "b a")


@dataclass
class Record:
    hidden: Tensor
    places: Tensor | None = None


class Box:
    def __init__(self, inside: Any) -> None:
        self.inside = inside


class Slots:
    __slots__ = ("inside",)

    def __init__(self, inside: Any) -> None:
        self.inside = inside


class Net(nn.Module):
    """A layer, and a function that puts something out."""

    def __init__(self, out: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.out = nn.Linear(5, 6), out

    def forward(self, x: Tensor) -> Any:
        return self.out(self.layer(x))


# Two networks that differ in something that has no fractions: `verify` must say so.
DIFFERENT: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Any], str]] = {
    "integers": (lambda h: (h, h.argmax(1)), lambda h: (h, h.argmin(1)), "output[1]"),
    "a mask": (lambda h: {"h": h, "mask": h > 0}, lambda h: {"h": h, "mask": h < 0}, "output['mask']"),
    "a number": (lambda h: (h, 1), lambda h: (h, 2), "output[1]"),
    "a flag": (lambda h: [h, True], lambda h: [h, False], "output[1]"),
    "a text": (lambda h: (h, "a"), lambda h: (h, "b"), "output[1]"),
    "in a record": (lambda h: Record(h, h.argmax(1)), lambda h: Record(h, h.argmin(1)), "output.places"),
    "in an object": (lambda h: Box([h, h.argmax(1)]), lambda h: Box([h, h.argmin(1)]), "output.inside[1]"),
    "in slots": (lambda h: Slots([h, h.argmax(1)]), lambda h: Slots([h, h.argmin(1)]), "output.inside[1]"),
    "a type": (lambda h: (h, torch.float32), lambda h: (h, torch.float64), "output[1]"),
    "integers alone": (lambda h: h.argmax(1), lambda h: h.argmin(1), "output"),
    "a byte of fractions": (
        lambda h: (h, h.to(torch.float8_e4m3fn)), lambda h: (h, (2 * h).to(torch.float8_e4m3fn)), "output[1]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DIFFERENT)
def test_outputs_without_fractions_are_compared(kind: str) -> None:
    one, other, path = DIFFERENT[kind]
    assert ft.verify(Net(one), Net(one), X).passed
    report = ft.verify(Net(one), Net(other), X)
    assert not report.passed and not report.bitwise_equal
    assert report.verdict == "different" and report.different_output == path


@pytest.mark.parametrize(
    "inside",
    [
        lambda h: Box(h),
        lambda h: Slots(h),
        lambda h: [{"a": (h,)}],
        lambda h: Record(h),
        lambda h: Pair(h, h),
        lambda h: deque([h]),
        lambda h: torch.nested.nested_tensor([h, h[:2]]),
    ],
)
def test_tensors_in_any_container_are_compared(inside: Callable[[Tensor], Any]) -> None:
    assert ft.verify(Net(inside), Net(inside), X).passed
    assert not ft.verify(Net(inside), Net(lambda h: inside(h + 1e-3)), X).passed


@pytest.mark.parametrize("constant", [-1e9, 1e5])
def test_a_masks_constant_is_no_scale_for_the_others(constant: float) -> None:
    def masked(by: float) -> Net:
        return Net(lambda h: (h + by).masked_fill(X[:, :1] > 0, constant))

    def added(by: float) -> Net:
        return Net(lambda h: (h + by) + (X[:, :1] > 0) * constant)

    for net in masked, added:
        assert ft.verify(net(0.0), net(0.0), X).passed
        assert ft.verify(net(0.0), net(0.3), X).verdict == "different"


def test_dictionaries_are_compared_by_key() -> None:
    one, turned = Net(lambda h: {"a": h, "b": h.exp()}), Net(lambda h: {"b": h.exp(), "a": h})
    assert ft.verify(one, turned, X).passed
    assert not ft.verify(one, Net(lambda h: {"b": h, "a": h.exp()}), X).passed


STRUCTURES: dict[str, Callable[[Tensor], Any]] = {
    "a tensor": lambda h: h,
    "a tuple": lambda h: (h,),
    "a list": lambda h: [h],
    "two": lambda h: (h, h),
    "a name": lambda h: {"a": h},
    "another name": lambda h: {"b": h},
    "an ordered dictionary": lambda h: OrderedDict(a=h),
    "a named tuple": lambda h: Pair(h, h),
    "other names": lambda h: Turned(h, h),
    "None beside it": lambda h: (h, None),
    "a number beside it": lambda h: (h, 1),
    "a broken number beside it": lambda h: (h, 1.0),
    "another type": lambda h: h.double(),
    "another layout": lambda h: h.to_sparse(),
}


def test_other_structures_are_an_error() -> None:
    for name, one in STRUCTURES.items():
        for other_name, other in STRUCTURES.items():
            if name == other_name:
                assert ft.verify(Net(one), Net(other), X).passed
                continue
            with pytest.raises(ft.InputError, match=r"different (structures|types)"):
                ft.verify(Net(one), Net(other), X)


def test_an_object_that_holds_itself() -> None:
    box = Box(None)
    box.inside = [box, X]
    assert [p for p, v in outputs(box).items() if isinstance(v, Tensor)] == ["output.inside[1]"]


class Masked(nn.Module):
    """An image and its mask, which filled inputs make constant."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.b(torch.relu(self.a(x))), mask


def test_a_constant_output_is_named_and_the_others_decide() -> None:
    model, mask = ft.randomize(Masked().eval()), torch.ones(8, 1)
    plan = ft.plan(model, X, mask)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    report = ft.verify(model, network, X, mask)
    assert report.passed and not report.vacuous and report.constant_outputs == ("output[1]",)
    with torch.no_grad():
        network.get_parameter("b.bias").add_(1)
    assert not ft.verify(model, network, X, mask).passed
    infinite = ft.verify(model, copy.deepcopy(model), X, mask * float("-inf"))
    assert infinite.passed and infinite.constant_outputs == ("output[1]",)


def test_outputs_that_are_all_constant_tell_nothing() -> None:
    for out in (lambda h: h * 0, lambda h: (h * 0, h > 0, 2.5), lambda h: (h * 0, h.sum() * 0), lambda h: 2.0):
        report = ft.verify(Net(out), Net(out), X)
        assert report.vacuous and not report.passed and report.verdict == "vacuous"


def test_a_mask_alone_tells() -> None:
    assert ft.verify(Net(lambda h: h > 0), Net(lambda h: h > 0), X).passed
