"""The other graphs of an emitted network: of train mode, and for data that take other branches than the example's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from fxteleport.passes.errors import DataGuardError
from fxteleport.passes.graph.ops import leaves_of


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


def trying_variants(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of an emitted network that runs the graph whose data guards agree.

    Data guards run before anything is written. Random numbers that were drawn before a guard failed are drawn again.
    """

    @functools.wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_exporting():  # a program has one graph, which asserts its data guards
            return forward(self, *args, **kwargs)
        cuda = sorted({x.get_device() for x in leaves_of((args, kwargs)) if isinstance(x, Tensor) and x.is_cuda})
        drawn = torch.get_rng_state(), *map(torch.cuda.get_rng_state, cuda)
        try:
            return forward(self, *args, **kwargs)
        except DataGuardError as error:
            for variant in self.variants:
                torch.set_rng_state(drawn[0])
                for device, state in zip(cuda, drawn[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
                try:
                    return variant.forward(*args, **kwargs)
                except DataGuardError:
                    continue
            raise error from None

    return wrapper
