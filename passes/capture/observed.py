"""The result of evaluating a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fxteleport.passes.capture.proxy import Proxy
from fxteleport.passes.graph.node_info import Trust
from fxteleport.passes.record import record


@record(eq=False)
class Observed:
    """The value of a call and its side effects.

    Attributes:
        value: its result.
        trust: what may be concluded from the result.
        mutated: the tensors among the arguments that were written to.
        written: the lists and dictionaries among the arguments that were changed.
    """

    value: Any
    trust: Trust = Trust.KNOWN
    mutated: Sequence[Proxy] = ()
    written: Sequence[Any] = ()

    def worth(self, trust: Trust) -> Observed:
        """The same with another trust."""
        return replace(self, trust=trust)
