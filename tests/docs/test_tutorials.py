"""The tutorials: each notebook runs, and its page shows what it prints."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "tutorials"


def _load() -> ModuleType:
    found = importlib.util.spec_from_file_location("tutorials_render", FOLDER / "render.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


render = _load()


def test_every_notebook_is_rendered() -> None:
    assert {p.stem for p in FOLDER.glob("*.py")} == {"render", *render.NAMES}
    assert {p.stem for p in FOLDER.glob("*.md")} == set(render.NAMES)


@pytest.mark.parametrize("name", render.NAMES)
def test_the_notebook_runs_and_its_page_shows_it(name: str) -> None:
    old = (FOLDER / f"{name}.md").read_text()
    new, figures = render.rendered(name, (FOLDER / f"{name}.py").read_text())
    lines = [render.settled(page).splitlines() for page in (old, new)]
    difference = "\n".join(difflib.unified_diff(*lines, "written", "run", lineterm="", n=1))
    assert not difference, f"{difference}\n\nwrite it anew: python docs/tutorials/render.py {name}"
    assert figures and all((FOLDER / file).exists() for file in figures)


def test_cells() -> None:
    text = "# %% [markdown]\n# # Title\n#\n# text\n\n# %%\na = 1\n\n\nprint(a / 3)\n\n# %%\n"
    assert list(render.cells(text)) == [("markdown", "# Title\n\ntext", 0), ("code", "a = 1\n\n\nprint(a / 3)", 6)]
    page, figures = render.rendered("x", text)
    assert "```text\n0.3333333333333333\n```" in page and not figures
    assert render.settled("a   0.5 b 12%") == "a <number> b 12%"
