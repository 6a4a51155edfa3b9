"""Every architecture of Hugging Face's transformers, shrunk: code that nobody wrote with this tool in mind.

`python tests/oracles/all_transformers.py FILE.jsonl` builds the base model of each configuration class with small
sizes, finds inputs that it runs on, plans it in both modes and compares the emitted networks at every node under
powers of two. With `--heads` it goes through the classes behind seven kinds of `AutoModelFor...`, called with masks,
labels and caches (`called_transformers.py`), those of different architectures first, in an order that does not
depend on their names.

A line a network is appended to the file, so that a run goes on where it was cut off; at the end it is summed up.
Architectures that no shrinking fits (their sizes hang together) say so, and count as not built.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from called_transformers import KINDS, tried_in_ways, ways
from called_transformers_table import table
from small_transformers import Unfit, built
from survey import Late, Row, at_most, record, recorded

import fxteleport as ft

_TO_BUILD = 20  # seconds of the processor


def tried(name: str, config: str, model: str, seconds: int) -> Row:
    """What became of one architecture's base model."""
    row: Row = {"model": name}
    torch.manual_seed(0)
    try:
        with at_most(_TO_BUILD):
            network, _, given = built(config, model)
    except (Unfit, Late) as error:
        return row | {"state": "unfit", "why": str(error)}
    row["inputs"] = list(given)
    try:
        with at_most(seconds):
            for mode in ("full", "weights"):
                plan = ft.plan(network, mode=mode, **given)
                emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
                report = ft.verify(network, emitted, **given)
                if not (report.passed and report.bitwise_equal):
                    state = "vacuous" if report.bitwise_equal and report.vacuous else "wrong"
                    return row | {"state": state, "mode": mode, "why": str(report)[:2000]}
                why = list(dict.fromkeys(f"{o.path}: {o.why}" for o in plan.opaque))
                row[mode] = {"free": plan.num_free, "moved": plan.moved, "opaque": why}
                row["nodes"] = len(plan.captured.graph.nodes)
    except Late as error:
        return row | {"state": "late", "why": str(error)}
    except Exception as error:
        return row | {"state": "error", "why": f"{type(error).__name__}: {str(error)[:600]}"}
    return row | {"state": "equal"}


def called(name: str, config: str, model: str, kind: str, seconds: int) -> Row:
    """What became of one model with a head, called in each way."""
    row: Row = {"model": model, "architecture": name, "kind": kind, "ways": {}}
    torch.manual_seed(0)
    try:
        with at_most(_TO_BUILD):
            network, made, _ = built(config, model, lambda *built: [next(ways(*built, kind)).given])
    except (Unfit, Late) as error:
        return row | {"state": "unfit", "why": str(error)}
    row["parameters"] = sum(p.numel() for p in network.parameters())
    try:
        with at_most(seconds):
            tried_in_ways(network, made, kind, row["ways"].__setitem__)
    except Late as error:
        return row | {"state": "late", "why": str(error)}
    return row | {"state": "tried"}


def base_models() -> Iterator[tuple[str, str, str]]:
    """Each architecture, its configuration's class, and its base model's."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    for name in sorted(MODEL_MAPPING_NAMES):
        if name in CONFIG_MAPPING_NAMES:
            yield name, CONFIG_MAPPING_NAMES[name], _first(MODEL_MAPPING_NAMES[name])


def heads() -> list[tuple[str, str, str, str]]:
    """Each class with a head once: its architecture, configuration, itself, and the kind of the head."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    found: dict[str, tuple[str, str, str, str]] = {}
    for kind in KINDS:
        for name, models in getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES").items():
            model, config = _first(models), CONFIG_MAPPING_NAMES.get(name)
            if config is None or (model in found and found[model][3] != kind):
                continue
            if model not in found or model.startswith(config.removesuffix("Config")):  # others share their class
                found[model] = (name, config, model, kind)
    seen: collections.Counter[str] = collections.Counter()

    def place(call: tuple[str, str, str, str]) -> tuple[int, str]:
        seen[call[0]] += 1
        return seen[call[0]], hashlib.md5(call[2].encode()).hexdigest()

    calls = sorted(found.values(), key=lambda call: (KINDS.index(call[3]), call))
    return [call for _, call in sorted((place(call), call) for call in calls)]


def _first(models: Any) -> str:
    return models if isinstance(models, str) else models[0]


def _commit() -> str:
    given = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(given, capture_output=True, text=True, check=False).stdout.strip()


def main() -> int:
    """Try what the file does not hold yet; 1 where a network differs or fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", help="names of architectures, comma separated")
    parser.add_argument("--heads", action="store_true", help="models with a head, called with masks, labels and caches")
    parser.add_argument("--seconds", type=int, default=900, help="of the processor, for one network")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    commit = _commit()
    rows = recorded(arguments.file)
    done = {row["model"] for row in rows}
    wanted = set(arguments.only.split(",")) if arguments.only else None
    for name, config, model, *kind in heads() if arguments.heads else base_models():
        if (model if kind else name) in done or (wanted is not None and not {name, model} & wanted):
            continue
        if kind:
            row = called(name, config, model, kind[0], arguments.seconds)
        else:
            row = tried(name, config, model, arguments.seconds)
        rows.append(row | {"commit": commit})
        record(arguments.file, rows[-1])
        print(row["model"], row["state"], row.get("why", "")[:200], flush=True)
    if arguments.heads:
        found = collections.Counter(kind for *_, kind in heads())
        print(table(rows, {kind: found[kind] for kind in KINDS}))
        return int(any("error" in way or not way.get("exact", True) for row in rows for way in row["ways"].values()))
    print(dict(collections.Counter(row["state"] for row in rows)))
    return int(any(row["state"] in ("wrong", "error") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
