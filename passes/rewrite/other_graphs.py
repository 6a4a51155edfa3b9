"""The other graphs of an emitted network: of train mode, of other calls, and for data that take other branches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from fxteleport.passes.errors import DataGuardError, GuardError
from fxteleport.passes.graph.guards import expect_form
from fxteleport.passes.graph.ops import leaves_of

T = TypeVar("T")


@dataclass(frozen=True)
class OtherGraphs:
    """All graphs of a network but the first.

    Attributes:
        variants: for data that take other branches, in eval mode (or in both).
        training: train mode's, if it differs.
        training_variants: its variants.
        inner: of modules that opaque code calls, by path.
    """

    variants: tuple[fx.Graph, ...]
    training: fx.Graph | None
    training_variants: tuple[fx.Graph, ...]
    inner: dict[str, fx.Graph] = field(default_factory=dict)

    @classmethod
    def of(cls, graphs: Sequence[fx.Graph], variants: int, inner: Collection[str] = ()) -> OtherGraphs:
        """From a list: `variants` variants, then the graph of train mode and its variants, then the inner graphs."""
        count = len(graphs) - len(inner)
        trained, others = graphs[variants:count], dict(zip(inner, graphs[count:], strict=True))
        return cls(tuple(graphs[:variants]), trained[0] if trained else None, tuple(trained[1:]), others)

    @property
    def all(self) -> tuple[fx.Graph, ...]:
        """The graphs in that order."""
        trained = () if self.training is None else (self.training, *self.training_variants)
        return (*self.variants, *trained, *self.inner.values())


def has_calls(graphs: Sequence[fx.Graph]) -> bool:
    """True where not all graphs take the same arguments, in the same structures."""
    return any(_form(graph) != _form(graphs[0]) for graph in graphs[1:])


def _form(graph: fx.Graph) -> list[str]:
    return [*_names(graph), *(str(guard.args[1:]) for guard in _form_guards(graph))]


def _names(graph: fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if node.op == "placeholder"]


def _form_guards(graph: fx.Graph) -> list[fx.Node]:
    guards = graph.find_nodes(op="call_function", target=expect_form)
    return [guard for guard in guards if isinstance(guard.args[0], fx.Node) and guard.args[0].op == "placeholder"]


def _of_call(graphs: Sequence[tuple[fx.Graph, T]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[T]:
    """What is beside the graphs of a call with such arguments.

    Raises:
        GuardError: there are none.
    """
    found = [run for graph, run in graphs if takes(graph, args, kwargs)]
    if not found:
        known = ", ".join(dict.fromkeys(f"({', '.join(_names(graph))})" for graph, _ in graphs))
        raise GuardError(
            f"this network was captured for the calls {known}, and these inputs are of none, or have another structure:"
            " capture it again, with this call among them"
        )
    return found


def takes(graph: fx.Graph, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """True if a graph is of a call with such arguments."""
    names = _names(graph)
    if len(args) + len(kwargs) != len(names) or set(names[len(args) :]) != kwargs.keys():
        return False
    given = dict(zip(names, args, strict=False)) | kwargs
    try:
        for guard in _form_guards(graph):
            expect_form(given[str(guard.args[0].target)], *guard.args[1:])  # type: ignore[union-attr]
    except GuardError:
        return False
    return True


def trying_variants(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of an emitted network that runs the graph whose data guards agree, of those of such a call.

    Data guards run before anything is written. Random numbers that were drawn before a guard failed are drawn again.
    """

    @functools.wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_exporting():  # a program has one graph, which asserts its data guards
            return forward(self, *args, **kwargs)
        cuda = sorted({x.get_device() for x in leaves_of((args, kwargs)) if isinstance(x, Tensor) and x.is_cuda})
        drawn = torch.get_rng_state(), *map(torch.cuda.get_rng_state, cuda)
        graphs = [(self.graph, functools.partial(forward, self)), *((v.graph, v.forward) for v in self.variants)]
        first, *others = [run for _, run in graphs] if not self.has_calls else _of_call(graphs, args, kwargs)
        try:
            return first(*args, **kwargs)
        except DataGuardError as error:
            for run in others:
                torch.set_rng_state(drawn[0])
                for device, state in zip(cuda, drawn[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
                try:
                    return run(*args, **kwargs)
                except DataGuardError:
                    continue
            raise error from None

    return wrapper
