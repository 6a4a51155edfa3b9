"""The record of `all_transformers.py --heads` in Markdown: counts, medians, and what falls short."""

from __future__ import annotations

from typing import Any


def table(rows: list[dict[str, Any]], known: int) -> str:
    return f"{len(rows)} of {known}"
