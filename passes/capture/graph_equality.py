"""Graph equality: do two traces make the same calls on the same things?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from fxteleport.passes.capture.opaque_leaves import Applied, Given, Helper, is_like_layer
from fxteleport.passes.capture.plain_functions import PlainFunction
from fxteleport.passes.graph.containers import kind_of, parts
from fxteleport.passes.graph.guards import GUARDS, expect_tensor
from fxteleport.passes.graph.leaf_modules import DROPOUT
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.storage import equal

Added = Mapping[str, nn.Module | Tensor]


def alike(
    evaluated: fx.Graph, trained: fx.Graph, added: Added, more: Added, drops: bool = True, less_sure: bool = False
) -> bool:
    """True where two graphs make the same calls, up to the modes of leaves.

    Args:
        drops: compare the probabilities of dropouts, too; in eval mode they do not matter.
        less_sure: the second graph may have fewer guards.
    """
    ones, others = list(evaluated.nodes), list(trained.nodes)
    if less_sure:
        ones, others = _but_for_guards(ones), _but_for_guards(others)
    if len(ones) != len(others):
        return False
    place = {node: _Place(i) for i, node in enumerate(ones)} | {node: _Place(i) for i, node in enumerate(others)}
    if not all(_same_call(a, b, place, added, more, drops) for a, b in zip(ones, others, strict=True)):
        return False
    known = [_spelt(node, place) for node in evaluated.nodes if node.target in GUARDS] if less_sure else []
    asked = [_spelt(node, place) for node in trained.nodes if node.target in GUARDS] if less_sure else []
    return all(any(_implies(other, guard) for other in known) for guard in asked)


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
        return place[source] if source in place and source.target not in GUARDS else _spelt(source, place)

    args, kwargs = map_arg((node.args, node.kwargs), known)  # type: ignore[arg-type]
    if node.target in GUARDS and args and isinstance(args[-1], str):  # type: ignore[arg-type]
        args = args[:-1]  # type: ignore[index]
    return (node.op, node.target, args, kwargs)


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
