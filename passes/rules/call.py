"""One node as its rule sees it: operands, modes, and what a rule may ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxteleport.passes.domain.cob_map import CobMap, on_symbols, single
from fxteleport.passes.domain.constraints import Origin, System
from fxteleport.passes.domain.size import Extent
from fxteleport.passes.errors import Decline
from fxteleport.passes.graph.conditions import Condition
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.ops import call_of, name_of
from fxteleport.passes.graph.source_location import quoted
from fxteleport.passes.graph.structure import PLAIN
from fxteleport.passes.rules.common_factor import CommonFactor
from fxteleport.passes.rules.operand import Operand, Parameters, Unknown


class State(Protocol):
    """What a rule reads and changes beside the map that it returns: the interpreter's run."""

    system: System
    conditions: list[Condition]

    @property
    def parameters(self) -> Parameters:
        """The model's parameters and buffers."""

    def sizes_of(self, node: fx.Node) -> tuple[Extent, ...]:
        """The axes of a node's tensor."""

    def settled(self, size: Extent) -> Extent:
        """A size with the equations of the graph substituted (`Sizes.settled`)."""

    def example(self, size: Extent) -> int:
        """The value of a size in the example."""

    def is_fixed(self, node: fx.Node) -> bool:
        """True for a node that depends on no input and no parameter."""


@dataclass(frozen=True, slots=True)
class Wrap:
    """How a node is teleported where its parameters cannot do it.

    Its input (argument `position`) is divided by `before`, its output multiplied by `after`. `part` says which
    part of them matters: "all", "sign" (a positively homogeneous operation) or "magnitude" (an odd one). Where the node
    ends a region, `region` is the node before that, whose value is divided for it, and the nodes in it. Of a norm,
    `common` is what can be done in place of the division where `before` is one positive number; None where nothing can.
    """

    before: CobMap | None
    after: CobMap | None
    part: str = "all"
    position: int = 0
    region: tuple[fx.Node, frozenset[fx.Node]] | None = None
    common: CommonFactor | None = None

    def source(self, node: fx.Node) -> fx.Node:
        """What is divided, where `node` is wrapped."""
        return node.args[self.position] if self.region is None else self.region[0]  # type: ignore[return-value]


@dataclass(slots=True)
class Call:
    """One node as its rule sees it. `full` is false also in mode "full" where the node cannot be wrapped."""

    node: fx.Node
    value: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    module: nn.Module | None
    state: State
    full: bool
    norm_stats: str
    norms: str = "exact"
    wrapping: Wrap | None = None
    scaled: Wrap | None = None

    @property
    def name(self) -> str:
        """The name that all spellings of the operation share."""
        return name_of(self.node.target)

    @property
    def sizes(self) -> tuple[Extent, ...]:
        """The axes of the result, a tensor, as sizes."""
        return self.state.sizes_of(self.node)

    def settled(self, size: Extent) -> Extent:
        """A size with what the graph insists on put in."""
        return self.state.settled(size)

    def example(self, size: Extent) -> int:
        """What a size is in the example."""
        return self.state.example(size)

    # -- constraints -----------------------------------------------------------------------------------

    def origin(self, why: str) -> Origin:
        return Origin(self.node.name, why)

    def same(self, a: CobMap, b: CobMap, why: str) -> None:
        """Two CoBs are equal wherever both apply."""
        self.state.system.same(a, b, self.origin(why))

    def pin(self, a: CobMap, why: str) -> None:
        """The CoB is 1."""
        if a.factors:
            self.state.system.pin(a, self.origin(why))

    def constant(self, a: CobMap, axes: Sequence[int], why: str) -> CobMap:
        """The CoB does not vary along axes; returns the map with size 1 there."""
        return self.state.system.constant(a, axes, self.origin(why)) if a.factors else a

    def fresh(self, shape: Sequence[int], why: str = "output") -> CobMap:
        """New neurons: a free CoB for each position of `shape`."""
        return single(self.state.system.fresh(shape, self.origin(why)))

    def named(self, a: CobMap, why: str) -> CobMap:
        """A map of one factor that equals a product of several: the same for the same product."""
        return single(self.state.system.named(a, self.origin(why)))

    def filled(self, a: CobMap, why: str) -> CobMap:
        """The map with a new CoB in place of each structural zero, for a position that will not stay zero."""
        if not a.zeros:
            return a
        full = self.fresh(torch.broadcast_shapes(*(s.shape for s, _ in a.factors)), why)
        self.same(full, a, why)
        return full

    def require(self, operand: Operand | None, cob: CobMap, why: str) -> None:
        """This operand must have this CoB: decides an unbound parameter's, constrains any other."""
        if operand is None:
            return
        cob = cob.aligned(operand.rank)
        operand.use()
        if operand.is_unbound and fits(cob, operand.shape):
            # settled: what meets zeros here may meet others in its next use
            self.state.parameters.bind(operand.name, cob.settled())
            return
        if operand.name is not None and not operand.is_unbound:
            why = f"the weight '{operand.name}' has one scale for all its uses"
        self.same(operand.map, cob, why)

    def rest_on(self, kind: str, value: str, everywhere: bool = False) -> None:
        """Note a condition (see `Condition`) that this node's constraints hold under, and no guard checks."""
        source = "" if everywhere else quoted(info(self.node).source)
        node, path = ("", "") if everywhere else (self.node.name, info(self.node).path)
        self.state.conditions.append(Condition(kind, node, path, source, value))

    # -- operations that are wrapped -------------------------------------------------------------------

    def wrap(
        self,
        before: CobMap | None,
        after: CobMap | None,
        part: str = "all",
        position: int = 0,
        common: CommonFactor | None = None,
    ) -> None:
        """Teleport this node as `after * f(x / before)` (paper, eq. 2)."""
        if not self.full:
            raise Decline("it would need another operation, which mode='weights' does not allow")
        if position >= len(self.node.args):
            raise Decline("its input is given by keyword")
        if (before is not None and before.factors) or (after is not None and after.factors):
            self.wrapping = Wrap(before, after, part, position, common=common)

    def approximate(self, a: CobMap, common: CommonFactor) -> None:
        """Let a norm's input have one positive factor, without scaling its epsilon (`norms="scaled"`)."""
        one = one_factor(self.state.system, a, self.origin(TOGETHER))
        if one.factors:
            self.rest_on("norm", EPSILON_STAYS)
            self.scaled = Wrap(one, None, common=common)

    def positive(self, a: CobMap, why: str) -> None:
        self.state.system.require_positive(a, self.origin(why))

    def unit(self, a: CobMap, why: str) -> None:
        self.state.system.require_unit(a, self.origin(why))

    # -- helpers ---------------------------------------------------------------------------------------

    @staticmethod
    def shape_only(*arguments: Any) -> None:
        """These arguments give a shape or a type, not values: their CoB does not matter."""
        for x in arguments:
            if isinstance(x, Operand):
                x.use()

    @staticmethod
    def decline(why: str) -> NoReturn:
        """The rule does not cover this call."""
        raise Decline(why)

    def rerun(self, symbols: dict[Operand, Tensor], guessing: bool = False) -> Any:
        """The operation itself, on symbols in place of operands; other tensors must be known integers.

        With `guessing`, a number that is unknown before the run takes its value in the example.
        """
        operands = list(symbols)

        def run(*given: Tensor) -> Any:
            table = dict(zip(operands, given, strict=True))

            args = tuple([_with_symbols(x, table, guessing) for x in self.args])
            kwargs = {k: _with_symbols(x, table, guessing) for k, x in self.kwargs.items()}
            fn = self.module if self.module is not None else call_of(self.node.op, self.node.target)
            return fn(*args, **kwargs)

        return on_symbols(run, *(symbols[o].detach() for o in operands))  # an in-place operation may reshape it


def one_factor(system: System, a: CobMap, origin: Origin) -> CobMap:
    """A map that is required to be one positive number at every position."""
    rank = max((s.ndim for s, _ in a.factors), default=0)
    one = system.constant(a, range(rank), origin) if a.factors else a
    system.require_positive(one, Origin(origin.node, "a norm forgets a scale, and no sign"))
    return one


TOGETHER = "it is normalised together, and the norm's epsilon is one number"
EPSILON_STAYS = (
    "a norm's epsilon stays, though its input is c times as large (norms='scaled'): its result differs by at most"
    " eps / (2 variance) * max(1, 1 / c^2) of itself"
)


def _with_symbols(x: Any, table: Mapping[Operand, Tensor], guessing: bool) -> Any:
    """An argument for a rerun on symbols: the symbols in place of these operands, the values of the others."""
    kind = type(x)
    if kind in PLAIN:
        return x
    if kind is tuple or kind is list:
        return kind([_with_symbols(item, table, guessing) for item in x])
    if kind is slice:
        return slice(*[_with_symbols(end, table, guessing) for end in (x.start, x.stop, x.step)])
    if kind is Unknown:
        if not guessing:
            raise Decline("it depends on a number that is not known before the run")
        return x.value
    if kind is not Operand:
        is_leaf = kind not in pytree.SUPPORTED_NODES
        return x if is_leaf else pytree.tree_map(lambda item: _with_symbols(item, table, guessing), x)
    if x in table:
        return table[x]
    if x.value.is_meta:
        raise Decline("it depends on an index or a value that is not known before the run")
    return x.value


def fits(cob: CobMap, shape: Sequence[int]) -> bool:
    """True for a map that can be the map of a tensor of this shape."""
    size = tuple(shape)
    for symbols, _ in cob.factors:
        own = symbols.shape
        if own != size and (len(own) != len(size) or any(a not in (1, b) for a, b in zip(own, size, strict=True))):
            return False
    return True
