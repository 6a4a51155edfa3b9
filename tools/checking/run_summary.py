"""What `teleport` prints: a network, its teleportation and the check, one line for each fact."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fxteleport.passes.rewrite.own_epsilon import OwnEpsilon
from fxteleport.passes.rewrite.teleported_modules import Rescale, TeleportedActivation
from fxteleport.tools.checking.conditions import resting
from fxteleport.tools.checking.records import verdict
from fxteleport.tools.checking.session import Run
from fxteleport.tools.console import count, named_rows
from fxteleport.tools.options.common import Settings

_PASSES = ("capture", "constrain", "solve", "rewrite", "verify")
_SHOWN = 5


def show(out: Console, done: Run, written: list[Path]) -> None:
    """Print it."""
    planned, report = done.plan, done.report
    free = [g for g in planned.groups if g.kind != "pinned"]
    where = next(done.loaded.model.parameters()).device if done.loaded.parameters else "cpu"
    seconds = done.seconds
    rows: list[tuple[str, str]] = [
        ("model", f"{done.loaded.spec} on {where}, {_dtype(done)}"),
        ("weights", done.loaded.weights),
        ("parameters", f"{done.loaded.parameters:,}, {planned.moved:.2%} of them moved"),
        ("graph", count(len(planned.captured.graph.nodes), "node")),
        ("freedom", f"{count(planned.num_free, 'CoB value')} in {count(len(free), 'neuron group')}"),
        ("law", _law(done.settings)),
        ("operations", _operations(activations(done))),
        *resting(planned.conditions),
        ("opaque", count(len(planned.opaque), "node") if planned.opaque else "none: a rule knows every node"),
        *_first((f"{o.path or o.node}: {o.why}" for o in planned.opaque), len(planned.opaque)),
        ("seconds", ", ".join(f"{name} {seconds[name]:.1f}" for name in _PASSES if name in seconds)),
        *(("written" if i == 0 else "", str(path)) for i, path in enumerate(written)),
    ]
    table = named_rows(rows)
    mark = Text("same function" if report.passed else "FAILED", style="bold green" if report.passed else "bold red")
    table.add_row(mark, Text(verdict(report)))
    out.print(table)


def activations(done: Run) -> dict[str, int]:
    """The number of operations that the network adds, by kind."""
    modules = list(done.network.modules())
    kinds = (TeleportedActivation, Rescale, OwnEpsilon)
    return {kind.__name__: sum(isinstance(m, kind) for m in modules) for kind in kinds}


def _law(settings: Settings) -> str:
    law = f"{settings.landscape}, range {settings.cob_range:g}, seed {settings.seed}"
    plan = f"mode {settings.mode}, norm statistics {settings.norm_stats}"
    plan += "" if settings.norms == "exact" else f", norms {settings.norms}"
    note = " (exact in eval mode)" if settings.norm_stats == "rescaled" else ""
    return f"{law}{', powers of two' if settings.exact else ''}; {plan}{note}"


def _operations(counts: dict[str, int]) -> str:
    names = {"TeleportedActivation": "teleported activation", "Rescale": "rescaling", "OwnEpsilon": "epsilon"}
    said = [count(n, names[kind]) for kind, n in counts.items() if n]
    return f"new: {', '.join(said)}" if said else "those of the original"


def _first(reasons: Iterable[str], total: int) -> list[tuple[str, str]]:
    shown = [("", reason) for reason, _ in zip(reasons, range(_SHOWN), strict=False)]
    return shown + ([("", f"and {total - _SHOWN} more (see --json)")] if total > _SHOWN else [])


def _dtype(done: Run) -> str:
    dtype = next((p.dtype for p in done.loaded.model.parameters() if p.is_floating_point()), "no parameters")
    return str(dtype).removeprefix("torch.")
