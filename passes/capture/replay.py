"""Replay: whether a captured graph runs on inputs of other shapes, by running it on meta tensors."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from fxteleport.passes.capture.meta_values import META, tree_map
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.ops import call_of

Shapes = dict[fx.Node, tuple[int, ...]]
_MANY_INPUTS = 4  # with more inputs, only the shapes of all are changed together


def other_ranks(inputs: Sequence[fx.Node]) -> Iterator[Shapes]:
    """Input shapes with one axis fewer or more, for all inputs or for one."""
    together = [list(inputs), *([n] for n in inputs if 1 < len(inputs) <= _MANY_INPUTS)]
    for changed in together:
        for change in (lambda s: s[1:], lambda s: (*s[:1], *s[2:]), lambda s: (1, *s), lambda s: (2, *s)):
            yield {n: tuple(change(tuple(info(n).value.shape))) for n in changed}


def other_sizes(inputs: Sequence[fx.Node]) -> Iterator[Shapes]:
    """Input shapes with another size along one axis, for all inputs that have the size or for one."""
    shapes = {n: tuple(info(n).value.shape) for n in inputs}
    axes = {(i, size) for shape in shapes.values() for i, size in enumerate(shape)}
    for i, size in sorted(axes):
        having = [n for n in inputs if shapes[n][i : i + 1] == (size,)]
        for changed in [having, *([n] for n in having if 1 < len(having) <= _MANY_INPUTS)]:
            for other in (2, 1, 2 * size):
                if other != size:
                    yield {n: (*shapes[n][:i], other, *shapes[n][i + 1 :]) for n in changed}


def depending(graph: fx.Graph, sources: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes that depend on `sources`, and these."""
    found = set(sources)
    for node in graph.nodes:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def runs(
    modules: Mapping[str, nn.Module],
    opaque: Container[Any],
    graph: fx.Graph,
    shapes: Shapes,
    last: fx.Node | None = None,
    requires: Mapping[fx.Node, Callable[[Any], bool]] | None = None,
) -> bool:
    """True where a graph runs on inputs of other shapes; opaque calls are assumed to run.

    Args:
        last: stop after this node.
        requires: node -> a predicate that its value must satisfy.
    """
    values: dict[fx.Node, Any] = {}

    def value_of(node: fx.Node) -> Any:
        return values[node] if node in values else info(node).value

    for node in graph.nodes:
        if node in shapes:
            values[node] = torch.empty(shapes[node], dtype=info(node).value.dtype, device=META)
        elif node.op not in ("placeholder", "output") and not values.keys().isdisjoint(node.all_input_nodes):
            if node.target in opaque or info(node).trust:
                return True
            target = modules[str(node.target)] if node.op == "call_module" else node.target
            args, kwargs = tree_map(_on_meta, map_arg((node.args, node.kwargs), value_of))  # type: ignore[arg-type]
            try:
                values[node] = call_of(node.op, target)(*args, **kwargs)
            except Exception:  # whatever an operation raises, or a guard
                return False
        if requires and node in requires and not requires[node](value_of(node)):
            return False
        if node is last:
            break
    return True


def _on_meta(x: Any) -> Any:
    return x.to(META) if isinstance(x, Tensor) else META if isinstance(x, torch.device) else x
