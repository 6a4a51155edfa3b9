"""Facts about nodes: what teleportation did to each of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

import fxteleport as ft
from fxteleport.tools.checking.session import Run, compare, run
from fxteleport.tools.inspection.node_facts import ADDED, WRAPPED, NodeFacts, node_facts
from fxteleport.tools.models.load import Loaded
from fxteleport.tools.options.common import Settings
from fxteleport.verify import in_step


@pytest.fixture(scope="module")
def facts(done: Run) -> dict[str, NodeFacts]:
    return {fact.name: fact for fact in node_facts(done)}


def test_every_node_of_the_rewritten_graph_is_there(facts: dict[str, NodeFacts], done: Run, hostile: str) -> None:
    assert list(facts) == [n.name for n in done.network.graph.nodes]
    assert all(set(f.inputs) <= facts.keys() for f in facts.values())
    assert facts["stem"].modules == () and facts["stem"].path == "stem"
    inner = [f for f in facts.values() if f.modules == ("blocks", hostile)]
    assert [f.op for f in inner if f.change != ADDED] == ["Conv2d", "GELU", "Conv2d"]


def test_groups_and_cobs_are_those_of_the_values(facts: dict[str, NodeFacts], done: Run) -> None:
    stem, gelu = facts["stem"], next(f for f in facts.values() if f.op == "GELU")
    assert stem.kind == "free" and len(stem.groups) == 1 and stem.cob is not None
    assert stem.groups == facts["relu"].groups == facts["add"].groups != gelu.groups
    assert facts["relu"].change == gelu.change == WRAPPED
    tau = done.plan.tau(done.cob)[done.plan.map_of("stem").factors[0][0]].abs()
    assert (stem.cob.low, stem.cob.high) == (float(tau.min()), float(tau.max()))
    assert stem.cob.doublings == pytest.approx(float(tau.log2().abs().mean()))
    for name in ("x", "head"):
        assert facts[name].kind == "pinned" and facts[name].cob is not None and facts[name].cob.doublings == 0
    rescale = next(f for f in facts.values() if f.change == ADDED)
    assert rescale.cob is not None and rescale.cob.high == 1 and rescale.shape == facts[rescale.inputs[0]].shape


def test_what_moved(facts: dict[str, NodeFacts], done: Run) -> None:
    held = [f for f in facts.values() if f.parameters]
    assert sum(f.parameters for f in held) == done.loaded.parameters
    moved = sum(f.parameters * f.moved for f in held if f.moved is not None)
    assert moved / done.loaded.parameters == pytest.approx(done.plan.moved)
    assert 0 < facts["head"].moved < 1  # type: ignore[operator]  # its bias does not move


def test_errors_are_zero_where_scaling_is_exact(make_run: Callable[..., Run], done: Run) -> None:
    model = copy.deepcopy(done.loaded.model)
    exact = make_run(model, *done.loaded.args, exact=True)
    errors = {f.name: f.error for f in node_facts(exact)}
    assert {e for e in errors.values() if e is not None} == {0.0}
    without = [name for name, error in errors.items() if error is None]
    assert len(without) <= 3, without  # sizes, and guards


def test_an_error_is_told_at_its_node(make_run: Callable[..., Run], done: Run) -> None:
    exact = make_run(copy.deepcopy(done.loaded.model), *done.loaded.args, exact=True)
    network = copy.deepcopy(exact.network)
    with torch.no_grad():
        network.get_parameter("stem.weight")[0] *= 2
    report, _ = compare(exact.loaded, network)
    errors = {f.name: f.error for f in node_facts(replace(exact, network=network, report=report))}
    assert errors["x"] == 0 and errors["stem"] > 0.01 and errors["relu"] > 0.01  # type: ignore[operator]


def test_values_of_any_structure() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.rnn, self.b = nn.Linear(3, 6), nn.GRU(6, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> dict[str, object]:
            u, v = self.b(self.rnn(torch.tanh(self.a(x)))[0]).chunk(2, -1)
            return {"product": u * v, "more": [v.argmax(-1)]}

    model = ft.randomize(Several().eval())
    loaded = Loaded("several", model, (), {"x": torch.randn(2, 5, 3)}, "random")
    facts = {f.op: f for f in node_facts(run(loaded, Settings()))}
    assert facts["GRU"].kind == "free" and facts["GRU"].moved == 124 / 144 and facts["GRU"].shape == "2 tensors"
    assert facts["tanh"].kind == "free" and facts["chunk"].error is not None
    assert facts["argmax"].kind == "none" and facts["argmax"].cob is None
    assert facts["output"].inputs


def test_in_step_needs_a_network_that_remembers() -> None:
    with pytest.raises(ft.InputError, match=r"plan\.rewrite"):
        list(in_step(torch.fx.symbolic_trace(nn.ReLU()), torch.ones(1)))


def test_in_step_shows_both_networks(done: Run) -> None:
    values = {v.node: v for v in in_step(done.network, *done.loaded.args)}
    assert len(values) == done.report.nodes
    last = values["head"]
    assert torch.equal(last.original, done.loaded.model(*done.loaded.args)) and last.error <= done.report.tolerance
    assert torch.equal(last.actual, done.network(*done.loaded.args))
    assert not torch.equal(values["stem"].original, values["stem"].actual)
