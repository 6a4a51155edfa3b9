"""A plan with cached facts for the views of `inspect`, in words."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict

from torch import fx
from torch.utils import _pytree as pytree

from fxteleport.explain.groups import Group
from fxteleport.explain.scalings import Use
from fxteleport.passes.capture.leaf_table import WHOLE
from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.graph.node_info import info
from fxteleport.plan.plan import Plan
from fxteleport.tools.inspection.phrasing import tied_words, wrap_words


class Reading:
    """A plan with cached facts for the views."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.nodes: dict[str, fx.Node] = {n.name: n for n in plan.captured.graph.nodes}
        self._uses: dict[str, list[Use]] = {}
        self.calls = Counter(str(n.target) for n in self.nodes.values() if n.op == "call_module")

    def place(self, name: str) -> str:
        """The module that a node is, or is in; for a parameter, its module."""
        node = self.nodes.get(name)
        return home(node) if node is not None else name.rpartition(".")[0]

    def map_of(self, node: fx.Node) -> CobMap | None:
        """The map of a node's value; of the first tensor where it has several."""
        if node.op == "get_attr":
            return self.tensor_map(str(node.target))
        maps = (m for m in pytree.tree_leaves(self.plan.constrained.maps.get(node)) if isinstance(m, CobMap))
        return next(maps, None)

    def tensor_map(self, name: str) -> CobMap | None:
        """The map of a parameter or buffer."""
        captured = self.plan.captured
        return self.plan.constrained.tensors.get(captured.canonical.get(name, name))

    def uses(self, node: fx.Node) -> list[Use]:
        """The groups in a node's value."""
        if node.name not in self._uses:
            self._uses[node.name] = self.plan.uses(self.map_of(node))
        return self._uses[node.name]

    @functools.cached_property
    def tensors(self) -> dict[str, list[Use]]:
        """The groups that scale each parameter and buffer; tied ones under each of their names."""
        return {name: self.plan.uses(self.tensor_map(name)) for name in self.plan.captured.metas}

    @functools.cached_property
    def wrapped(self) -> dict[str, str]:
        """Node name -> how its operation is wrapped, in words; only where its CoB is not structurally 1."""
        texts = {}
        for node, wrap in self.plan.constrained.wraps.items():
            words = wrap_words(wrap, self.plan.uses(wrap.before), self.plan.uses(wrap.after), self.groups)
            if words:
                texts[node.name] = words
        return texts

    @property
    def groups(self) -> list[Group]:
        return self.plan.groups

    def operation(self, node: fx.Node) -> str:
        """A node's operation: a module's class, or a function's name."""
        if node.op == "call_module":
            captured = self.plan.captured
            kept = captured.classes.get(str(node.target)) or type(captured.modules.get(str(node.target)))
            return kept.__name__
        if node.op in ("placeholder", "get_attr"):
            return "input" if node.op == "placeholder" else "parameter"
        target = node.target
        return target if isinstance(target, str) else getattr(target, "__name__", str(target))

    @functools.cached_property
    def doings(self) -> dict[str, list[str]]:
        """Node name -> what it does to groups: joins, creates or pins them (in words)."""
        texts: dict[str, list[str]] = defaultdict(list)
        for group, links in zip(self.groups, self.plan.links, strict=True):
            joined = {link.node: link.why for link in links if link.node and group.kind != "pinned"}
            for node, why in joined.items():
                texts[node].append(f"joins #{group.id}: {why}")
            for node in dict.fromkeys(m.node for m in group.members if m.node in self.nodes):
                texts[node].append(f"makes neurons of #{group.id}")
            where, colon, why = group.why.partition(": ")
            if group.kind == "pinned" and colon and where in self.nodes:
                texts[where].append(f"pins #{group.id}: {why}")
        for tie in self.plan.ties:
            texts[tie.node].append(f"ties {tied_words(tie)}: {tie.why}")
        return texts


def home(node: fx.Node) -> str:
    """The module that a node is, or is in."""
    path = str(node.target if node.op == "call_module" else info(node).path)
    return "" if path == WHOLE else path
