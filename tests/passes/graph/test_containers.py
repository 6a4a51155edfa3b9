"""Containers are taken apart and made anew without loss, whatever their kind."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxteleport.passes.graph.containers import SEQUENCES, held, is_record, kind_of, leaves, mapped, parts, spelled
from fxteleport.passes.graph.contents import Contents, contents_in


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass(frozen=True)
class Record:
    first: Any
    second: Any = None


class Output(collections.OrderedDict[str, Any]):
    """A dictionary whose items are attributes, too, as transformers' outputs are; it must be given something."""

    def __new__(cls, first: Any = None, **items: Any) -> Output:
        return super().__new__(cls)

    def __init__(self, first: Any, **items: Any) -> None:
        super().__init__(first=first, **items)
        self.__dict__.update(self)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    items = st.lists(inner, min_size=1, max_size=3)
    table = st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, min_size=1, max_size=3)
    return st.one_of(
        items,
        items.map(tuple),
        items.map(lambda x: collections.deque(x, maxlen=5)),
        table,
        table.map(collections.OrderedDict),
        table.map(lambda x: collections.defaultdict(list, x)),
        st.builds(Pair, inner, inner),
        st.builds(Record, inner, inner),
        st.builds(Output, inner, second=inner),
        st.builds(slice, inner, inner, inner),
    )


LEAVES = st.one_of(st.integers(0, 9), st.none(), st.booleans(), st.text("xyz", max_size=2))
STRUCTURES = st.recursive(LEAVES, containers, max_leaves=8)


@given(STRUCTURES)
def test_a_container_of_the_same_values_is_equal_and_of_the_same_class(x: Any) -> None:
    made = mapped(x, lambda value: value)
    assert type(made) is type(x)
    assert made == x
    assert made is not x or kind_of(type(x)) is None
    assert vars(made) == vars(x) if hasattr(x, "__dict__") else True
    assert getattr(made, "maxlen", None) == getattr(x, "maxlen", None)
    assert getattr(made, "default_factory", None) is getattr(x, "default_factory", None)


@given(STRUCTURES)
def test_keys_read_the_values(x: Any) -> None:
    kind = kind_of(type(x))
    assert [value for _, value in parts(x)] == list(held(x))
    for key, value in parts(x):
        assert kind is not None
        assert kind.read(x, key) is value
        assert eval("x" + spelled(x, key), {"x": x}) is value


@given(STRUCTURES)
def test_mapping_leaves_commutes_with_collecting_them(x: Any) -> None:
    def turned(x: Any) -> Any:
        return str(x) if kind_of(type(x)) is None else mapped(x, turned)

    assert list(leaves(turned(x))) == [str(value) for value in leaves(x)]


@given(STRUCTURES)
def test_what_is_taken_out_is_put_back(x: Any) -> None:
    def copied(x: Any) -> Any:
        return mapped(x, copied)

    before, watched = copied(x), contents_in(x)
    assert not any(one.changed() for one in watched)
    for one in watched:
        one.container.clear()
    assert all(one.changed() == bool(one.before) for one in watched)
    for one in watched:
        one.restore()
    assert x == before


def test_what_holds_itself_is_watched_once() -> None:
    x: list[Any] = [1]
    x.append(x)
    assert len(contents_in(x)) == 1


@pytest.mark.parametrize("container", [[1, 2], {1, 2}, {"a": 1}, collections.deque([1]), collections.OrderedDict(a=1)])
def test_contents_see_what_is_added_and_taken_away(container: Any) -> None:
    watched = Contents(container)
    taken = container.popitem() if isinstance(container, dict) else container.pop()
    assert watched.changed()
    if isinstance(container, dict):
        container.update([taken])
    else:
        (container.add if isinstance(container, set) else container.append)(taken)
    assert not watched.changed()


def test_equal_values_stay_apart() -> None:
    """Two items of a dictionary that are one object now need not be one in the container that is made."""
    one = object()
    kind = kind_of(Output)
    assert kind is not None
    made = kind.like(Output(one, second=one), [1, 2])
    assert dict(made) == vars(made) == {"first": 1, "second": 2}


def test_kinds() -> None:
    assert kind_of(torch.Size) in SEQUENCES
    assert kind_of(type(torch.ones(2).max(0))) in SEQUENCES
    assert is_record(Record(1))
    assert not is_record(Record)
    assert not is_record(Output(1))
    assert kind_of(set) is kind_of(str) is kind_of(torch.Tensor) is None
