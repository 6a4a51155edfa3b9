"""Model Explorer: the rewritten graph and what teleportation did to it, for Google's viewer of large graphs.

The graph is one JSON file in the viewer's own format, with the module hierarchy as namespaces. Beside it lies one
file of node data for each of `OVERLAYS`, which colours the nodes: NAME.json, NAME.group.json, NAME.cob.json...
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxteleport.atomic_files import write_text
from fxteleport.passes.errors import InputError
from fxteleport.tools.checking.session import Run
from fxteleport.tools.inspection.node_facts import ADDED, OWN_EPSILON, WRAPPED, NodeFacts, node_facts
from fxteleport.tools.plots.palette import MIXED, dark_text, group_colour

Data = dict[str, Any]
_GRAPH = "teleported"  # the graph's id, which node data name
_LISTED = 12  # groups of a value that are named one by one
_CHANGES = {
    ADDED: "added by teleportation", WRAPPED: "wrapped: tau * f(x / tau)",
    OWN_EPSILON: "its epsilon takes its input's factor", "": "as in the original",
}  # fmt: skip
# Light to dark, told apart by any colour vision and in grey.
_GRADIENT = [
    {"stop": stop, "bgColor": colour, "textColor": "#000000" if stop < 0.5 else "#ffffff"}
    for stop, colour in ((0.0, "#f7fbff"), (0.33, "#9ecae1"), (0.66, "#3182bd"), (1.0, "#08306b"))
]


def write_explorer(done: Run, path: Path) -> list[Path]:
    """Write the graph to `path` (a .json file) and the overlays beside it; returns the files, the graph first.

    Raises:
        InputError: the path does not end in .json.
        CheckpointError: a file cannot be written.
    """
    if path.suffix != ".json":
        raise InputError(f"Model Explorer reads .json files; got '{path}'")
    facts = node_facts(done)
    written = {path: _text([graph(done, facts)])}
    for overlay in OVERLAYS:
        written[path.with_suffix(f".{overlay.key}.json")] = _text({_GRAPH: node_data(overlay, facts)})
    for file, text in written.items():
        write_text(file, text)
    return list(written)


def explore(done: Run) -> None:
    """Open the graph and its overlays in Model Explorer, in the browser; returns when it is stopped (Ctrl-C).

    Raises:
        InputError: Model Explorer is not installed.
    """
    explorer = _model_explorer()
    facts = node_facts(done)
    config = explorer.config()
    config.graphs_list.append(_text({"graphs": [graph(done, facts)]}))  # as its own add_model_from_pytorch does
    config.model_sources.append({"url": f"graphs://{_file_name(done)}/0"})
    for overlay in OVERLAYS:
        config.add_node_data(overlay.title, _text({_GRAPH: node_data(overlay, facts)}))
    explorer.visualize_from_config(config)


def _model_explorer() -> Any:
    try:
        import model_explorer
    except ImportError:
        raise InputError("Model Explorer is not installed: pip install 'fxteleport[explorer]'") from None
    return model_explorer


def _file_name(done: Run) -> str:
    return Path(done.loaded.spec.replace(":", "_")).name.replace("/", "_")


def _text(data: Any) -> str:
    return json.dumps(data, allow_nan=False)


# -- the graph -------------------------------------------------------------------------------------------


def graph(done: Run, facts: list[NodeFacts]) -> Data:
    """The rewritten graph in the viewer's format."""
    return {"id": _GRAPH, "nodes": [_node(fact) for fact in facts], "groupNodeAttributes": _about(done)}


def _node(fact: NodeFacts) -> Data:
    return {
        "id": fact.name,
        "label": _label(fact),
        "namespace": "/".join(part.replace("/", "_") for part in fact.modules),
        "incomingEdges": [
            {"sourceNodeId": source, "sourceNodeOutputId": "0", "targetNodeInputId": str(i)}
            for i, source in enumerate(fact.inputs)
        ],
        "attrs": [{"key": key, "value": value} for key, value in _attributes(fact) if value],
        "outputsMetadata": [{"id": "0", "attrs": [{"key": "value", "value": fact.shape}]}],
    }


def _label(fact: NodeFacts) -> str:
    """`conv1: Conv2d` for a module, the operation for the rest."""
    own = fact.path.rpartition(".")[2]
    return f"{own}: {fact.op}" if fact.path != ".".join(fact.modules) else fact.op


def _attributes(fact: NodeFacts) -> list[tuple[str, str]]:
    cob, error = fact.cob, fact.error
    return [
        ("node", fact.name),
        ("module", fact.path),
        ("teleportation", _CHANGES[fact.change]),
        ("groups", _groups(fact)),
        ("CoB", f"|tau| {cob.low:.4g} to {cob.high:.4g}, {cob.negative:.1%} negative" if cob else ""),
        ("parameters", f"{fact.parameters:,}, {fact.moved:.2%} moved" if fact.moved is not None else ""),
        ("error", "" if error is None else f"{error:.3g} of the largest value" if error else "equal to the last bit"),
    ]


def _groups(fact: NodeFacts) -> str:
    more = f" and {len(fact.groups) - _LISTED} more" if len(fact.groups) > _LISTED else ""
    listed = ", ".join(f"#{i}" for i in fact.groups[:_LISTED])
    return f"{listed}{more} ({fact.kind})" if listed else fact.kind


def _about(done: Run) -> dict[str, dict[str, str]]:
    """The facts that the viewer shows while nothing is selected."""
    s, report = done.settings, done.report
    result = {
        "model": done.loaded.spec,
        "same function": "yes" if report.passed else "NO",
        "largest relative difference": f"{report.max_rel:.3g}",
        "CoB values": f"{done.plan.num_free:,}",
        "parameters moved": f"{done.plan.moved:.2%} of {done.loaded.parameters:,}",
        "law": f"{s.landscape}, range {s.cob_range:g}, seed {s.seed}{', powers of two' if s.exact else ''}",
        "plan": f"mode {s.mode}, norm statistics {s.norm_stats}",
    }
    return {"": result}


# -- overlays --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overlay:
    """One colouring of the nodes: a file's middle name, a title, and a node's result (None leaves it out)."""

    key: str
    title: str
    result: Callable[[NodeFacts], Data | None]


def node_data(overlay: Overlay, facts: list[NodeFacts]) -> Data:
    """Node data in the viewer's format: node id -> value, with its colour or a gradient."""
    results = {fact.name: held for fact in facts if (held := overlay.result(fact)) is not None}
    if any(isinstance(held["value"], str) for held in results.values()):
        more: Data = {"hideInAggregatedStatsTable": True, "hideInChildrenStatsTable": True}
    else:
        more = {"gradient": _GRADIENT, "hideAggregatedStats": ["sum"]}
    return {"name": overlay.title, "results": results, **more}


def _group(fact: NodeFacts) -> Data | None:
    if fact.kind == "none":
        return None
    if not fact.groups or fact.kind == "pinned":
        colour, value = group_colour(0, "pinned"), "pinned to 1"
    elif len(fact.groups) == 1:
        colour, value = group_colour(fact.groups[0]), f"#{fact.groups[0]} ({fact.kind})"
    else:
        colour, value = MIXED, f"{len(fact.groups)} groups"
    return {"value": value, "bgColor": colour, "textColor": "#000000" if dark_text(colour) else "#ffffff"}


def _cob(fact: NodeFacts) -> Data | None:
    return _number(fact.cob.doublings if fact.cob else None)


def _moved(fact: NodeFacts) -> Data | None:
    return _number(fact.moved)


def _error(fact: NodeFacts) -> Data | None:
    return _number(fact.error)


def _number(x: float | None) -> Data | None:
    """A number for JSON, with 1e308 in place of infinity."""
    return None if x is None else {"value": float(x) if math.isfinite(x) else 1e308}


# The viewer shows the last one first.
OVERLAYS = (
    Overlay("error", "equivalence error, relative", _error),
    Overlay("moved", "share of parameters moved", _moved),
    Overlay("cob", "CoB magnitude: mean |log2 |tau||", _cob),
    Overlay("group", "neuron group", _group),
)
