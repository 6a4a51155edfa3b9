"""Words: what scaling, runs and reasons look like."""

from __future__ import annotations

import pytest

from fxteleport.explain.groups import Group, monomial
from fxteleport.explain.scalings import Use
from fxteleport.tools.inspection.phrasing import axis_words, by_run, full_words, listed, scaling_words, short_reason

GROUPS = [Group(i, "free", 4, (), "") for i in range(3)] + [Group(3, "pinned", 4, (), "out: it is an output")]


@pytest.mark.parametrize(
    ("uses", "said"),
    [
        ([Use(0, (0,), 0, 4, 1)], "* #0 on axis 0"),
        ([Use(0, (0,), 0, 4, 1), Use(1, (1,), 0, 4, -1)], "* #0 on axis 0, / #1 on axis 1"),
        ([Use(0, (1,), 0, 4, 1), Use(1, (1,), 0, 4, -2)], "* #0 / #1^2 on axis 1"),
        ([Use(0, (1,), 0, 4, -1), Use(1, (1,), 4, 8, -1)], "/ #0[0:4], / #1[4:8] on axis 1"),
        ([Use(0, (1, 3), 0, 4, 1)], "* #0 on axes 1, 3"),
        ([Use(0, (), 0, 1, 1)], "* #0 on all of it"),
        ([Use(3, (0,), 0, 4, 1)], "not scaled"),
        ([], "not scaled"),
    ],
)
def test_scaling(uses: list[Use], said: str) -> None:
    assert scaling_words(uses, GROUPS) == said


def test_runs_keep_their_order() -> None:
    uses = [Use(0, (1,), 0, 4, 1), Use(1, (1,), 4, 8, 1), Use(2, (1,), 0, 4, -1)]
    assert [[u.group for u in run] for run in by_run(uses)] == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ("bn1: its statistics are fixed (norm_stats='rescaled' frees it)", "its statistics are fixed"),
        ("a reason without a node", "a reason without a node"),
        ("two words: and more", "two words: and more"),
    ],
)
def test_reasons_without_node_and_advice(why: str, said: str) -> None:
    assert short_reason(why) == said


def test_groups_in_full() -> None:
    assert full_words(GROUPS[0]) == "4 free"
    assert full_words(GROUPS[3]) == "4 pinned: it is an output"
    assert full_words(Group(0, "free", 1200, (), "", "positive")) == "1,200 free, positive"
    assert full_words(Group(0, "dependent", 4, (), "#1 * #2")) == "4 = #1 * #2"
    assert (
        full_words(Group(0, "dependent", 4, (), "products of values of #1")) == "4 dependent: products of values of #1"
    )


def test_small_words() -> None:
    assert axis_words((0,)) == "axis 0" and axis_words((1, 3)) == "axes 1, 3" and axis_words(()) == "all of it"
    assert listed(["a", "b", "a", "c", "d"], 3) == "a, b, c and 1 more"
    assert monomial([(1, 1), (2, -1), (3, 2)]) == "#1 * #3^2 / #2" and monomial([(1, -1)]) == "1 / #1"
