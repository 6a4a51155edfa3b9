"""What the evaluation of a call has shown."""

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
        value: what it gives.
        trust: what may rest on that.
        mutated: the arguments that are tensors and were written to.
        written: the lists and dictionaries among the arguments that hold other things now.
    """

    value: Any
    trust: Trust = Trust.KNOWN
    mutated: Sequence[Proxy] = ()
    written: Sequence[Any] = ()

    def worth(self, trust: Trust) -> Observed:
        """The same, with something else known of what may rest on the value."""
        return replace(self, trust=trust)
