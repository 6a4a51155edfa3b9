"""The views of `inspect`: what each prints, and its part of the JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from fxteleport.tools.checking.conditions import resting
from fxteleport.tools.checking.session import Run
from fxteleport.tools.console import count
from fxteleport.tools.inspection import as_json
from fxteleport.tools.inspection.diff import diff_tables, node_changes, tensor_changes
from fxteleport.tools.inspection.group_text import group_lines, node_lines
from fxteleport.tools.inspection.module_rows import Row, module_rows
from fxteleport.tools.inspection.name_lookup import find_group, find_node
from fxteleport.tools.inspection.pinned import other_settings, pinned_lines, reasons
from fxteleport.tools.inspection.plan_view import Reading
from fxteleport.tools.inspection.tree_text import TreeView, percent
from fxteleport.tools.models.request import Loaded
from fxteleport.tools.options.common import Settings


@dataclass(frozen=True)
class View:
    """What a view prints, and its part of the JSON."""

    reading: Reading
    loaded: Loaded
    limit: int
    data: dict[str, Any]

    @cached_property
    def row(self) -> Row:
        """The model's row; the files need none."""
        return module_rows(self.reading)

    def tree(self, every: bool, depth: int | None) -> Iterator[RenderableType]:
        """The module tree, with totals at the top."""
        view = TreeView(self.reading.groups, every, depth)
        yield view.tree(self.row, Text("\n").join(self.totals()))
        hints = ["--group N: one group", "--node NAME: one node or module", "--pinned: what holds freedom back"]
        yield Text("; ".join([*hints, *(["--all: every module"] if view.folded else [])]), style="dim")

    def totals(self) -> Iterator[Text]:
        """The totals."""
        planned, reading = self.reading.plan, self.reading
        sizes = {kind: [g.size for g in reading.groups if g.kind == kind] for kind in ("free", "dependent", "pinned")}
        yield Text(self.loaded.spec, style="bold").append(
            f" {self.row.kind}: {count(self.row.parameters, 'parameter')}, "
            f"{percent(self.row.moved, self.row.parameters) if self.row.parameters else 'none'} can move",
            style="default",
        )
        parts = [f"{count(planned.num_free, 'free CoB value')} in {count(len(sizes['free']), 'group')}"]
        if sizes["dependent"]:
            groups = count(len(sizes["dependent"]), "group")
            parts.append(f"{count(sum(sizes['dependent']), 'dependent value')} in {groups}")
        parts.append(f"{count(sum(sizes['pinned']), 'neuron')} pinned to 1")
        yield Text(", ".join(parts))
        rules = "a rule knows each" if not planned.opaque else f"no rule knows {len(planned.opaque)}: see --pinned"
        nodes = count(len(planned.captured.graph.nodes), "graph node")
        yield Text(f"{nodes} ({rules}), {len(reading.wrapped)} of them wrapped")
        norms = "" if planned.norms == "exact" else f", norms {planned.norms}"
        yield Text(f"mode {planned.mode}, norm statistics {planned.norm_stats}{norms}")
        for name, value in resting(planned.conditions) if planned.conditions else ():
            yield Text(f"{name} {value}" if name else f"  {value}")

    def group(self, text: str) -> Iterator[RenderableType]:
        """One group."""
        yield from group_lines(self.reading, find_group(self.reading, text), self.limit)

    def node(self, name: str) -> Iterator[RenderableType]:
        """One node; the tree of a module that holds several."""
        target = find_node(self.reading, name)
        if not isinstance(target, str):
            yield from node_lines(self.reading, target, self.limit)
            return
        row = next((r for r in self.row.walk() if r.path == target), None)
        if row is None:
            yield Text(f"{target} only passes groups on")
            return
        yield TreeView(self.reading.groups, every=True).tree(row, Text(f"{row.path} {row.kind}", style="bold"))

    def pinned(self) -> Iterator[RenderableType]:
        """Why neurons are pinned."""
        settings = other_settings(self.reading.plan, self.loaded)
        self.data["settings"] = as_json.others(settings)
        yield from pinned_lines(self.reading, reasons(self.reading), settings, self.limit)

    def diff(self, settings: Settings, done: Run | None) -> Iterator[RenderableType]:
        """What a teleportation changes."""
        plan = self.reading.plan
        cob = settings.sample(plan)
        network = done.network if done is not None else plan.rewrite(cob)
        nodes, tensors = list(node_changes(self.reading, network)), list(tensor_changes(plan, cob, network))
        self.data["diff"] = as_json.changes(nodes, tensors)
        yield from diff_tables(nodes, tensors, self.limit)
