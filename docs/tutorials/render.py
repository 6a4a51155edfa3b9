"""Run the tutorials and write their pages: python docs/tutorials/render.py [NAME ...]

A tutorial is a notebook as Python (jupytext's percent format: open it in Jupyter or an editor, or run it with python).
This script renders its page: text, code, printed output and figures. GitHub and the site show the page.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = ("first", "training", "aligning", "landscape")
_CELL = re.compile(r"^# %%(?P<kind> \[markdown\])?\n(?P<body>.*?)(?=^# %%|\Z)", re.M | re.S)


def cells(text: str) -> Iterator[tuple[str, str, int]]:
    """(kind, body, first line) of each cell, kind being "markdown" or "code"."""
    for found in _CELL.finditer(text):
        body = found["body"].strip("\n")
        if found["kind"]:
            yield "markdown", re.sub(r"^# ?", "", body, flags=re.M), 0
        elif body:
            yield "code", body, text.count("\n", 0, found.start("body"))


def rendered(name: str, text: str) -> tuple[str, dict[str, bytes]]:
    """Run a tutorial; its page, and its figures by file name."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcdefaults()
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
    parts = [f"<!-- made by docs/tutorials/render.py of {name}.py: change that -->"]
    figures: dict[str, bytes] = {}
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for kind, body, line in cells(text):
        if kind == "markdown":
            parts.append(body)
            continue
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile("\n" * line + body, f"{name}.py", "exec"), namespace)
        parts.append(f"```python\n{body}\n```")
        if said.getvalue():
            parts.append(f"```text\n{said.getvalue().rstrip()}\n```")
        for number in plt.get_fignums():
            file = f"{name}.png" if not figures else f"{name}-{len(figures) + 1}.png"
            drawn = io.BytesIO()
            figure = plt.figure(number)
            figure.savefig(drawn, dpi=100, format="png", metadata={"Software": None})
            figures[file] = drawn.getvalue()
            parts.append(f"![{figure.get_label() or 'What the code draws'}]({file})")
        plt.close("all")
    parts.append(f"This page is the notebook [{name}.py]({name}.py), run.")
    return "\n\n".join(parts) + "\n", figures


def settled(page: str) -> str:
    """A page without what differs between machines: numbers with decimals, which training decides, and their width."""
    return re.sub(r"[ \t]+", " ", re.sub(r"-?\d+\.\d+(e[-+]\d+)?%?", "<number>", page))


if __name__ == "__main__":
    for name in sys.argv[1:] or NAMES:
        page, figures = rendered(name, (HERE / f"{name}.py").read_text(encoding="utf-8"))
        (HERE / f"{name}.md").write_text(page, encoding="utf-8")
        for file, drawn in figures.items():
            (HERE / file).write_bytes(drawn)
