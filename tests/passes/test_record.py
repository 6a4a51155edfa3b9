"""Records are data classes in all but the guard of their fields."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from fxteleport.passes.record import record


@record()
class Point:
    x: int
    y: int = 0


@record(eq=False)
class Thing:
    x: int


def test_equal_by_their_fields() -> None:
    assert Point(1) == Point(1, 0) != Point(1, 2)
    assert {Point(1): "a"}[Point(1)] == "a"


def test_equal_to_itself_alone() -> None:
    thing = Thing(1)
    assert thing == thing != Thing(1)
    assert len({thing, Thing(1)}) == 2


def test_no_other_fields() -> None:
    with pytest.raises(AttributeError):
        Point(1).z = 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(twin: object) -> None:
    assert callable(twin)
    assert twin(Point(1, 2)) == Point(1, 2)


def test_replaced() -> None:
    assert dataclasses.replace(Point(1, 2), y=3) == Point(1, 3)
