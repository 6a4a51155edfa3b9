"""A measurement that kills its process, importable by the processes of a sweep."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def measure(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The square of x. Where `deaths` says so, the process is gone the first times; `marks` counts them."""
    marks = Path(run["marks"])
    if len(list(marks.glob(f"{run['x']}-*"))) < run["deaths"]:
        (marks / f"{run['x']}-{os.getpid()}").touch()
        os._exit(9)
    return [{"square": run["x"] ** 2}]
