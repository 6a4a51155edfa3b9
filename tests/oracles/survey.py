"""What a survey of networks has in common: the oracle, time limits, and a record that goes on where it was cut off."""

from __future__ import annotations

import contextlib
import copy
import json
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.verify.running import run

Call = tuple[tuple[Any, ...], dict[str, Any]]
Row = dict[str, Any]


def call(*args: Any, **kwargs: Any) -> Call:
    """How a network is called."""
    return args, kwargs


class Late(BaseException):
    """A network took too long. It is no `Exception`, which a trace may take for the model's own."""


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise `Late` in what takes longer than that many seconds of the processor."""

    def late(*_: Any) -> None:
        raise Late(f"longer than {seconds} s")

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds, 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def judged(network: nn.Module, given: Call, others: tuple[Call, ...] = (), seconds: int = 900) -> Row:
    """What becomes of a network that is called so: planned in both modes, and compared at every node.

    Args:
        others: further calls, with other sizes: the emitted networks are compared on them, too, or must refuse them.
        seconds: of the processor.
    """
    row: Row = {}
    started = time.perf_counter()
    try:
        with at_most(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for mode in ("full", "weights"):
                row |= _in_mode(row, network, mode, given, others)
                if "state" in row:
                    break
    except Late as error:
        row |= {"state": "late", "why": str(error)}
    except ft.TeleportError as error:
        row |= {"state": "refused", "why": f"{type(error).__name__}: {str(error)[:600]}"}
    except Exception as error:
        row |= {"state": "error", "why": f"{type(error).__name__}: {str(error)[:600]}"}
    row["seconds"] = round(time.perf_counter() - started, 1)
    return {"state": "equal"} | row


def _in_mode(row: Row, network: nn.Module, mode: str, given: Call, others: tuple[Call, ...]) -> Row:
    args, kwargs = given
    clock = time.perf_counter()
    plan = ft.plan(network, *args, mode=mode, **kwargs)
    clock = time.perf_counter() - clock
    cob = plan.sample(0.9, "inter", exact=True, seed=0)
    emitted = plan.rewrite(cob)
    found = {
        "free": plan.num_free, "moved": plan.moved, "plan_seconds": round(clock, 2),
        "opaque": list(dict.fromkeys(f"{o.path}: {o.why}" for o in plan.opaque)),
        "conditions": [str(c) for c in plan.conditions],
    }  # fmt: skip
    row |= {mode: found, "nodes": len(plan.captured.graph.nodes)}
    report = ft.verify(network, emitted, *args, **kwargs)
    if not (report.passed and report.bitwise_equal):
        state = "vacuous" if report.bitwise_equal and report.vacuous else "wrong"
        return row | {"state": state, "mode": mode, "why": str(report)[:2000]}
    found["others"] = [_elsewhere(network, emitted, other) for other in others]
    if wrong := [said for said in found["others"] if said.startswith("differs")]:
        return row | {"state": "wrong", "mode": mode, "why": f"on another input: {wrong[0]}"}
    if mode == "weights" and not _in_place(network, plan, cob, given):
        return row | {"state": "wrong", "mode": mode, "why": "apply_ on a copy gives other outputs"}
    return row


def _elsewhere(network: nn.Module, emitted: nn.Module, other: Call) -> str:
    args, kwargs = other
    try:
        report = ft.verify(network, emitted, *args, **kwargs)
    except ft.GuardError as error:
        return f"refused: {str(error)[:200]}"
    except ft.ModelError as error:
        return f"differs: {str(error)[:300]}"
    return "equal" if report.bitwise_equal else f"differs: {str(report)[:1000]}"


def _in_place(network: nn.Module, plan: ft.Plan, cob: ft.ChangeOfBasis, given: Call) -> bool:
    """True if a copy (or the network, and back) that is teleported in place gives its outputs to the last bit."""
    moved, expected = copy.deepcopy(network).eval(), _seeded(network, given)
    try:
        plan.apply_(cob, moved)
        found = _seeded(moved, given)
    except ft.ModelError:  # what hooks that were put on it hold is the original, also in a copy
        plan.apply_(cob)
        found = _seeded(network, given)
        plan.apply_(cob.inverse())
    return expected.keys() == found.keys() and all(_equal(x, found[where]) for where, x in expected.items())


def _seeded(network: nn.Module, given: Call) -> dict[str, Any]:
    torch.manual_seed(0)
    return dict(run(network, *given).outputs)


def _equal(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor):
        return type(a) is type(b)
    if not a.is_floating_point():
        return torch.equal(a, b)
    return torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))


def recorded(file: Path) -> list[Row]:
    """The rows of a record, as far as there is one."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def record(file: Path, row: Row) -> None:
    """Append a row."""
    with file.open("a") as out:
        out.write(json.dumps(row) + "\n")
