"""Graph equality: do two traces make the same calls on the same things?

Values that are computed from sizes, weights and constants alone (a table of positions) are compared as expressions,
wherever a graph computes them; all other calls are compared in their order.
"""

from __future__ import annotations

import operator
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from fxteleport.passes.capture.last_run import from_last_run
from fxteleport.passes.capture.opaque_leaves import Applied, Given, Helper, is_like_layer
from fxteleport.passes.capture.plain_functions import PlainFunction
from fxteleport.passes.capture.replay import depending
from fxteleport.passes.graph.aten import draws
from fxteleport.passes.graph.containers import kind_of, parts
from fxteleport.passes.graph.guards import GUARDS, expect, expect_tensor
from fxteleport.passes.graph.leaf_modules import DROPOUT
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.ops import asks_for_form, inputs_read, is_idle
from fxteleport.passes.graph.settings import digest
from fxteleport.passes.graph.storage import equal

Added = Mapping[str, nn.Module | Tensor]


def alike(
    evaluated: fx.Graph,
    trained: fx.Graph,
    added: Added,
    more: Added,
    drops: bool = True,
    less_sure: bool = False,
    remade: Mapping[fx.Node, fx.Node] | None = None,
) -> bool:
    """True where two graphs make the same calls, up to the modes of leaves.

    Args:
        drops: compare the probabilities of dropouts, too; in eval mode they do not matter.
        less_sure: the second graph may have fewer guards.
        remade: nodes of the second graph -> nodes of the first that compute the same value.
    """
    remade = remade or {}
    ones, others = list(evaluated.nodes), list(trained.nodes)
    if less_sure:
        ones, others = _but_for_guards(ones), _but_for_guards(others)
    numbers = _Numbers()
    ones, others = numbers.of(evaluated, ones, added, {}), numbers.of(trained, others, more, remade)
    place = numbers.place
    if len(ones) != len(others):
        return False
    if not all(_same_call(a, b, place, added, more, drops) for a, b in zip(ones, others, strict=True)):
        return False
    looking = _about_state(trained, remade)
    known = [_spelt(node, place) for node in evaluated.nodes if node.target in GUARDS] if less_sure else []
    asking = (node for node in trained.nodes if node.target in GUARDS and node not in looking)
    asked = [_spelt(node, place) for node in asking] if less_sure else []
    return all(any(_implies(other, guard) for other in known) for guard in asked)


def _about_state(graph: fx.Graph, remade: Mapping[fx.Node, fx.Node]) -> set[fx.Node]:
    """The nodes of guards about values that the run before has left; they do not restrict this run's inputs.

    Guards about a value that each run computes alike decide whether it is computed again. Guards about other tensors
    count only if they involve no input.
    """
    left = [node for node in graph.nodes if node.target is from_last_run and isinstance(info(node).value, Tensor)]
    if not (left or remade):
        return set()
    of_inputs = depending(graph, (node for node in graph.nodes if node.op == "placeholder"))
    return (depending(graph, left) - of_inputs) | depending(graph, remade)


class _Numbers:
    """Numbers the nodes of two graphs.

    Attributes:
        place: node -> its number among the calls; equal expressions have the same number in both graphs.
    """

    def __init__(self) -> None:
        self.place: dict[fx.Node, _Place] = {}
        self._expressions: dict[str, _Place] = {}

    def of(
        self, graph: fx.Graph, nodes: list[fx.Node], added: Added, remade: Mapping[fx.Node, fx.Node]
    ) -> list[fx.Node]:
        """Number the nodes of a graph, and return those among `nodes` that are no expressions.

        Args:
            remade: nodes of this graph -> nodes of the graph before that compute the same value.
        """
        compared, calls, made = set(nodes), list[fx.Node](), set[fx.Node]()
        for node in graph.nodes:
            if node in remade:
                made.add(node)
                self.place[node] = self.place.get(remade[node]) or self._number(f"{node.name} stands for what is gone")
            elif _is_expression(node, made):
                made.add(node)
                if (key := self._spelled(node, added)) is not None:
                    self.place[node] = key
            elif node in compared:
                self.place[node] = _Place(len(calls))
                calls.append(node)
        return calls

    def _spelled(self, node: fx.Node, added: Added) -> _Place | None:
        """The number of a node's expression; None if only guards read its operands."""
        if any(source not in self.place for source in node.all_input_nodes):
            return None
        if is_idle(node):
            return self.place[node.all_input_nodes[0]]
        constant = added.get(str(node.target)) if node.op == "get_attr" else None
        if isinstance(constant, Tensor):
            held = digest(constant) or id(constant)  # of a sparse one, no other is known to hold the same
            return self._number(f"{constant.dtype} {tuple(constant.shape)} {held}")
        args, kwargs = map_arg((node.args, node.kwargs), self.place.__getitem__)  # type: ignore[arg-type]
        return self._number(f"{node.op} {node.target!r} {args!r} {kwargs!r}")

    def _number(self, spelled: str) -> _Place:
        return self._expressions.setdefault(spelled, _Place(-1 - len(self._expressions)))


def _is_expression(node: fx.Node, made: Container[fx.Node]) -> bool:
    """True for a call without effects whose operands are in `made`, which are expressions themselves."""
    known = info(node)
    if known.has_effect or known.is_aliased or node.op in ("placeholder", "call_module", "output"):
        return False
    if node.op == "get_attr":
        return True
    only_made = asks_for_form(node) or all(source in made for source in inputs_read(node))
    return only_made and bool(node.all_input_nodes) and not draws(node.target)


def _implies(one: Any, other: Any) -> bool:
    """True for a guard that refuses all that another one does."""
    if one[1] is not expect_tensor or other[1] is not expect_tensor:
        return _equal(one, other)
    return all(b is None or _equal(a, b) for a, b in zip(one[2], other[2], strict=True))  # of any rank, of any type


def _but_for_guards(nodes: list[fx.Node]) -> list[fx.Node]:
    """The nodes without guards, and without nodes that only guards read."""
    left: set[fx.Node] = set()
    for node in reversed(nodes):
        is_looked_at = bool(node.users) and left.issuperset(node.users) and not info(node).has_effect
        if node.target in GUARDS or (is_looked_at and node.op != "placeholder"):
            left.add(node)
    return [node for node in nodes if node not in left]


def _spelt(node: fx.Node, place: Mapping[fx.Node, _Place]) -> Any:
    """A guard (or a node that only guards read) as a value to compare, in terms of the other nodes' numbers."""

    def known(source: fx.Node) -> Any:
        is_numbered = source in place and source.target not in GUARDS and source.target is not operator.eq
        return place[source] if is_numbered else _spelt(source, place)

    args, kwargs = map_arg((node.args, node.kwargs), known)  # type: ignore[arg-type]
    if node.target in GUARDS and args and isinstance(args[-1], str):  # type: ignore[arg-type]
        args = args[:-1]  # type: ignore[index]
    return (node.op, node.target, _said_once(args) if node.target is expect else args, kwargs)


def _said_once(args: Any) -> Any:
    """A guard's operand and value in one spelling: `3 == n` is True (a lookup in a table of sizes) becomes n is 3."""
    asked, expected = args
    if expected is not True or type(asked) is not tuple or asked[1] is not operator.eq:
        return args
    one, other = asked[2]
    return (other, one) if type(one) is int else (one, other) if type(other) is int else args


@dataclass(frozen=True)
class _Place:
    """A node by its number."""

    number: int


def _same_call(a: fx.Node, b: fx.Node, place: Mapping[fx.Node, _Place], added: Added, more: Added, drops: bool) -> bool:
    if b.op == "call_function" and b.target in DROPOUT and info(a).is_idle_dropout:
        x, p, _, inplace = b.args
        leaf = added.get(str(a.target))
        drops = type(leaf) is DROPOUT[b.target] and (leaf.p, leaf.inplace) == (p, inplace)
        return drops and place[a.args[0]] == place[x]  # type: ignore[index]
    if not (info(a).follows_mode and info(b).follows_mode):
        return False
    if a.op != b.op or _effects(a) != _effects(b):
        return False
    if a.op == "placeholder":
        return a.target == b.target
    same = (
        a.target == b.target if a.op not in _NAMING else _same_target(str(a.target), str(b.target), added, more, drops)
    )
    one, other = map_arg((a.args, a.kwargs), place.__getitem__), map_arg((b.args, b.kwargs), place.__getitem__)  # type: ignore[arg-type]
    return same and _equal(one, other)


def _effects(node: fx.Node) -> tuple[Any, ...]:
    known = info(node)
    return known.has_effect, known.is_aliased, known.records_gradients


_NAMING = ("get_attr", "call_module")


def _same_target(a: str, b: str, added: Added, more: Added, drops: bool) -> bool:
    """True for the same module or tensor of the model, or for two added ones that are alike."""
    if (a in added) is not (b in more):
        return False
    if a not in added:
        return a == b
    one, other = added[a], more[b]
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and one.shape == other.shape and equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, Applied) and isinstance(other, Applied):
        return one.function is other.function
    if isinstance(one, (Helper, Given, PlainFunction)):
        return one.is_like(other)  # type: ignore[arg-type]
    if type(one) in _DROPOUTS:
        return one.inplace == other.inplace and (one.p == other.p or not drops)  # type: ignore[union-attr]
    return is_like_layer(one, other)


_DROPOUTS = frozenset(DROPOUT.values())


def _equal(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if kind_of(type(a)) is None:
        return a is b or bool(a == b)
    one, other = dict(parts(a)), dict(parts(b))
    return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
