"""The record of a node's facts."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest
from torch import fx

from fxteleport.passes.graph.node_info import NodeInfo, Trust, describe, describe_copy, info, is_described, update

ROOT = Path(__file__).parents[3]


@pytest.fixture
def node() -> fx.Node:
    return fx.Graph().placeholder("x")


def test_nothing_is_known_of_a_foreign_node(node: fx.Node) -> None:
    assert info(node) == NodeInfo()
    assert not is_described(node)


def test_a_record_is_replaced_not_changed(node: fx.Node) -> None:
    known = NodeInfo(3, Trust.GUESS, "layer1")
    describe(node, known)
    update(node, is_aliased=True)
    assert info(node) == dataclasses.replace(known, is_aliased=True)
    assert not known.is_aliased
    with pytest.raises(dataclasses.FrozenInstanceError):
        info(node).path = "layer2"  # type: ignore[misc]
    with pytest.raises(TypeError):
        update(node, alaised=True)  # a typo is an error


def test_a_copy_has_no_value_and_keeps_the_captured_name(node: fx.Node) -> None:
    describe(node, NodeInfo(3, Trust.GUESS, "layer1", ("model.py", 7), has_effect=True))
    describe_copy(node, "x_1")
    assert info(node) == NodeInfo(path="layer1", source=("model.py", 7), has_effect=True, captured="x_1")
    describe_copy(node, "x_2")  # a copy of the copy
    assert info(node).captured == "x_1"


def test_a_node_that_restores_a_value_stands_for_no_captured_one(node: fx.Node) -> None:
    describe(node, NodeInfo(restores="relu"))
    describe_copy(node, "relu_restore")
    assert info(node) == NodeInfo(restores="relu")


def test_no_other_file_touches_the_meta_of_a_node() -> None:
    """A graph module's `meta` is another thing: what it keeps of its making."""
    owners = {"self", "gm", "module", "network", "kind", "made"}
    for path in (p for folder in ("passes", "fxteleport", "tools") for p in (ROOT / folder).rglob("*.py")):
        for x in ast.walk(ast.parse(path.read_text())) if path.name != "node_info.py" else ():
            if isinstance(x, ast.Attribute) and x.attr == "meta":
                assert isinstance(x.value, ast.Name), f"{path}:{x.lineno}"
                assert x.value.id in owners, f"{path}:{x.lineno}"
