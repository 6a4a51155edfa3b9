"""The interfaces of a trace for its proxies, its shadow modules, and the patches of Python and torch.

They are protocols, so that neither proxies nor patches import the tracer, which imports them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType, FunctionType
from typing import Any, Protocol, TypeVar

import torch
from torch import fx, nn

T = TypeVar("T")


class Values(Protocol):
    """The values that Python needs from a proxy (`specialization.py`)."""

    def specialize(self, handle: Any, value: T) -> T: ...
    def number(self, handle: Any, kind: Callable[[Any], T]) -> T: ...
    def length(self, handle: Any) -> int: ...
    def forced(self, handle: Any, value: T) -> T: ...
    def checked(self, handle: Any) -> bool: ...
    def hashed(self, handle: Any) -> int: ...
    def known(self, handle: Any) -> Any: ...
    def is_type(self, handle: Any, other: Any) -> bool: ...
    def said(self, handle: Any) -> Any: ...


class Lengths(Protocol):
    """The lengths that Python needs from a proxy (`lengths.py`)."""

    def unpacked(self, handle: Any) -> Any: ...
    def takes_apart(self) -> bool: ...


class InputFacts(Protocol):
    """Notes the ranks and types that Python reads (`input_facts.py`)."""

    kind: bool

    def ranked(self, value: T) -> T: ...


class Tensors(Protocol):
    """Knows the model's own tensors (`tensor_table.py`)."""

    def is_parameter(self, handle: Any) -> bool: ...
    def adopted(self, x: Any) -> Any: ...


class Trace(Protocol):
    """A trace, running or ended."""

    finished: bool

    @property
    def values(self) -> Values: ...
    @property
    def lengths(self) -> Lengths: ...
    @property
    def inputs(self) -> InputFacts: ...
    @property
    def tensors(self) -> Tensors: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def makes_all(self) -> bool: ...
    @property
    def in_function(self) -> bool: ...

    def record(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call."""

    def call_function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a function of torch's."""

    def hook_gradient(self, tensor: Any, hook: Callable[..., Any]) -> Any:
        """Record that a hook on a tensor's gradient is registered."""

    def apply(
        self,
        function: type[torch.autograd.Function],
        args: tuple[Any, ...] | None,
        otherwise: Callable[[], Any],
    ) -> Any:
        """Record a call of an autograd function, or run `otherwise`; `args` is None where some are keywords."""

    def plain_function(self, function: FunctionType, own: FunctionType, args: Any, kwargs: Any) -> Any:
        """Record a call of a watched function, of which `own` is a copy that is not watched."""

    def shadow_of(self, module: nn.Module) -> nn.Module | None:
        """The shadow of one of the user's own modules."""

    def is_grad_enabled(self, frame: FrameType) -> bool:
        """The result of `torch.is_grad_enabled()` for the code of a frame."""

    def requires_grad(self, node: fx.Node, frame: FrameType) -> bool:
        """A tensor's `requires_grad` for the code of a frame."""

    def enter_gradients(self, recording: bool | None) -> None:
        """Forward enters a context in which gradients are recorded, or not; None for one that changes nothing."""

    def leave_gradients(self) -> None:
        """Forward leaves such a context."""


class Calls(Protocol):
    """Takes the calls of shadow modules (`module_calls.py`)."""

    def module(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any: ...
    def method(self, module: nn.Module, fn: FunctionType, args: Any, kwargs: Any) -> Any: ...
