"""The record of `all_transformers.py --heads` in Markdown: counts, medians, and what falls short with its reason."""

from __future__ import annotations

import collections
import statistics
from typing import Any

Row = dict[str, Any]
ENOUGH = 0.95  # share of the parameters that should move
NAMES = {
    "CAUSAL_LM": "CausalLM", "SEQ_TO_SEQ_CAUSAL_LM": "Seq2SeqLM", "MASKED_LM": "MaskedLM",
    "SEQUENCE_CLASSIFICATION": "SequenceClassification", "IMAGE_CLASSIFICATION": "ImageClassification",
    "OBJECT_DETECTION": "ObjectDetection", "CTC": "CTC",
}  # fmt: skip


def table(rows: list[Row], known: dict[str, int]) -> str:
    """The table of a record.

    Args:
        known: how many classes of each kind there are.
    """
    head = "| AutoModelFor | classes | in the record | run | exact | moved alone | moved, masks and labels | as free |"
    lines = [head, "|---|---:|---:|---:|---:|---:|---:|---:|"]
    lines += [_line(NAMES[kind], [row for row in rows if row["kind"] == kind], known[kind]) for kind in known]
    lines.append(_line("all", rows, sum(known.values())))
    commits = collections.Counter(row.get("commit", "") for row in rows)
    measured = ", ".join(f"{count} at {commit}" for commit, count in commits.most_common())
    return "\n".join([*lines, "", f"Measured: {measured}.", "", *_short(rows), "", *_not_run(rows)])


def _line(name: str, rows: list[Row], known: int) -> str:
    tried = [row for row in rows if _planned(row)]
    exact = sum(all(way["exact"] for _, way in _planned(row)) for row in tried)
    alone = [way["moved"] for row in tried for how, way in _planned(row) if how == "alone"]
    called = [way["moved"] for row in tried for how, way in _planned(row) if how not in ("alone", "cache")]
    whole = [row for row in tried if len(_planned(row)) > 1]
    free = sum(not any("fewer free" in why for why in _reasons(row)) for row in whole)
    cells = [
        name, known, len(rows), len(tried), f"{exact} of {len(tried)}", _median(alone), _median(called),
        f"{free} of {len(whole)}",
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _median(shares: list[float]) -> str:
    return f"{100 * statistics.median(shares):.1f}%" if shares else ""


def _planned(row: Row) -> list[tuple[str, Row]]:
    return [(how, way) for how, way in row["ways"].items() if "free" in way]


def _reasons(row: Row) -> list[str]:
    """In which a model falls short: in each way in which it is called, but for a cache's own pins."""
    found, alone = [], row["ways"].get("alone", {}).get("free", 0)
    for how, way in row["ways"].items():
        if "error" in way:
            found.append(f"{how}: {'an error' if way['own'] else 'NOT THE OWN ERROR'}: {way['error'][:120]}")
        if "free" not in way:
            continue
        opaque = f" ({way['opaque'][0][:160]})" if way["opaque"] else ""
        if not way["exact"]:
            found.append(f"{how}: NOT EXACT")
        if how != "cache" and way["free"] < alone:
            found.append(f"{how}: fewer free values, {way['free']} of {alone}{opaque}")
        if how != "cache" and way["moved"] < ENOUGH:
            found.append(f"{how}: {100 * way['moved']:.1f}% moved{opaque}")
        if way["vacuous"]:
            found.append(f"{how}: constant outputs, which prove nothing")
        differs = [name for name, said in way["others"].items() if said == "differs"]
        if differs:
            found.append(f"{how}: DIFFERS on {', '.join(differs)}")
    return found


def _short(rows: list[Row]) -> list[str]:
    lines = ["| falls short | in what |", "|---|---|"]
    said = {row["model"]: list(dict.fromkeys(_reasons(row))) for row in sorted(rows, key=lambda row: str(row["model"]))}
    lines += [f"| {model} | {'; '.join(why[:3]).replace('|', ' ')} |" for model, why in said.items() if why]
    refusing = sum(any("refused" in s for _, w in _planned(r) for s in w["others"].values()) for r in rows)
    return [*lines, "", f"On some other padding {refusing} networks refuse by a guard."]


def _not_run(rows: list[Row]) -> list[str]:
    why: dict[str, int] = {}
    for row in rows:
        if not _planned(row):
            said = row.get("why") or next((way.get("unfit", "") for way in row["ways"].values()), "")
            kind = next((k for k in ("parameters", "not built", "does not run", "longer than") if k in said), said[:40])
            why[kind] = why.get(kind, 0) + 1
    parts = sum("unfit" in way and bool(_planned(row)) for row in rows for way in row["ways"].values())
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(why.items()))
    return [f"Not run: {said or 'none'}; {parts} ways of calling others do not run in the original."]
