"""Summaries of results: a few facts by name, as aligned text for `print`, and as a table for a notebook."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import ClassVar

Facts = Sequence[tuple[str, str]]
_WIDTH = 100


class Summarized:
    """A result whose `print` and whose cell in a notebook are its facts, the first of which is the result itself."""

    __slots__: ClassVar[tuple[str, ...]] = ()

    def facts(self) -> Facts:
        """(name, text) pairs, the most important first."""
        raise NotImplementedError

    def __str__(self) -> str:
        return as_text(self.facts())

    def _repr_html_(self) -> str:
        return as_html(self.facts())


def as_text(facts: Facts) -> str:
    """A line for each fact, with the names in one column; long texts are wrapped in the second column."""
    width = max((len(name) for name, _ in facts), default=0) + 2
    lines = []
    for name, what in facts:
        first, *more = textwrap.wrap(what, _WIDTH - width) or [""]
        lines += [f"{name:<{width}}{first}".rstrip(), *(" " * width + line for line in more)]
    return "\n".join(lines)


def as_html(facts: Facts) -> str:
    """A table with a row for each fact."""
    cells = (f"<th style='text-align:left'>{html.escape(n)}</th><td style='text-align:left'>{html.escape(w)}</td>"
             for n, w in facts)  # fmt: skip
    return f"<table>{''.join(f'<tr>{cell}</tr>' for cell in cells)}</table>"
