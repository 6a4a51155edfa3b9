"""Wrong arguments of the public functions: each is a TeleportError that says what to pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.arguments import called, kind, require_weights

Call = Callable[[SimpleNamespace], Any]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A small network with what can be made of it, and where a teleported one was saved."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), torch.randn(2, 3)
    plan = ft.plan(model, x)
    cob = plan.sample(seed=0)
    network, saved = plan.rewrite(cob), tmp_path_factory.mktemp("saved") / "net"
    ft.save(saved, network, "mine")
    weights = ft.plan(model, x, mode="weights")
    own = dict(model.named_parameters())
    loss = lambda net: net(x).square().mean()  # noqa: E731
    return SimpleNamespace(model=model, x=x, plan=plan, cob=cob, network=network, saved=saved, weights=weights,
                           values=torch.ones(plan.num_free), own=own, loss=loss)  # fmt: skip


WRONG: dict[str, Call] = {
    # a tensor for a change of basis
    "rewrite": lambda g: g.plan.rewrite(g.values),
    "scales": lambda g: g.plan.scales(g.values),
    "tau": lambda g: g.plan.tau(g.values),
    "at": lambda g: g.plan.at(g.values),
    "check": lambda g: g.plan.check(g.values),
    "apply_": lambda g: g.weights.apply_(g.values),
    "compose": lambda g: g.cob @ g.values,
    "teleport_": lambda g: ft.Teleportable(g.model, g.x).teleport_(g.values),
    "optimize from values": lambda g: ft.optimize(g.plan, g.values, ft.objectives.weight_norm),
    "stream values": lambda g: ft.stream(g.weights, g.values, "a", "b"),
    # a class, or anything else, for a network
    "plan of a class": lambda g: ft.plan(nn.Linear, g.x),
    "plan of a name": lambda g: ft.plan("resnet18", g.x),
    "teleport a class": lambda g: ft.teleport(nn.Linear, g.x),
    "randomize a class": lambda g: ft.randomize(nn.Linear),
    "randomize nothing": lambda g: ft.randomize(None),
    "verify a class": lambda g: ft.verify(nn.Linear, g.network, g.x),
    "verify against a class": lambda g: ft.verify(g.model, nn.Linear, g.x),
    "load into a class": lambda g: ft.load(g.saved, model=nn.Linear),
    "save a class": lambda g: ft.save(g.saved, nn.Linear, "mine"),
    "apply_ to a class": lambda g: g.weights.apply_(g.weights.identity(), nn.Linear),
    "a teleportable class": lambda g: ft.Teleportable(nn.Linear, g.x),
    "align a class": lambda g: ft.align(g.plan, g.model, nn.Linear),
    "curvature of a class": lambda g: ft.curvature.at(nn.Linear, g.loss),
    # a network for a plan
    "optimize a network": lambda g: ft.optimize(g.model, g.cob, ft.objectives.weight_norm),
    "align by a network": lambda g: ft.align(g.model, g.model, g.model),
    "stream by a network": lambda g: ft.stream(g.model, g.cob, "a", "b"),
    # lists for tensors
    "plan on a list": lambda g: ft.plan(g.model, [1.0, 2.0]),
    "plan on a list of tensors": lambda g: ft.plan(g.model, [g.x]),
    "plan on an array": lambda g: ft.plan(g.model, g.x.numpy()),
    "verify on a list": lambda g: ft.verify(g.model, g.network, [1.0, 2.0]),
    "verify on a list of tensors": lambda g: ft.verify(g.model, g.network, [g.x]),
    "verify on another size": lambda g: ft.verify(g.model, g.network, g.x[:, :2]),
    "a list as values": lambda g: ft.ChangeOfBasis([1.0], g.plan.fingerprint),
    "texts as values": lambda g: g.plan.cob(["a"]),
    # objectives and losses
    "the name of an objective": lambda g: ft.optimize(g.plan, g.cob, "weight_norm"),
    "an objective without its loss": lambda g: ft.optimize(g.plan, g.cob, ft.objectives.gradient_norm),
    "an objective without its settings": lambda g: ft.optimize(g.plan, g.cob, ft.objectives.lookahead),
    "a value for a loss": lambda g: ft.objectives.gradient_norm(g.loss(g.model)),
    "a number for an objective": lambda g: ft.optimize(g.plan, g.cob, lambda point: 3.0),
    "several numbers": lambda g: ft.optimize(g.plan, g.cob, lambda point: torch.ones(3)),
    "no gradient": lambda g: ft.optimize(g.plan, g.cob, lambda point: torch.ones(())),
    "a loss of several numbers": lambda g: ft.optimize(g.plan, g.cob, ft.objectives.sharpness(lambda net: net(g.x))),
    "negative steps": lambda g: ft.optimize(g.plan, g.cob, ft.objectives.weight_norm, steps=-1),
    "a network as target": lambda g: ft.objectives.distance(g.model),
    "no target": lambda g: ft.optimize(g.plan, g.cob, ft.objectives.distance({})),
    # numbers
    "a text for a range": lambda g: g.plan.sample("a"),
    "no range": lambda g: g.plan.sample(None),
    "a negative seed": lambda g: g.plan.sample(seed=-1),
    "a text for a seed": lambda g: g.plan.sample(seed="a"),
    "a text for a centre": lambda g: g.plan.sample(landscape="centered", center="a"),
    # weights
    "a network for weights": lambda g: ft.controls.reinitialize(g.model),
    "missing weights": lambda g: ft.controls.pseudo_teleport(g.own, {}),
    "a line to a network": lambda g: ft.landscapes.interpolate(g.own, g.model, 0.5),
    "a direction of a network": lambda g: ft.landscapes.random_direction(g.model),
    "a step along a tensor": lambda g: ft.landscapes.moved(g.own, (1.0, g.x)),
    "a trajectory of networks": lambda g: ft.landscapes.pca_plane([g.model]),
    "the trace at a network": lambda g: ft.curvature.trace(ft.curvature.at(g.model, g.loss), g.model),
    "the eigenvalue of a value": lambda g: ft.curvature.top_eigenvalue(g.loss(g.model), g.own),
    "a vector for weights": lambda g: ft.curvature.hvp(ft.curvature.at(g.model, g.loss), g.own, g.x),
    # the rest
    "no optimiser": lambda g: ft.transport(g.x, g.model, g.plan.scales(g.cob)),
    "no scales": lambda g: ft.transport(torch.optim.SGD(g.model.parameters()), g.model, g.cob),
    "no spec": lambda g: ft.save(g.saved, g.network, None),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument(name: str, given: SimpleNamespace) -> None:
    before = {n: t.clone() for n, t in given.model.state_dict().items()}
    with pytest.raises(ft.TeleportError) as raised:
        WRONG[name](given)
    assert "\n" not in str(raised.value) and len(str(raised.value)) > 20
    assert all(torch.equal(t, before[n]) for n, t in given.model.state_dict().items())


def test_the_message_says_what_to_pass(given: SimpleNamespace) -> None:
    with pytest.raises(ft.ModelError, match=r"is the class Linear: pass an instance, Linear\(\.\.\.\)"):
        ft.randomize(nn.Linear)  # type: ignore[arg-type]
    with pytest.raises(ft.CobError, match=r"this is a Tensor: draw one with plan\.sample\(\)"):
        given.plan.rewrite(given.values)
    with pytest.raises(ft.InputError, match=r"it makes one of a loss, gradient_norm\(loss\)"):
        ft.optimize(given.plan, given.cob, ft.objectives.gradient_norm)  # type: ignore[arg-type]
    with pytest.raises(ft.InputError, match=r"'lookahead' takes .*'lr'"):
        ft.optimize(given.plan, given.cob, ft.objectives.lookahead)  # type: ignore[arg-type]
    with pytest.raises(ft.ModelError, match=r"Sequential does not run on these inputs: TypeError"):
        ft.verify(given.model, given.network, [given.x])


def test_an_error_of_an_objective_is_its_own(given: SimpleNamespace) -> None:
    def objective(point: Any) -> Tensor:
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        ft.optimize(given.plan, given.cob, objective)


def test_words_for_values() -> None:
    assert [kind(x) for x in (None, nn.Linear, [], torch.ones(1).numpy(), 1)] == [
        "None", "the class Linear", "a list", "a ndarray", "an int",
    ]  # fmt: skip
    assert called(max, 1, 2, what="") == 2
    require_weights({"a": torch.ones(2)}, like={"a": torch.zeros(2)})
    with pytest.raises(ft.InputError, match=r"'a' of the weights has shape \(2,\), not \(3,\)"):
        require_weights({"a": torch.ones(2)}, like={"a": torch.zeros(3)})
    with pytest.raises(ft.InputError, match="hold a float under 'a', not a tensor"):
        require_weights({"a": 1.0})


def test_results_are_short_and_printed_in_words(given: SimpleNamespace, tmp_path: Path) -> None:
    report = ft.verify(given.model, given.network, given.x)
    assert repr(report).startswith("EquivalenceReport(same: largest relative difference") and len(repr(report)) < 120
    printed = str(report).splitlines()
    assert printed[0].startswith("same function  largest relative") and printed[-1].startswith("seconds")
    assert "4 parameters and buffers are the original's times their factors" in str(report)
    assert report._repr_html_().startswith("<table><tr><th") and "same function" in report._repr_html_()
    wrong = ft.verify(given.model, nn.Sequential(nn.Linear(3, 2)), given.x)
    assert repr(wrong).startswith("EquivalenceReport(different: the outputs differ by")
    many = ft.ChangeOfBasis(torch.tensor([1.0, -2.0, 0.5, 4.0, 8.0], dtype=torch.float64), "abc")
    assert repr(many) == "ChangeOfBasis(5 values: [1, -2, 0.5, 4, ...])"
    assert str(many).splitlines()[1:4] == [
        "magnitudes       0.5 to 8, median 2", "negative         1 of 5", "exact            yes: powers of two",
    ]  # fmt: skip
    assert "5 free values" in many._repr_html_()
    assert "0 free values" in str(ft.ChangeOfBasis(torch.ones(0, dtype=torch.float64), "abc"))
    found = ft.optimize(given.plan, given.cob, ft.objectives.weight_norm, steps=3)
    assert len(repr(found)) < 200 and len(repr(ft.align(given.plan, given.model, given.model))) < 200
