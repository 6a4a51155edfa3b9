"""Packaging: one version, a build without warnings, and a wheel and an sdist that work in a fresh environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import fxteleport as ft

ROOT = Path(__file__).parents[1]
checkout = pytest.mark.skipif(not (ROOT / "passes").exists(), reason="needs a checkout")
BUILT_FROM = (
    "fxteleport", "passes", "tools", "tests", "docs", "pyproject.toml", "setup.cfg", "MANIFEST.in", "README.md",
    "LICENSE", "mkdocs.yml", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md",
)  # fmt: skip
# What setuptools says of an environment that writes no byte code.
HARMLESS = re.compile(r"warning: \w+: byte-compiling is disabled, skipping\.")


@checkout
def test_the_version_is_written_in_one_place() -> None:
    """Papers are cited with a version, and a list of changes has one at its head: they are the package's."""
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
    assert f"\nversion: {ft.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    changes = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert changes[0] == ft.__version__


def _copy(source: Path, target: Path) -> None:
    """As a clone has it: without what running it left behind."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel and an sdist, of a copy of the checkout."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "checkout"
    copy.mkdir()
    for name in BUILT_FROM:
        _copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    lines = [line for line in said.splitlines() if "warning" in line.lower() and not HARMLESS.search(line)]
    assert lines == []
    return folder / "dist"


@pytest.mark.slow
@checkout
def test_twine_finds_nothing_wrong(built: Path) -> None:
    files = sorted(map(str, built.iterdir()))
    assert [Path(f).name for f in files] == [
        f"fxteleport-{ft.__version__}-py3-none-any.whl", f"fxteleport-{ft.__version__}.tar.gz",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@checkout
@pytest.mark.parametrize("kind", [".whl", ".tar.gz"])
def test_it_works_where_it_is_installed(kind: str, built: Path, tmp_path: Path) -> None:
    """Its dependencies are those of the environment that runs the tests: only the package is installed."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    folder = environment / ("Scripts" if os.name == "nt" else "bin")
    site = subprocess.run(
        [folder / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    outside = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    file = next(f for f in built.iterdir() if f.name.endswith(kind))
    subprocess.run([folder / "python", "-m", "pip", "install", "-q", "--no-deps", file], env=outside, check=True)

    def said(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=outside, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert said(folder / "fxteleport", "--version").strip() == ft.__version__
    place = said(folder / "python", "-c", "import fxteleport.passes.solve as s; print(s.__file__)")
    assert place.startswith(str(environment))
    small = ("test_resnet", "--input-size", "3,32,32")
    assert "same function" in said(folder / "fxteleport", "teleport", *small, "--exact")
    said(folder / "fxteleport", "inspect", *small, "--html", "page.html")
    assert (tmp_path / "page.html").stat().st_size > 10_000
