"""HTML: a teleportation as one file for the browser: summary, groups, the graph in colour, pictures. No network."""

from __future__ import annotations

import base64
import html
import json
import math
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fxteleport.atomic_files import write_text
from fxteleport.explain.groups import Group, Member
from fxteleport.passes.errors import InputError
from fxteleport.passes.graph.node_info import info
from fxteleport.tools.checking.records import verdict
from fxteleport.tools.checking.session import Run
from fxteleport.tools.inspection.node_facts import NodeFacts, node_facts
from fxteleport.tools.plots.draw import rendered, require_matplotlib
from fxteleport.tools.plots.palette import MIXED, PINNED, dark_text, group_colour

_PAGE = Path(__file__).with_name("page")
_CAPTIONS = {
    "weights": "Weights before and after.",
    "cob": "The change of basis (CoB) of each layer's neurons.",
    "ranges": "The range of each output channel's weights before and after.",
    "features": "Feature maps before and after.",
}


def write_html(done: Run, path: Path) -> None:
    """Write the page: one file that holds everything it shows.

    Raises:
        InputError: matplotlib, for the pictures, is not installed.
        CheckpointError: the file cannot be written.
    """
    write_text(path, page(done))


def page(done: Run) -> str:
    """The page as text."""
    require_matplotlib()
    facts = node_facts(done)
    held = {
        "title": html.escape(f"fxteleport: {done.loaded.spec}"),
        "css": _part("page.css"),
        "summary": "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in _summary(done)),
        "pictures": "".join(_picture(done, kind) for kind in _CAPTIONS),
        "footer": html.escape(f"Written by fxteleport {_version()}."),
        "data": _json(_data(done, facts)),
        "js": _part("page.js"),
    }
    before, *parts = _part("page.html").split("{{")
    filled = (held[name] + rest for name, rest in (part.split("}}", 1) for part in parts))
    return before + "".join(filled) + "\n"


def _part(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8").rstrip("\n")


def _json(data: Any) -> str:
    """JSON that ends no script element: `<` is written as an escape."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028")


def _version() -> str:
    try:
        return version("fxteleport")
    except PackageNotFoundError:
        return "from a checkout"


# -- what the page shows ---------------------------------------------------------------------------------


def _summary(done: Run) -> list[tuple[str, str]]:
    found, settings = done.plan, done.settings
    kinds = [g.kind for g in found.groups]
    law = f"{settings.landscape}, range {settings.cob_range:g}, seed {settings.seed}"
    return [
        ("result", ("same function: " if done.report.passed else "FAILED: ") + verdict(done.report)),
        ("weights", done.loaded.weights),
        ("parameters", f"{done.loaded.parameters:,}, {found.moved:.2%} of them moved"),
        ("freedom", f"{found.num_free:,} CoB values"),
        ("groups", ", ".join(f"{kinds.count(k)} {k}" for k in ("free", "dependent", "pinned"))),
        ("law", f"{law}{', powers of two' if settings.exact else ''}"),
        ("plan", f"mode {settings.mode}, norm statistics {settings.norm_stats}"),
        ("graph", f"{len(done.network.graph.nodes):,} nodes; the original has {len(found.captured.graph.nodes):,}"),
        ("opaque", "; ".join(f"{o.path or o.node}: {o.why}" for o in found.opaque[:10]) or "none"),
    ]


def _picture(done: Run, kind: str) -> str:
    try:
        held = rendered(kind, done, "png", dpi=110)
    except InputError as why:  # not every network takes images, or has weights, or a CoB that is free
        return f"<p class='hint'>{html.escape(f'{_CAPTIONS[kind]} {why}')}</p>"
    source = f"data:image/png;base64,{base64.b64encode(held).decode()}"
    text = html.escape(_CAPTIONS[kind])
    return f'<figure><img src="{source}" alt="{text}" id="picture-{kind}"><figcaption>{text}</figcaption></figure>'


def _data(done: Run, facts: list[NodeFacts]) -> dict[str, Any]:
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
