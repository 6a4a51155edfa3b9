"""Completeness: the solver finds as many free values as there are function-preserving rescalings."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings
from random_networks import Script, Step, grown, scripts
from random_operations import OPERATIONS
from rescalings import Unclear, dimension

import fxteleport as ft
from fxteleport.passes.domain.solution import UNIT

MODES = [("full", "fixed"), ("full", "rescaled"), ("full", "wrapped"), ("weights", "fixed"), ("weights", "rescaled")]
PLAIN = [name for name, operation in OPERATIONS.items() if operation.plain]
COMPLETE = [name for name in PLAIN if not OPERATIONS[name].gives_up]
SHARDS, PER_SHARD = 4, 500


def magnitudes(script: Script, mode: str, norm_stats: str) -> int:
    """The free values that have a magnitude: a derivative does not see those that are only a sign."""
    model, inputs = script.make()
    plan = ft.plan(model, *inputs, mode=mode, norm_stats=norm_stats)
    return int((plan.solution.allows != UNIT).sum())


def small(names: list[str]) -> st.SearchStrategy[Script]:
    return scripts(names=names, most=8, size=32, dtypes=[torch.float64], sized=False)


def compare(script: Script, equal: bool) -> None:
    """Hold the solver's number against the brute-force one in every mode: equal, or not more.

    What has no effect may have any scale. The solver counts it where a parameter meets structural zeros only.
    """
    zeros = any(OPERATIONS[step.operation].gives_up == OPERATIONS["zeros"].gives_up for step in script.steps)
    normed = any("BatchNorm" in step.operation for step in script.steps)
    for mode, norm_stats in MODES:
        if norm_stats != "fixed" and not normed:
            continue
        found = magnitudes(script, mode, norm_stats)
        try:
            there = dimension(script, mode, norm_stats, silent=zeros)
        except Unclear:
            assume(False)
        assert found == there if equal else found <= there, (
            f"{mode} {norm_stats}: the solver finds {found} free values of {there}"
        )


@settings(max_examples=40)
@given(small(COMPLETE))
def test_neither_too_much_nor_too_little_is_pinned(script: Script) -> None:
    compare(script, equal=True)


@settings(max_examples=20)
@given(small(PLAIN))
def test_never_too_little_is_pinned(script: Script) -> None:
    compare(script, equal=False)


@pytest.mark.slow
@pytest.mark.parametrize("names", [COMPLETE, PLAIN], ids=["complete", "plain"])
@pytest.mark.parametrize("shard", range(SHARDS))
def test_many(names: list[str], shard: int) -> None:
    @hypothesis.seed(shard)
    @settings(max_examples=PER_SHARD, derandomize=False)
    @given(small(names))
    def run(script: Script) -> None:
        compare(script, equal=names is COMPLETE)

    run()


LINEAR = ("Linear", (0,), (3,))  # four outputs

# What the rules give up: mode, steps, free values found, free values there.
GIVEN_UP: dict[str, tuple[str, list[tuple[str, tuple[int, ...], tuple[int, ...]]], int, int]] = {
    "windows of a pool": ("full", [LINEAR, ("AvgPool1d", (1,), (0, 0, 1, 0)), ("head", (2,), ())], 1, 2),
    "positions that nothing ties": ("full", [LINEAR, ("bare Conv1d", (1,), (0, 1, 1)), ("head", (2,), ())], 2, 5),
    "a product of axes": ("full", [LINEAR, ("mul parameter", (1,), (0, 1, 0, 1)), ("head", (2,), ())], 10, 16),
    "positions that a linear without bias keeps apart": (
        "full",
        [LINEAR, ("class token", (1,), ()), ("silu", (2,), ()), ("bare Linear", (3,), ()), ("head", (4,), ())],
        6,
        7,
    ),
    "rows of an embedding": ("full", [("Conv1d", (0,), (0, 0, 1)), ("Embedding", (1,), ()), ("head", (2,), ())], 1, 2),
    "a mask": ("full", [LINEAR, ("reciprocal", (1,), ()), ("where", (1, 2), ()), ("head", (3,), ())], 0, 4),
    "cross attention": ("full", [LINEAR, LINEAR, ("cross MultiheadAttention", (1, 2), ()), ("head", (3,), ())], 16, 20),
    "positions that an index picks": (
        "full",
        [LINEAR, LINEAR, ("index_add", (1, 2), (1,)), ("head", (3,), ()), ("head", (2,), ())],
        4,
        7,
    ),
    "a length": ("weights", [LINEAR, ("normalize", (1,), ()), ("head", (2,), ())], 0, 1),
}


@pytest.mark.parametrize("name", GIVEN_UP)
def test_what_is_given_up(name: str) -> None:
    mode, steps, found, there = GIVEN_UP[name]
    script = Script(torch.float64, ((2, 3, 4),))
    for step in steps:
        more = grown(script, Step(*step))
        assert more is not None, step
        script = more[0]
    assert (magnitudes(script, mode, "fixed"), dimension(script, mode, "fixed")) == (found, there)
