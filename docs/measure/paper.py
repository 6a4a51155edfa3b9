"""Put the results of `fxteleport paper all --output RESULTS` into docs/paper.md: its tables and figures.

python docs/measure/paper.py RESULTS
python docs/measure/paper.py --figures RESULTS     # of some experiments, redrawn: the page's tables stay
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image

DOCS = Path(__file__).parents[1]
WIDTH = 1200  # pixels, at most


def figures(results: Path) -> None:
    """Replace the figures of the experiments that are there, whose verdicts must be those of the page."""
    page = (DOCS / "paper.md").read_text()
    for folder in sorted(p.parent for p in results.glob("*/verdict.json")):
        figure = json.loads((folder / "config.json").read_text())["figure"]
        for verdict in json.loads((folder / "verdict.json").read_text())["verdicts"]:
            if row(folder.name, figure, verdict) not in page:
                print(f"not as on the page: {row(folder.name, figure, verdict)}")
        shrink(folder / "figure.png", DOCS / "figures" / "experiments" / f"{folder.name}.png")


def main(results: Path) -> None:
    """Replace what stands between the page's markers, and the figures."""
    folders = sorted(
        (p.parent for p in results.glob("*/verdict.json")), key=lambda p: (p / "config.json").stat().st_mtime
    )
    verdicts, settings, costs = [], [], []
    for folder in folders:
        facts = json.loads((folder / "verdict.json").read_text())
        figure = json.loads((folder / "config.json").read_text())["figure"]
        for verdict in facts["verdicts"]:
            (settings if ", lr " in verdict["statistic"] else verdicts).append(row(folder.name, figure, verdict))
        found = [json.loads(p.read_text()) for p in (folder / "runs").glob("*.json")]
        costs.append(
            f"| `{folder.name}` | {facts['runs']['done']} of {facts['runs']['total']}"
            f" | {sum(r.get('cpu_seconds', 0) for r in found) / 60:.1f} |"
        )
        shrink(folder / "figure.png", DOCS / "figures" / "experiments" / f"{folder.name}.png")
    page = DOCS / "paper.md"
    text = page.read_text()
    head = (
        "| experiment | the paper's claim | measured | value [95% interval] | holds if | n | here |\n"
        + "|---" * 7
        + "|"
    )
    costs_head = "| experiment | runs | CPU minutes |\n|---|---|---|"
    tables = {"verdicts": [head, *verdicts], "settings": [head, *settings], "costs": [costs_head, *costs]}
    for name, lines in tables.items():
        before, rest = text.split(f"<!-- {name} -->\n")
        _, after = rest.split("<!-- end -->", 1)
        text = f"{before}<!-- {name} -->\n" + "\n".join(lines) + f"\n<!-- end -->{after}"
    page.write_text(text)


def row(name: str, figure: str, v: dict[str, Any]) -> str:
    """One verdict."""
    cells = (
        f"`{name}`, {figure}", v["claim"], v["statistic"], f"{v['value']:.3g} [{v['low']:.3g}, {v['high']:.3g}]",
        v["criterion"], v["n"], "holds" if v["holds"] else "**does not hold**",
    )  # fmt: skip
    return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"


def shrink(source: Path, target: Path) -> None:
    """At most 1200 pixels wide, 64 colours."""
    image = Image.open(source).convert("RGB")
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    image.quantize(64, dither=Image.Dither.NONE).save(target, optimize=True)


if sys.argv[1] == "--figures":
    figures(Path(sys.argv[2]))
else:
    main(Path(sys.argv[1]))
