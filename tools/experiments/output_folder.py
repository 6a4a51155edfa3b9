"""The output folder of an experiment: config.json, results.csv, verdict.json, figure.png and figure.pdf.

Every file is written atomically.
"""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from fxteleport import __version__
from fxteleport.atomic_files import write_bytes, write_text
from fxteleport.passes.errors import InputError
from fxteleport.tools.experiments.experiment import Experiment, Options, Row, Run, Verdict
from fxteleport.tools.experiments.sweep import Sweep
from fxteleport.tools.plots.palette import COLOURS

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "matplotlib")


def write_config(folder: Path, experiment: Experiment, options: Options, runs: Sequence[Run]) -> None:
    """Write the options and the versions of packages: config.json."""
    facts = {
        "experiment": experiment.name,
        "figure": experiment.figure,
        "options": asdict(options),
        "runs": len(runs),
        "versions": {"fxteleport": __version__, "python": platform.python_version(), **_versions()},
    }
    write_text(folder / "config.json", json.dumps(facts, indent=2) + "\n")


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "none"
    return versions


def write_results(folder: Path, experiment: Experiment, sweep: Sweep) -> list[Verdict]:
    """The measurements, the verdicts and the figure."""
    write_text(folder / "results.csv", tidy(sweep.rows))
    verdicts = [v for v in experiment.judge(sweep.rows) if v.n] if sweep.rows else []
    facts = {
        "experiment": experiment.name,
        "runs": {"total": sweep.total, "done": sweep.done, "failed": len(sweep.failed)},
        "failures": sweep.failed,
        "verdicts": [v.as_dict() for v in verdicts],
    }
    write_text(folder / "verdict.json", json.dumps(facts, indent=2) + "\n")
    if sweep.rows:
        write_figure(folder, experiment, sweep.rows)
    return verdicts


def tidy(rows: Sequence[Row]) -> str:
    """Rows as CSV: a column for every name that any row has, a list joined by semicolons."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: ";".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()})
    return text.getvalue()


def require_matplotlib() -> None:
    """Raise InputError, before the work, if figures cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError('experiments draw with matplotlib: pip install "fxteleport[experiments]"') from None


def write_figure(folder: Path, experiment: Experiment, rows: list[Row]) -> None:
    """The experiment's figure as PNG and PDF, in the colours of all our pictures."""
    import matplotlib
    from cycler import cycler
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    undated: dict[str, Any] = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"axes.prop_cycle": cycler(color=COLOURS)}):
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        FigureCanvasAgg(figure)
        experiment.draw(rows, figure)
        for kind, marks in undated.items():
            held = io.BytesIO()
            figure.savefig(held, format=kind, dpi=140, metadata=marks)
            write_bytes(folder / f"figure.{kind}", held.getvalue())
