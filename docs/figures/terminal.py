"""Draw what the main commands print, as on a terminal of 80 columns: python docs/figures/terminal.py"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
PICTURES = {
    "teleport": "teleport resnet18 --landscape inter --cob-range 0.9",
    "inspect": "inspect resnet18 --depth 1",
    "pinned": "inspect vit_tiny_patch16_224 --pinned",
}


def main() -> None:
    """Run each command and save its output as an SVG."""
    for name, call in PICTURES.items():
        done = subprocess.run(
            [sys.executable, "-m", "fxteleport", *call.split()], capture_output=True, text=True, check=True
        )
        console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 it lives as long as we
        console.print(Text(f"$ fxteleport {call}\n", style="bold green"))
        console.print(Text(done.stdout.rstrip()))
        console.save_svg(str(HERE / f"{name}.svg"), title=f"fxteleport {call.split()[0]}")


if __name__ == "__main__":
    main()
