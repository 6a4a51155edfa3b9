"""Everything that the views of `inspect` show, as plain data (the schema is in docs/inspect.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fxteleport.explain.scalings import Use
from fxteleport.tools.inspection.diff import NodeChange, TensorChange
from fxteleport.tools.inspection.group_text import shape_words
from fxteleport.tools.inspection.module_rows import Row
from fxteleport.tools.inspection.pinned import Setting, one_sided, reasons
from fxteleport.tools.inspection.plan_view import Reading, home
from fxteleport.tools.models.request import Loaded
from fxteleport.verify import EquivalenceReport

Data = dict[str, Any]


def described(loaded: Loaded, reading: Reading, row: Row) -> Data:
    """The whole plan."""
    plan = reading.plan
    return {
        "model": loaded.spec,
        "mode": plan.mode,
        "norm_stats": plan.norm_stats,
        "norms": plan.norms,
        "num_free": plan.num_free,
        "moved": plan.moved,
        "nodes": len(plan.captured.graph.nodes),
        "parameters": loaded.parameters,
        "conditions": [asdict(c) for c in plan.conditions],
        "specialized": plan.specialized,
        "opaque": [asdict(o) for o in plan.opaque],
        "groups": _groups(reading),
        "ties": [asdict(t) for t in plan.ties],
        "modules": [_module(r) for r in row.walk()],
        "tensors": [_tensor(reading, name) for name in plan.captured.metas],
        "graph": _graph(reading),
        "pinned": [_reason(asdict(r)) for r in reasons(reading)],
        "one_sided": {words: {"values": n, "why": why} for words, (n, why) in one_sided(plan).items()},
        "seconds": dict(plan.seconds),
    }


def changes(nodes: Sequence[NodeChange], tensors: Sequence[TensorChange]) -> Data:
    """What `--diff` shows."""
    return {"nodes": [asdict(n) for n in nodes], "tensors": [asdict(t) for t in tensors]}


def checked(report: EquivalenceReport) -> Data:
    """What the comparison of both networks found, where a teleportation was made."""
    names = ("passed", "vacuous", "bitwise_equal", "max_abs", "max_rel")
    return {name: getattr(report, name) for name in names}


def others(settings: Sequence[Setting]) -> list[Data]:
    """What `--pinned` says about other settings."""
    return [asdict(s) for s in settings]


def uses_data(uses: Sequence[Use]) -> list[Data]:
    """Uses as plain data."""
    return [asdict(u) for u in uses]


def _groups(reading: Reading) -> list[Data]:
    listed = []
    for group, links in zip(reading.groups, reading.plan.links, strict=True):
        data = asdict(group)
        data["links"] = [asdict(link) | {"path": reading.place(link.node)} for link in links]
        listed.append(data)
    return listed


def _module(row: Row) -> Data:
    return {
        "path": row.path,
        "class": row.kind,
        "parameters": row.parameters,
        "moved": row.moved,
        "free_values": row.values,
        "into": uses_data(row.into),
        "out": uses_data(row.out),
        "tensors": {name: uses_data(uses) for name, uses in row.tensors},
        "notes": [asdict(n) for n in row.notes],
    }


def _tensor(reading: Reading, name: str) -> Data:
    captured = reading.plan.captured
    shape, first = list(captured.metas[name].shape), captured.canonical[name]
    tied = first if first != name else None
    return {"name": name, "shape": shape, "tied_to": tied, "uses": uses_data(reading.tensors[name])}


def _graph(reading: Reading) -> list[Data]:
    rules = reading.plan.constrained.rules
    return [
        {
            "node": name,
            "operation": reading.operation(node),
            "path": home(node),
            "rule": rules.get(name),
            "value": shape_words(node),
            "inputs": [x.name for x in node.all_input_nodes],
            "uses": uses_data(reading.uses(node)),
            "wrapped": reading.wrapped.get(name),
            "does": list(reading.doings.get(name, ())),
        }
        for name, node in reading.nodes.items()
    ]


def _reason(data: Data) -> Data:
    data["nodes"] = [{"node": n, "path": path, "neurons": size} for n, path, size in data["nodes"]]
    return data
