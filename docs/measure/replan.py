"""Plan every network of a coverage file again, and say whose plans are others now.

    python docs/measure/replan.py ROWS [SHARD/SHARDS] [COVERAGE]

Appends a line of JSON for each network to ROWS, and goes on where ROWS ends. Nothing is run but plans (all of
timm and torchvision took 40 minutes on one core, beside other work); no weight takes memory.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fxteleport.tools.survey.network_survey import replan
from fxteleport.tools.survey.row import Terms
from fxteleport.tools.survey.rows_file import read_rows

TOLD = ("nodes", "captured", "free", "moved", "opaque", "free_weights", "moved_weights", "pinned")


def main(to: Path, shard: str, coverage: Path) -> None:
    """Go through one shard of a coverage file's rows, and say what came of all."""
    part, parts = map(int, shard.split("/"))
    done = {json.loads(line)["model"] for line in to.read_text().splitlines()} if to.exists() else set()
    rows = [row for row in read_rows(coverage)[part::parts] if row.model not in done]
    with to.open("a") as file:
        for row in sorted(rows, key=lambda row: row.parameters or 0):
            try:
                now = replan(row, Terms())
                other = {k: (getattr(row, k), getattr(now, k)) for k in TOLD if getattr(row, k) != getattr(now, k)}
            except Exception as error:  # its line tells
                other = {"error": (row.error, repr(error)[:200])}
            print(json.dumps({"model": row.model, "other": other}), file=file, flush=True)
    told = [json.loads(line) for line in to.read_text().splitlines()]
    for line in told:
        if line["other"]:
            print(line["model"], line["other"])
    print(f"{len(told)} planned, {sum(bool(line['other']) for line in told)} with other numbers")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(sys.argv[2:3] or ["0/1"]), Path((*sys.argv[3:4], "docs/coverage.csv")[0]))
