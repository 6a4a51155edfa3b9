"""Other libraries by the oracle of the transformers survey: small random networks, called as people call them.

`python tests/oracles/other_libraries.py FILE.jsonl` makes each network of `libraries/`, plans it in both modes, and
compares the emitted networks at every node under powers of two, on other sizes too, and a copy that is teleported in
place. A line a network is appended to the file, so that a run goes on where it was cut off; at the end the table is
printed. A library that is not installed is said to be so. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import importlib.metadata
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

import fxteleport as ft

sys.path.insert(0, str(Path(__file__).parent))

from libraries.called import ENTRIES, Entry
from survey import Late, Row, at_most, judged, record, recorded

FIELDS = ("diffusion", "vision", "graphs", "speech", "language", "probability", "forecasts")
PACKAGES = {"open_clip": "open_clip_torch"}


def tried(entry: Entry) -> Row:
    """What became of one network."""
    row: Row = {"library": entry.library, "model": entry.name}
    try:
        importlib.import_module(entry.library)
    except Exception as error:
        return row | {"state": "missing", "why": f"{type(error).__name__}: {str(error)[:300]}"}
    torch.manual_seed(0)
    try:
        with at_most(120), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = entry.make()
            network = ft.randomize(made.network).eval()
            with torch.no_grad():
                for args, kwargs in (made.given, *made.others):
                    network(*args, **kwargs)
    except (Exception, Late) as error:
        row |= {"state": "unfit", "why": f"{type(error).__name__}: {str(error)[:300]}"}
        return row
    return row | {"parameters": sum(p.numel() for p in network.parameters())} | judged(network, made.given, made.others)


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| library | model | free | moved | free, weights | moved | opaque, and why | exact | other inputs | s |",
        "|---|---|---:|---:|---:|---:|---|---|---|---:|",
    ]
    for row in rows:
        cells: list[Any] = [row["library"], row["model"]]
        for mode in ("full", "weights"):
            found = row.get(mode)
            cells += ["", ""] if found is None else [f"{found['free']:,}", f"{100 * found['moved']:.1f} %"]
        full = row.get("full", {})
        cells.append("; ".join(short(x) for x in full.get("opaque", [])) or ("nothing" if full else ""))
        cells.append({"equal": "bitwise"}.get(row["state"], f"{row['state']}: {row.get('why', '')[:160]}"))
        cells += ["; ".join(s.partition(":")[0] for s in full.get("others", [])) or "-", row.get("seconds", "")]
        lines.append("| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |")
    return "\n".join(lines)


def short(opaque: str) -> str:
    """Where something is opaque, and the beginning of why."""
    return opaque if len(opaque) < 170 else f"{opaque[:167]}..."


def versions(libraries: list[str]) -> str:
    """Libraries with their versions, as far as they are installed."""
    found = []
    for name in libraries:
        try:
            found.append(f"{name} {importlib.metadata.version(PACKAGES.get(name, name))}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name}: not installed")
    return ", ".join(found)


def main() -> int:
    """Try what the file does not hold yet; 1 where a network differs or fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", help="words of library/model, comma separated")
    parser.add_argument("--again", action="store_true", help="try what is in the file again, too")
    parser.add_argument("--table", action="store_true", help="print the table alone")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("YOLO_OFFLINE", "1")
    warnings.simplefilter("ignore")
    for field in FIELDS:
        try:
            importlib.import_module(f"libraries.{field}")
        except ImportError as error:
            print(f"{field}: {error}")
    rows = {(row["library"], row["model"]): row for row in recorded(arguments.file)}
    words = arguments.only.split(",") if arguments.only else [""]
    for entry in [] if arguments.table else ENTRIES:
        key = (entry.library, entry.name)
        if (key in rows and not arguments.again) or not any(word in "/".join(key) for word in words):
            continue
        rows[key] = row = tried(entry)
        record(arguments.file, row)
        full = row.get("full", {})
        print(
            *key,
            row["state"],
            full.get("free"),
            full.get("moved"),
            row.get("seconds"),
            row.get("why", "")[:200],
            flush=True,
        )
    order = {(entry.library, entry.name): i for i, entry in enumerate(ENTRIES)}
    shown = sorted((r for k, r in rows.items() if k in order), key=lambda r: order[r["library"], r["model"]])
    print(table(shown))
    print(versions(["torch", *dict.fromkeys(row["library"] for row in shown)]))
    print(dict(collections.Counter(row["state"] for row in shown)))
    return int(any(row["state"] in ("wrong", "error") for row in shown))


if __name__ == "__main__":
    sys.exit(main())
