"""Walk a newcomer's way: clone, install, teleport, check a model of one's own; prints a table of seconds.

python docs/measure/newcomer.py FOLDER [SITE-PACKAGES]

It runs what README.md and docs/howto/my-model.md say, in a fresh virtual environment, in which the package's
dependencies are installed too, or taken from SITE-PACKAGES. Reading is 200 words a minute of what stands before the
commands; typing 200 characters a minute of the file and of the commands. No person is timed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWN = """\
import torch
from torch import nn


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.down(nn.functional.gelu(self.up(self.norm(x)))).mean(1)
"""  # a model that they have already
FACTORY = """
def build():
    return Mine()


def example_inputs():
    return torch.randn(2, 10, 8)
"""
COMMANDS = (
    "fxteleport teleport resnet18",
    "fxteleport check net.py:build --exact",
    "fxteleport teleport net.py:build --output moved",
)
WORDS, CHARACTERS = 200, 200  # a minute


def words(page: str, end: str) -> int:
    """The words of a page up to some text."""
    return len((ROOT / page).read_text().split(end)[0].split())


def timed(what: str, command: list[str] | str, folder: Path, path: str) -> float:
    """Run, print a row."""
    start = time.perf_counter()
    environment = os.environ | {"PATH": f"{path}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    subprocess.run(
        command, cwd=folder, check=True, shell=isinstance(command, str), env=environment, capture_output=True
    )
    seconds = time.perf_counter() - start
    print(f"| {what} | {seconds:.0f} |", flush=True)
    return seconds


def main(folder: Path, site: Path | None) -> None:
    """The whole way."""
    folder.mkdir(parents=True)
    print("| part | seconds |\n|---|---|")
    timed("`git clone`", ["git", "clone", "-q", str(ROOT), str(folder / "fxteleport")], folder, "")
    start = time.perf_counter()
    venv.create(folder / "venv", with_pip=True)
    path = str(folder / "venv" / "bin")
    if site is not None:
        next((folder / "venv" / "lib").glob("python*/site-packages")).joinpath("shared.pth").write_text(f"{site}\n")
    timed("installation", f"pip install {'--no-deps ' if site else ''}.", folder / "fxteleport", path)
    installed = time.perf_counter() - start
    read = words("README.md", "### Look inside") + words("docs/howto/my-model.md", "## Little or nothing")
    print(f"| reading {read} words | {60 * read / WORDS:.0f} |")
    typed = len(FACTORY) + sum(map(len, COMMANDS))
    print(f"| typing {typed} characters | {60 * typed / CHARACTERS:.0f} |")
    (folder / "net.py").write_text(OWN + "\n" + FACTORY)
    runs = [timed(f"`{command}`", command, folder, path) for command in COMMANDS]
    total = 60 * read / WORDS + 60 * typed / CHARACTERS + sum(runs)
    print(f"| in all, without the installation ({installed:.0f}) | {total:.0f} |")
    print(f"| reading and typing alone | {60 * read / WORDS + 60 * typed / CHARACTERS:.0f} |")


main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else None)
