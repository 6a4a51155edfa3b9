"""Regions: parts of a graph from one tensor to one that are teleported as one operation.

`x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)` is a norm, and `0.5 * x * (1 + torch.tanh(x + 0.04 * x ** 3))`
an activation, but the rules of their operations pin more than `nn.RMSNorm` and `F.gelu` do. Given x / tau, a region
computes what the original does, for any tau. So it may be wrapped (`mode="full"`) if it reads no other tensor, and no
node outside reads a value inside. The exit of an *elementwise* region is tau f(x / tau), tau times the original; that
of a *norm*, which a common scale of x does not change, is the original itself.

Forms (`rules/forms.py`) tell which a region is. Regions are looked for where the rules pin too much: at a sum of terms
with several exponents of a CoB, and where a value is divided by a mean, a sum or a norm over positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from fxteleport.passes.constrain.dependence import Dependence, Source
from fxteleport.passes.constrain.epsilons import common_factor
from fxteleport.passes.constrain.origins import Origins, is_constant, is_part
from fxteleport.passes.domain.cob_map import IDENTITY, CobMap
from fxteleport.passes.domain.constraints import Origin, System
from fxteleport.passes.graph.grad_mode import switch
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.ops import name_of
from fxteleport.passes.rules.call import TOGETHER, Wrap, one_factor
from fxteleport.passes.rules.common_factor import CommonFactor
from fxteleport.passes.rules.forms import Form, clipped, reduced, spread, total, variance
from fxteleport.passes.rules.operand import Operand, is_dense
from fxteleport.passes.rules.operands import of_nodes


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a graph from a tensor `entry` to a tensor `exit`.

    Attributes:
        inside: its nodes, with the exit and without the entry.
        is_norm: a common scale of the entry does not change it; else it is elementwise.
        has_poles: the sign of a zero of the entry decides the sign of an infinity at the exit.
        common: for a norm, what one positive factor of the entry changes; None where that is not known.
    """

    entry: fx.Node
    exit: fx.Node
    inside: frozenset[fx.Node]
    is_norm: bool
    has_poles: bool
    common: CommonFactor | None = None


def regions(graph: fx.Graph, modules: Mapping[str, nn.Module], dependence: Dependence) -> dict[fx.Node, Region]:
    """The region of each node that is in one."""
    if not any(name_of(node.target) in _ENDING for node in graph.nodes):
        return {}
    return _Finder(graph, modules, dependence).run()


def map_behind(region: Region, entry: Operand, system: System) -> tuple[CobMap, Wrap | None]:
    """The map of a region's exit, given the operand at its entry, and how the region is wrapped."""
    origin = region.exit.name
    for axis, _ in entry.folds:
        entry.unfold(system, axis, Origin(origin, "how many positions there are is not known"))
    cob = entry.map.settled()
    if region.has_poles:
        why = "its pole has the sign of the zero, and a sum that cancels is +0 under any CoB"
        system.require_positive(cob, Origin(origin, why))
    after = None if region.is_norm else cob
    within = region.entry, region.inside
    wrap = Wrap(cob, after, region=within, common=region.common) if cob.factors else None
    return IDENTITY if region.is_norm else cob, wrap


def factor_before(region: Region, entry: Operand, system: System) -> CobMap:
    """The map of the operand before a norm that keeps its epsilon: one positive number."""
    for axis, _ in entry.folds:
        entry.unfold(system, axis, Origin(region.exit.name, "how many positions there are is not known"))
    return one_factor(system, entry.map, Origin(region.exit.name, TOGETHER))


def power_of(one: CobMap, degree: int, rank: int) -> CobMap:
    """The map of a tensor of any rank that is multiplied by a power of one number."""
    return (one**degree).each(lambda s: s.reshape((1,) * rank))


class _Finder:
    """Finds the regions of one graph."""

    def __init__(self, graph: fx.Graph, modules: Mapping[str, nn.Module], dependence: Dependence) -> None:
        self.graph, self.modules, self.dependence = graph, modules, dependence
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self.switches = [i for node, i in self.order.items() if node.target is switch]
        self.origins = Origins(graph, modules)
        self.found: dict[fx.Node, Region] = {}

    def run(self) -> dict[fx.Node, Region]:
        for names, find in ((_QUOTIENTS, self.norm_to), (_SUMS, self.activation_at)):
            for node in self.origins.nearest:
                if node not in self.found and name_of(node.target) in names:
                    self.take(find(node))
        return self.found

    def take(self, region: Region | None) -> None:
        if region is not None and self.found.keys().isdisjoint(region.inside):
            self.found |= dict.fromkeys(region.inside, region)

    def between(self, entry: fx.Node, exit: fx.Node) -> list[fx.Node]:
        """The nodes between an entry and an exit, in order: all that the exit is computed from, constants excepted."""
        waiting, seen = [exit], {exit}
        while waiting:
            for source in waiting.pop().all_input_nodes:
                if source is not entry and source not in seen and not is_constant(source):
                    seen.add(source)
                    waiting.append(source)
        return sorted(seen, key=self.order.__getitem__)

    def forms(self, entry: fx.Node, inside: list[fx.Node]) -> dict[fx.Node, Form] | None:
        """The forms of nodes that depend on an entry alone; None where one has none."""
        known = {entry: Form()}
        for node in inside:
            form = self.form(node, known)
            if form is None:
                return None
            if isinstance(form, Form) and info(node).value.shape != info(entry).value.shape:
                form = Form(form.degree, form.exponent, False, form.is_signless, form.has_poles)
            known[node] = form
        return known

    def form(self, node: fx.Node, known: Mapping[fx.Node, Form]) -> Form | None:
        def given(x: fx.Node) -> Any:
            return known.get(x, info(x).value)

        if is_part(node):
            return known[node.args[0]][node.args[1]] if node.args[0] in known else None  # type: ignore[index,no-any-return]
        target: Any = self.modules[str(node.target)] if node.op == "call_module" else node.target
        name = type(target).__name__ if node.op == "call_module" else name_of(target)
        args, kwargs = of_nodes(node.args, given), of_nodes(node.kwargs, given)
        try:
            swapped = target in ("__rtruediv__", "__rdiv__", "__rpow__")
            form: Form | None = self.origins.rules[node].form(name, swapped, *args, **kwargs)  # type: ignore[misc]
        except TypeError:  # the call has arguments that the form does not take
            return None
        return form

    def made(
        self, entry: fx.Node, exit: fx.Node, inside: list[fx.Node], forms: Mapping[fx.Node, Form]
    ) -> Region | None:
        """The region, unless a node outside reads a value inside, or a switch of the gradient mode is inside."""
        nodes = frozenset(inside)
        read = (user for node in inside if node is not exit for user in node.users)
        if any(user not in nodes and not _asks_for_size(user) for user in read):
            return None
        first, last = self.order[inside[0]], self.order[exit]
        if any(first < i < last for i in self.switches) or not is_dense(info(entry).value):
            return None
        poles = any(form.has_poles for form in forms.values() if isinstance(form, Form))
        if forms[exit].is_elementwise:
            return Region(entry, exit, nodes, False, poles)
        numbers = [node for node in inside if self.origins.rules[node].form in (total, clipped)]
        return Region(entry, exit, nodes, True, poles, common_factor(entry, inside, forms, numbers))

    def norm_to(self, exit: fx.Node) -> Region | None:
        """The norm that ends in a quotient: the one with the most sums and means."""
        best: Region | None = None
        known = 0  # sums and means in it
        for entry in self.origins.chain(exit):
            if self.dependence.of(entry) is not Source.DATA:  # the norm of a weight: the rules give one CoB a row
                break
            if not isinstance(info(entry).value, Tensor) or info(entry).value.shape != info(exit).value.shape:
                continue
            inside = self.between(entry, exit)
            if len(inside) > _LONGEST:
                break
            forms = self.forms(entry, inside)
            if forms is None or forms[exit].degree != 0:
                continue
            sums = sum(self.origins.rules[node].form in _REDUCTIONS for node in inside)
            if sums > known and (region := self.made(entry, exit, inside, forms)) is not None:
                best, known = region, sums
        return best

    def activation_at(self, node: fx.Node) -> Region | None:
        """An elementwise region around a sum, whose terms are no multiples of one CoB."""
        for entry in self.origins.chain(node):
            if not isinstance(info(entry).value, Tensor):
                continue
            inside = self.between(entry, node)
            forms = self.forms(entry, inside) if self.dependence.of(entry) is not Source.FIXED else None
            if forms is None or not forms[node].is_elementwise or len(inside) > _LONGEST:
                return None
            users = {user for user in entry.users if entry in self.origins.chain(user)}
            if len(users) < 2:  # the rules cover a chain of operations, such as `x + 1`
                continue
            if forms[node].exponent is not None:
                return None
            return self.around(entry, node, users) or self.made(entry, node, inside, forms)
        return None

    def around(self, entry: fx.Node, node: fx.Node, users: set[fx.Node]) -> Region | None:
        """The shortest elementwise region from an entry that holds a node and all functions of the entry."""
        for exit in self.exits(entry, node):
            inside = self.between(entry, exit)
            if users.issubset(inside) and node in inside:
                forms = self.forms(entry, inside)
                if forms is None or not forms[exit].is_elementwise:
                    return None
                region = self.made(entry, exit, inside, forms)
                if region is not None:
                    return region
        return None

    def exits(self, entry: fx.Node, node: fx.Node) -> Iterator[fx.Node]:
        """The nodes from one on that are functions of an entry, in order."""
        at = node
        for _ in range(_LONGEST):
            if at.op in ("root", "output"):
                return
            if at in self.origins.nearest and entry in self.origins.chain(at):
                yield at
            at = at.next


_QUOTIENTS = frozenset("mul multiply imul div divide true_divide truediv itruediv __rtruediv__".split())
_SUMS = frozenset("add sub subtract rsub iadd isub __radd__ __rsub__".split())
_ENDING = _QUOTIENTS | _SUMS  # a region ends in one of them
_REDUCTIONS = (reduced, variance, spread)
_LONGEST = 64  # nodes of a region


def _asks_for_size(node: fx.Node) -> bool:
    """True for a node that reads the size, type or device of a tensor, which no CoB changes."""
    asked = node.args[1] if node.target is getattr else node.target if node.op == "call_method" else None
    return asked in ("shape", "size", "ndim", "dim", "numel", "dtype", "device")
