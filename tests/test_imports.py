"""`import fxteleport` loads no torch; public names come when they are used, modules in any order, folders one way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fxteleport as ft

ROOT = Path(__file__).parents[1]
FOLDERS = {"fxteleport": "fxteleport", "passes": "fxteleport.passes", "tools": "fxteleport.tools"}
LAZY = """
import sys
import fxteleport
assert "torch" not in sys.modules
assert fxteleport.landscape.optimize.optimize is fxteleport.optimize is fxteleport.Plan.optimize
import fxteleport.align.align, fxteleport.plan.cob, fxteleport.verify.report  # folders with names of public functions
from fxteleport import *
assert all(map(callable, (align, plan, verify))) and (align, plan) == (fxteleport.align, fxteleport.plan)
assert {*fxteleport.__all__} <= {*dir(fxteleport)} and {*fxteleport.__all__} <= {*globals()}
assert not hasattr(fxteleport, "nothing") and not hasattr(fxteleport, "_nothing")
"""
EACH = """
import importlib, os, sys
import torch, torch.fx, torch.func, timm, numpy, scipy.stats
for name in sys.argv[1:]:
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(name, repr(error), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_public_names_are_loaded_when_they_are_used() -> None:
    run = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert ft.__version__ and all(hasattr(ft, name) for name in ft.__all__)


@pytest.mark.skipif(not (ROOT / "tools").exists(), reason="needs a checkout")
def test_folders_import_one_way(tmp_path: Path) -> None:
    """The contracts of pyproject.toml, on this checkout as the build puts it together."""
    for folder, package in FOLDERS.items():
        shutil.copytree(ROOT / folder, tmp_path.joinpath(*package.split(".")))
    lint = "from importlinter.cli import lint_imports_command as lint; lint()"
    command = [sys.executable, "-c", lint, "--no-cache", "--no-logo", str(ROOT / "pyproject.toml")]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork") or not (ROOT / "tools").exists(), reason="needs fork and a checkout")
def test_any_module_can_be_imported_first() -> None:
    names = [
        ".".join([package, *file.relative_to(ROOT / folder).with_suffix("").parts]).removesuffix(".__init__")
        for folder, package in FOLDERS.items()
        for file in sorted((ROOT / folder).rglob("*.py"))
        if file.name != "__main__.py"
    ]
    run = subprocess.run([sys.executable, "-c", EACH, *names], capture_output=True, text=True, timeout=900)
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
