"""An editable install is one that editors and type checkers can follow, from outside the checkout too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT_FROM = ["fxteleport", "passes", "tools", "pyproject.toml", "setup.cfg", "README.md", "LICENSE"]
USE = """
import fxteleport
from fxteleport.passes.capture.capture import capture
from fxteleport.tools.cli import main

reveal_type(fxteleport.plan)
reveal_type(capture)
reveal_type(main)
"""


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "passes").exists(), reason="needs a checkout")
def test_mypy_follows_an_editable_install(tmp_path: Path) -> None:
    checkout, elsewhere, environment = (tmp_path / name for name in ("checkout", "elsewhere", "environment"))
    checkout.mkdir()
    for name in BUILT_FROM:  # the links are made beside the sources
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, checkout / name)
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    outside = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MYPYPATH")}
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "-e", checkout], env=outside, check=True)

    elsewhere.mkdir()
    (elsewhere / "use.py").write_text(USE)
    mypy = [sys.executable, "-m", "mypy", "--python-executable", str(python), "--cache-dir", os.devnull, "use.py"]
    run = subprocess.run(mypy, cwd=elsewhere, env=outside, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    for result in ("-> fxteleport.plan.plan.Plan", "-> fxteleport.passes.capture.capture.Captured", "def ()"):
        assert result in run.stdout
