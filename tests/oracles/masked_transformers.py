"""Language models of transformers as people call them: with an attention mask, padded on either side, and labels.

`python tests/oracles/all_transformers.py FILE.jsonl --masks --only llama,bert` adds a row for each architecture: the
free values and the share that moves with ids alone, with a mask, and with labels too, whether the emitted network is
exact at every node, and on which other paddings its outputs equal the original's to the last bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import fxteleport as ft

BATCH, LENGTH, VOCABULARY = 3, 7, 50
HEADS = ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "SEQUENCE_CLASSIFICATION")


def masks() -> dict[str, Tensor]:
    """Attention masks: one that is planned with, and others."""
    made = {name: torch.ones(BATCH, LENGTH, dtype=torch.long) for name in ("right", "other right", "left", "none")}
    made["right"][1, 5:] = made["right"][2, 2:] = 0
    made["other right"][0, 3:] = 0
    made["left"][0, :1] = made["left"][2, :4] = 0
    return made


def head_of(name: str) -> str | None:
    """The class of an architecture's model with a head, the first kind that it has."""
    from transformers.models.auto import modeling_auto

    for kind in HEADS:
        found = getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES").get(name)
        if found is not None:
            return found if isinstance(found, str) else found[0]
    return None


def calls(takes: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The ways in which a model is called."""
    ids = torch.arange(BATCH * LENGTH).view(BATCH, LENGTH) * 7 % VOCABULARY + 3
    base = {"input_ids": ids} | ({"decoder_input_ids": ids} if "decoder_input_ids" in takes else {})
    yield "ids", base
    masked = base | {"attention_mask": masks()["right"]}
    yield "mask", masked
    if "labels" in takes:
        yield "mask, labels", masked | {"labels": ids}


def tried_with_masks(network: nn.Module, takes: Any) -> dict[str, Any]:
    """What becomes of one network, called in each way."""
    row: dict[str, Any] = {}
    for how, given in calls(takes):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan = ft.plan(network, **given)
        emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
        report = ft.verify(network, emitted, **given)
        row[how] = {
            "free": plan.num_free, "moved": plan.moved, "exact": report.passed and report.bitwise_equal,
            "opaque": [f"{o.path}: {o.why}" for o in plan.opaque],
            "conditions": [str(c) for c in plan.conditions if c.kind == "data"],
        }  # fmt: skip
        if "attention_mask" in given:
            row[how]["others"] = {
                name: _same(network, emitted, given | {"attention_mask": m}) for name, m in masks().items()
            }
    return row


def _same(network: nn.Module, emitted: nn.Module, given: dict[str, Tensor]) -> str:
    with torch.no_grad():
        expected = network(**given)
        try:
            found = emitted(**given)
        except ft.GuardError:
            return "refused"
    pairs = zip(_floats(expected), _floats(found), strict=True)
    return "equal" if all(torch.equal(a, b) for a, b in pairs) else "differs"


def _floats(out: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(out)
    return [torch.nan_to_num(x) for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| architecture | ids | mask | mask, labels | moved | exact | other paddings |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ways = [row[how] for how in ("ids", "mask", "mask, labels") if how in row]
        if not ways:
            lines.append(f"| {row['model']} | {row.get('why', row.get('state', ''))[:100]} | | | | | |")
            continue
        free = [str(row[how]["free"]) if how in row else "" for how in ("ids", "mask", "mask, labels")]
        moved = " / ".join(f"{100 * way['moved']:.1f} %" for way in ways)
        others = sorted(
            {f"{name}: {said}" for way in ways for name, said in way.get("others", {}).items() if said != "equal"}
        )
        exact = "yes" if all(way["exact"] for way in ways) else "NO"
        lines.append(f"| {row['model']} | {' | '.join(free)} | {moved} | {exact} | {', '.join(others) or 'equal'} |")
    return "\n".join(lines)
