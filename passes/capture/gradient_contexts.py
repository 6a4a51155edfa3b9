"""The gradient mode that forward has set (`torch.no_grad()` and its like)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class GradientContexts:
    """The gradient contexts that forward is in, as `patching.py` reports them; the trace itself runs without gradients.

    Attributes:
        switches: forward has entered such a context, so the graph needs switches (`graph/grad_mode.py`).
    """

    def __init__(self) -> None:
        self.switches = False
        self._contexts: list[bool | None] = [None]
        self._functions = 0  # autograd functions whose forward is running

    @property
    def recording(self) -> bool | None:
        """Whether forward has switched the recording of gradients on or off; None: neither."""
        return self._contexts[-1]

    def enter(self, recording: bool | None) -> None:
        """Forward enters a context in which gradients are recorded, or not; None for one that changes nothing."""
        changes = recording is not None and not self._functions
        self.switches |= changes
        self._contexts.append(recording if changes else self._contexts[-1])

    def leave(self) -> None:
        """Forward leaves such a context."""
        self._contexts.pop()

    @property
    def in_function(self) -> bool:
        """True while the forward of an autograd function is running."""
        return self._functions > 0

    @contextmanager
    def inside_function(self) -> Iterator[None]:
        """While this lasts, the forward of an autograd function is running; contexts in it end with it."""
        self._functions += 1
        try:
            yield
        finally:
            self._functions -= 1
