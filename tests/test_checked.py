"""Every public function, each argument replaced by things of another kind: the project's own errors, or a result.

A table of calls that are right, and one of values that mostly are not: all pairs of an argument and a value are tried.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.checked import checked

Given = dict[str, Any]
torch.manual_seed(0)
MODEL, X = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).eval(), torch.randn(2, 2)
PLAN, WEIGHTS = ft.plan(MODEL, X), ft.plan(MODEL, X, mode="weights")
COB, OWN = PLAN.sample(seed=0), dict(MODEL.named_parameters())
NETWORK, FOLDED = PLAN.rewrite(COB), ft.fold_norms(MODEL, X)
MOVING = ft.Teleportable(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)), X)
SGD = torch.optim.SGD(MOVING.parameters(), 0.1)


def loss(net: Callable[[Tensor], Tensor]) -> Tensor:
    return net(X).square().mean()


AT = ft.curvature.at(MODEL, loss)
IN, OUT = "inputs", "outputs"  # stand for paths below
CALLS: dict[str, tuple[Callable[..., Any], Given]] = {
    "plan": (ft.plan, {"model": MODEL, "*": X}),
    "teleport": (ft.teleport, {"model": MODEL, "*": X}),
    "verify": (ft.verify, {"model": MODEL, "gm": NETWORK, "*": X}),
    "randomize": (ft.randomize, {"model": nn.Linear(2, 2), "seed": 0}),
    "equalize": (ft.equalize, {"plan": WEIGHTS, "data": [X]}),
    "equalized": (ft.equalized, {"plan": WEIGHTS, "data": None}),
    "fit_range": (ft.fit_range, {"plan": PLAN, "data": [X]}),
    "range_report": (ft.range_report, {"plan": PLAN, "cob": COB, "data": [X]}),
    "fold_norms": (ft.fold_norms, {"model": MODEL, "*": X}),
    "folded_norms": (ft.folded_norms, {"network": FOLDED}),
    "fake_quantize": (ft.fake_quantize, {"network": FOLDED}),
    "align": (ft.align, {"plan": PLAN, "a": MODEL, "b": MODEL}),
    "optimize": (ft.optimize, {"plan": PLAN, "cob": COB, "objective": ft.objectives.weight_norm, "steps": 1}),
    "save": (ft.save, {"path": OUT, "module": NETWORK, "model_spec": "mine"}),
    "load": (ft.load, {"path": IN, "model": MODEL}),
    "stream": (ft.stream, {"plan": WEIGHTS, "cob": WEIGHTS.identity(), "source": IN, "output": OUT}),
    "checkpoint_tensors": (ft.checkpoint_tensors, {"plan": WEIGHTS, "source": IN}),
    "transport": (ft.transport, {"optimizer": SGD, "network": MOVING, "scales": MOVING.plan.scales(MOVING.cob)}),
    "Teleportable": (ft.Teleportable, {"model": MODEL, "*": X}),
    "Teleportable.teleport_": (MOVING.teleport_, {"cob": MOVING.cob, "optimizer": SGD}),
    "Teleport": (ft.Teleport, {"network": MOVING, "optimizer": SGD, "at": [1]}),
    "lightning_callback": (ft.lightning_callback, {"teleport": ft.Teleport(MOVING, SGD, at=[1])}),
    "without_weights": (ft.without_weights, {}),
    "ChangeOfBasis": (ft.ChangeOfBasis, {"values": COB.values, "fingerprint": COB.fingerprint}),
    "plan.sample": (PLAN.sample, {}),
    "plan.cob": (PLAN.cob, {"values": COB.values}),
    "plan.rewrite": (PLAN.rewrite, {"cob": COB}),
    "plan.at": (PLAN.at, {"cob": COB}),
    "plan.tau": (PLAN.tau, {"cob": COB}),
    "plan.scales": (PLAN.scales, {"cob": COB}),
    "plan.check": (PLAN.check, {"cob": COB}),
    "plan.apply_": (WEIGHTS.apply_, {"cob": WEIGHTS.identity()}),
    "curvature.at": (ft.curvature.at, {"network": MODEL, "loss": loss}),
    "curvature.around": (ft.curvature.around, {"point": PLAN.at(COB), "loss": loss}),
}
# Arguments of the modules of functions, by name.
KNOWN: Given = {
    "before": OWN, "after": OWN, "network": MODEL, "loss": AT, "weights": OWN, "vector": OWN, "a": OWN, "b": OWN,
    "samples": 1, "iterations": 2, "direction": OWN, "start": OWN, "end": OWN, "alpha": 0.5, "center": OWN,
    "alphas": [0.0], "first": OWN, "second": OWN, "xs": [0.0], "ys": [0.0], "trajectory": [OWN], "target": OWN,
    "point": PLAN.at(COB), "objective": ft.objectives.weight_norm, "lr": 0.1,
}  # fmt: skip
MODULES = {n: m for n in ft.__all__ if isinstance(m := getattr(ft, n), ModuleType)}
for module_name, module in MODULES.items():
    for name, function in vars(module).items():
        if inspect.isfunction(function) and not name.startswith("_") and function.__module__ == module.__name__:
            needed = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
            CALLS.setdefault(f"{module_name}.{name}", (function, {n: KNOWN[n] for n in needed if n in KNOWN}))
# Results, and what emitted networks consist of: nobody makes one.
MADE = {"Alignment", "Condition", "Difference", "Equalized", "EquivalenceReport", "Folded", "Optimized", "Operation",
        "Plan", "Point", "Range", "RangeRow", "Rescale", "TeleportedActivation"}  # fmt: skip

VALUES: dict[str, Any] = {
    "None": None, "a text": "abc", "a whole number": 3, "a negative one": -1, "a fraction": 1.5, "NaN": float("nan"),
    "a list": [1.0, 2.0], "an empty list": [], "a dictionary": {"a": 1}, "a tensor": X, "whole numbers": X.long(),
    "an array": X.numpy(), "a class": nn.Linear, "another model": nn.Conv2d(1, 1, 1), "an object": object(),
    "a plan": PLAN, "a change of basis": COB, "a path": Path("/no/such/folder/file"), "bytes": b"a",
}  # fmt: skip


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    ft.save(folder / "net", NETWORK, "mine")
    save_file(MODEL.state_dict(), folder / "net.safetensors")
    return {IN: folder / "net.safetensors", OUT: folder / "written.safetensors"}


def test_every_public_function_is_in_the_table() -> None:
    errors = {n for n in ft.__all__ if isinstance(c := getattr(ft, n), type) and issubclass(c, (Exception, Warning))}
    assert set(ft.__all__) == errors | MADE | MODULES.keys() | {n for n in CALLS if "." not in n}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_wrong_values_are_told_in_one_line(
    name: str, paths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a text is a path that may be written to
    function, right = CALLS[name]
    parameters = inspect.signature(function).parameters.values()
    own = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    lead = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    for slot in [*own, *(["*"] if "*" in right else [])]:
        for what, value in VALUES.items():
            if slot in ("loss", "objective", "progress") and isinstance(value, nn.Module):
                continue  # it can be called, and what it raises is its own
            given = {n: paths.get(v, v) if isinstance(v, str) else v for n, v in (right | {slot: value}).items()}
            inputs = [given.pop("*")] if "*" in given else []
            first = [given.pop(n) for n in lead if n in given] if inputs else []
            try:
                function(*first, *inputs, **given)
            except ft.TeleportError as error:
                assert "\n" not in str(error) and len(str(error)) > 15, (slot, what, str(error))
            except Exception as error:
                raise AssertionError(f"{name}({slot}={what}): {type(error).__name__}: {error}") from error


def test_what_is_said() -> None:
    with pytest.raises(
        ft.InputError, match=r"^'plan' is None: pass a plan, fxteleport\.plan\(model, \*example_inputs\)$"
    ):
        ft.equalize(None)  # type: ignore[arg-type]
    with pytest.raises(ft.InputError, match=r"^'data' is None: pass a list or another iterable of batches, each as"):
        ft.fit_range(PLAN, None)  # type: ignore[arg-type]
    with pytest.raises(ft.InputError, match=r"^'data' is a Tensor: pass a list .*, or None$"):
        ft.equalize(PLAN, data=X)  # type: ignore[arg-type]
    with pytest.raises(ft.ModelError, match=r"'network' is the class Linear: pass an instance"):
        ft.curvature.trainable(nn.Linear)  # type: ignore[arg-type]


def test_a_call_of_another_form_is_pythons_error() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'data'"):
        ft.fit_range(PLAN)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'dats'"):
        ft.fit_range(PLAN, [X], dats=1)  # type: ignore[call-arg]


def test_what_is_not_checked() -> None:
    @checked
    def f(a: "object", b: "Unknown" = 1, *rest: int, c: int | None = None) -> tuple[Any, ...]:  # type: ignore[name-defined] # noqa: F821, UP037
        """Its words."""
        return a, b, *rest, c

    assert f("x", "y", "z", c=None) == ("x", "y", "z", None) and f.__doc__ == "Its words."
    with pytest.raises(ft.InputError, match="'c' is a str: pass a whole number, or None"):
        f(1, c="x")  # type: ignore[arg-type]
