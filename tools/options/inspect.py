"""The options of `inspect` alone: what to show. `outputs` has those for files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fxteleport.tools.options.dataclass_options import option

_LOOK = "What to show"
Node = Annotated[str | None, option("--node", _LOOK, "One node, module or parameter, and its groups.", "NAME")]
Diff = Annotated[bool, option("--diff", _LOOK, "Original and rewritten graph side by side, only what changed.")]


@dataclass(frozen=True)
class Look:
    """What is shown; nothing chosen is the tree."""

    group: Annotated[
        str | None, option("--group", _LOOK, "One group: members, what joins them, what they scale.", "N")
    ] = None
    node: Node = None
    pinned: Annotated[
        bool, option("--pinned", _LOOK, "What holds freedom back, largest first, and what would free it.")
    ] = False
    diff: Diff = False
    every: Annotated[
        bool, option("--all", _LOOK, "The tree of all modules, also of those that look like one before.")
    ] = False
    depth: Annotated[int | None, option("--depth", _LOOK, "Tree levels.", "N", min=1)] = None
    limit: Annotated[int, option("--limit", _LOOK, "Rows of a list; --json has all.", "N", min=0)] = 20

    @property
    def any(self) -> bool:
        """True where something is chosen."""
        return bool(self.group or self.node or self.pinned or self.diff)
