"""The site: it builds strictly, its generated pages are complete, and every link to the code has a page."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import fxteleport.api
from fxteleport.passes.rules.registry import RULES

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="needs a checkout")


def load(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "docs" / "site" / f"{name}.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


reference, sources = load("reference"), load("sources")


def test_it_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs the extra 'docs'")
    pytest.importorskip("mkdocstrings", reason="needs the extra 'docs'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    page = (tmp_path / "site" / "index.html").read_text()
    assert "Neural teleportation of any PyTorch network" in page
    assert (tmp_path / "site" / "source" / "passes" / "rules" / "folds.py.html").exists()


def test_every_public_name_is_in_the_reference() -> None:
    raised = ("Error", "Warning", "NothingFree")  # these have a page of their own
    errors = {n for n in fxteleport.api.__all__ if n.endswith(raised)}
    listed = [n for names in reference.API.values() if names is not reference.PLAN for n in names]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(fxteleport.api.__all__) - errors


def test_every_command_and_option_is_in_the_reference() -> None:
    page = reference.command_line()
    for command in ("teleport", "check", "inspect", "coverage", "paper", "bench"):
        assert f"\n## {command}\n" in page
    assert "| `--cob-range` | Range R of the law" in page and "[default: 0.5]" in page


def test_every_rule_is_in_the_reference() -> None:
    page = reference.rules()
    for rule in RULES.values():
        if rule.fn.__module__.startswith("fxteleport.passes.rules."):
            assert f"| `{rule.name}` |" in page
    assert reference.operation("add_") == "add" and reference.operation("__iadd__") == "iadd"


def test_links_hold_on_the_site() -> None:
    text = "[a](../passes/rules/folds.py#x) [b](method.md#modes) [c](https://x.org)\n```\n[d](nowhere.md)\n```\n"
    assert sources.targets(text, "docs/rules.md") == {"passes/rules/folds.py"}
    assert sources.relinked(text, "docs/rules.md") == (
        "[a](source/passes/rules/folds.py.md#x) [b](method.md#modes) [c](https://x.org)\n```\n[d](nowhere.md)\n```\n"
    )
    assert sources.relinked("[m](docs/method.md) [r](CONTRIBUTING.md)", "README.md") == (
        "[m](method.md) [r](contributing.md)"
    )
    with pytest.raises(FileNotFoundError, match=r"docs/rules.md links to 'nowhere.md'"):
        sources.targets("[x](nowhere.md)", "docs/rules.md")


PAGES = [ROOT / name for name in sources.FRONT] + sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    for name in sources.targets(page.read_text(), str(page.relative_to(ROOT))):
        assert sources.shown(name).startswith(f"# {name}\n")
