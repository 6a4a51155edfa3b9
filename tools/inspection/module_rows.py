"""Rows: a plan along the model's own hierarchy of modules, as data for the tree and for JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import fx, nn

from fxteleport.explain.scalings import Use
from fxteleport.passes.capture.leaf_table import WHOLE
from fxteleport.tools.inspection.plan_view import Reading, home


@dataclass(frozen=True, slots=True)
class Note:
    """What a node does other than pass its groups on: it wraps, joins, creates or pins neurons."""

    node: str
    operation: str
    text: str


@dataclass
class Row:
    """One module.

    Attributes:
        path, name, kind: dotted path, last part of it, and class.
        parameters, moved: its parameter elements (of its parts too), and how many of them can move.
        values: the number of free CoB values whose first neurons are here or in its parts.
        into, out: the groups of its inputs and outputs (for a module without parts).
        tensors: its own parameters and buffers, with the groups that scale them.
        notes: what its nodes do.
        parts: its submodules that do something.
    """

    path: str
    name: str
    kind: str
    parameters: int = 0
    moved: int = 0
    values: int = 0
    into: list[Use] = field(default_factory=list)
    out: list[Use] = field(default_factory=list)
    tensors: list[tuple[str, list[Use]]] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    parts: list[Row] = field(default_factory=list)

    def walk(self) -> Iterator[Row]:
        """This row and those of its parts, depth first."""
        yield self
        for part in self.parts:
            yield from part.walk()


def module_rows(reading: Reading) -> Row:
    """The model's row, with those of all modules that create, join, scale, wrap or pin neurons."""
    plan = reading.plan
    model = plan.captured.model
    rows: dict[str, Row] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        rows[path] = row = Row(path, path.rpartition(".")[2], type(module).__name__)
        if path:
            rows[path.rpartition(".")[0]].parts.append(row)
        _tensors(reading, row, module)
    owned: dict[str, list[fx.Node]] = defaultdict(list)
    for node in plan.captured.graph.nodes:
        owner = home(node)
        while owner not in rows:  # a module that capture made: a dropout in a forward
            owner = owner.rpartition(".")[0]
        if node.op not in ("placeholder", "output"):
            owned[owner].append(node)
    for path, nodes in owned.items():
        _describe(reading, rows[path], nodes)
    for group in reading.groups:
        if group.kind == "free":
            owner = reading.place(group.members[0].node)
            rows[owner if owner in rows else ""].values += group.size
    return _pruned(rows[""])


def _tensors(reading: Reading, row: Row, module: nn.Module) -> None:
    plan = reading.plan
    names = [n for n, t in module._parameters.items() if t is not None]
    for name in [*names, *(n for n, t in module._buffers.items() if t is not None)]:
        full = f"{row.path}.{name}" if row.path else name
        if full not in plan.captured.metas:
            continue
        uses = reading.tensors[full]
        if name in names or any(reading.groups[u.group].kind != "pinned" for u in uses):
            row.tensors.append((name, uses))
        if name in names and plan.captured.canonical[full] == full:
            row.parameters += plan.captured.metas[full].numel()
            row.moved += plan.moved_elements(full)


def _describe(reading: Reading, row: Row, nodes: list[fx.Node]) -> None:
    """Fill in the inputs, outputs and notes of a module's own nodes."""
    calls = [n for n in nodes if n.op == "call_module" and str(n.target) == (row.path or WHOLE)]
    alone = not any(True for _ in _children(reading, row))
    if calls or alone:
        own = calls[:1] or [n for n in nodes if n.op != "get_attr"]
        inside = set(own)
        inputs = (x for n in own for x in n.all_input_nodes if x not in inside and x.op != "get_attr")
        source = next((x for x in inputs if reading.map_of(x) is not None), None)
        row.into = [] if source is None else reading.uses(source)
        row.out = reading.uses(own[-1]) if own else []
    for node in nodes:
        if node in calls and not reading.plan.constrained.rules.get(node.name):
            why = next((o.why for o in reading.plan.opaque if o.node == node.name), "")
            row.notes += [Note(node.name, row.kind, f"no freedom: {why}")] if why else []
        if node.name in reading.wrapped:
            row.notes.append(Note(node.name, reading.operation(node), reading.wrapped[node.name]))
        if node not in calls and node.op != "get_attr":
            row.notes += [Note(node.name, reading.operation(node), text) for text in reading.doings.get(node.name, ())]


def _children(reading: Reading, row: Row) -> Iterator[str]:
    module = reading.plan.captured.model.get_submodule(row.path)
    return (name for name, child in module.named_children() if not isinstance(child, nn.Identity))


def _pruned(row: Row) -> Row:
    """The row without the modules that only pass groups on; totals summed up."""
    row.parts = [_pruned(part) for part in row.parts]
    row.parameters += sum(p.parameters for p in row.parts)
    row.moved += sum(p.moved for p in row.parts)
    row.values += sum(p.values for p in row.parts)
    row.parts = [p for p in row.parts if p.parts or p.tensors or p.notes or _changes(p)]
    return row


def _changes(row: Row) -> bool:
    return [(u.group, u.exponent) for u in row.into] != [(u.group, u.exponent) for u in row.out]
