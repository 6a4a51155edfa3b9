"""What the page shows, as plain data: the summary's rows, the neuron groups, the nodes of the rewritten graph."""

from __future__ import annotations

import math
from typing import Any

from fxteleport.explain.groups import Group, Member
from fxteleport.passes.graph.node_info import info
from fxteleport.tools.checking.records import verdict
from fxteleport.tools.checking.session import Run
from fxteleport.tools.inspection.node_facts import NodeFacts, node_facts
from fxteleport.tools.plots.palette import MIXED, PINNED, dark_text, group_colour


def summary(done: Run) -> list[tuple[str, str]]:
    """The rows of the summary: names and texts."""
    planned, settings = done.plan, done.settings
    kinds = [g.kind for g in planned.groups]
    law = f"{settings.landscape}, range {settings.cob_range:g}, seed {settings.seed}"
    return [
        ("result", ("same function: " if done.report.passed else "FAILED: ") + verdict(done.report)),
        ("weights", done.loaded.weights),
        ("parameters", f"{done.loaded.parameters:,}, {planned.moved:.2%} of them moved"),
        ("freedom", f"{planned.num_free:,} CoB values"),
        ("groups", ", ".join(f"{kinds.count(k)} {k}" for k in ("free", "dependent", "pinned"))),
        ("law", f"{law}{', powers of two' if settings.exact else ''}"),
        ("plan", f"mode {settings.mode}, norm statistics {settings.norm_stats}"),
        ("graph", f"{len(done.network.graph.nodes):,} nodes; the original has {len(planned.captured.graph.nodes):,}"),
        ("opaque", "; ".join(f"{o.path or o.node}: {o.why}" for o in planned.opaque[:10]) or "none"),
    ]


def data(done: Run) -> dict[str, Any]:
    """The data for the page's script."""
    facts = node_facts(done)
    at = {fact.name: i for i, fact in enumerate(facts)}
    nodes = zip(facts, done.network.graph.nodes, strict=True)
    return {
        "mixed": MIXED,
        "pinned": PINNED,
        "groups": [_group(g) for g in done.plan.groups],
        "nodes": [_node(fact, info(node).captured, at) for fact, node in nodes],
    }


def _group(group: Group) -> dict[str, Any]:
    colour = group_colour(group.id, group.kind)
    return {
        "id": group.id,
        "kind": group.kind,
        "size": group.size,
        "why": group.why,
        "allows": group.allows,
        "colour": colour,
        "dark": dark_text(colour),
        "members": [(_maker(m), m.role, m.start, m.stop) for m in group.members],
    }


def _maker(member: Member) -> str:
    """A module by its path, a parameter by its name."""
    return member.node if member.role.startswith("axis") or not member.path else member.path


def _node(fact: NodeFacts, source: str, at: dict[str, int]) -> dict[str, Any]:
    module = fact.path != ".".join(fact.modules)
    label = fact.path.rpartition(".")[2] if module else fact.name
    return {
        "name": fact.name,
        "label": label,
        "source": source,
        "op": fact.op,
        "path": fact.path,
        "module": module,
        "within": fact.modules,
        "inputs": [at[name] for name in fact.inputs],
        "inputs_outputs": fact.op in ("input", "output"),
        "shape": fact.shape,
        "groups": fact.groups,
        "kind": fact.kind,
        "cob": fact.cob and [_finite(x) for x in (fact.cob.low, fact.cob.high, fact.cob.doublings, fact.cob.negative)],
        "parameters": fact.parameters,
        "moved": fact.moved,
        "error": None if fact.error is None else _finite(fact.error),
        "change": fact.change,
    }


def _finite(x: float) -> float:
    """JSON has no infinity."""
    return x if math.isfinite(x) else 1e308
