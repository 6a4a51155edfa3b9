"""What a trace answers to those who meet it: its proxies, its shadow modules, and the patches of Python and torch.

These are protocols, so that neither proxies nor patches import the tracer, which imports them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType, FunctionType
from typing import Any, Protocol, TypeVar

import torch
from torch import fx, nn

T = TypeVar("T")


class Values(Protocol):
    """Answers to what Python asks of the value behind a proxy (`specialization.py`)."""

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
    """Answers to how many items there are (`lengths.py`)."""

    def unpacked(self, handle: Any) -> Any: ...
    def takes_apart(self) -> bool: ...


class InputFacts(Protocol):
    """Notes what Python asks of tensors and the inputs decide (`input_facts.py`)."""

    kind: bool

    def ranked(self, value: T) -> T: ...


class Tensors(Protocol):
    """Knows the model's own tensors (`tensor_table.py`)."""

    def is_parameter(self, handle: Any) -> bool: ...
    def adopted(self, x: Any) -> Any: ...


class Trace(Protocol):
    """A trace under way, or one that is over."""

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
        """A hook on a tensor's gradient is registered."""

    def apply(
        self,
        function: type[torch.autograd.Function],
        args: tuple[Any, ...] | None,
        otherwise: Callable[[], Any],
    ) -> Any:
        """An autograd function is applied (`args` is None where by keyword): record one call, or run `otherwise`."""

    def plain_function(self, function: FunctionType, own: FunctionType, args: Any, kwargs: Any) -> Any:
        """A function that the trace watches is called; `own` does what it does."""

    def shadow_of(self, module: nn.Module) -> nn.Module | None:
        """The shadow of one of the user's own modules."""

    def is_grad_enabled(self, frame: FrameType) -> bool:
        """What `torch.is_grad_enabled()` gives to the code of a frame."""

    def requires_grad(self, node: fx.Node, frame: FrameType) -> bool:
        """What a tensor's `requires_grad` gives to the code of a frame."""

    def enter_gradients(self, recording: bool | None) -> None:
        """Forward enters a context in which gradients are recorded, or not; None for one that changes nothing."""

    def leave_gradients(self) -> None:
        """Forward leaves such a context."""


class Calls(Protocol):
    """What the calls of shadow modules are handed to (`module_calls.py`)."""

    def module(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any: ...
    def method(self, module: nn.Module, fn: FunctionType, args: Any, kwargs: Any) -> Any: ...
