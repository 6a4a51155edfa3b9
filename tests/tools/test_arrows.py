"""Folders of `tools` import one way: from the command line down to models and the console."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
LAYERS = [
    ["cli"],
    ["commands"],
    ["benchmarks", "experiments", "export", "survey"],
    ["plots"],
    ["inspection"],
    ["checking"],
    ["options", "worker_pool"],
    ["console", "models"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(file: Path) -> Iterator[str]:
    """The folders (or single files) of `tools` that a file imports, also inside functions and for types."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fxteleport.tools"):
            parts = str(node.module).split(".")[2:]
            yield from parts[:1] or [alias.name for alias in node.names]


@pytest.mark.skipif(not TOOLS.exists(), reason="needs a checkout")
def test_arrows_go_down() -> None:
    files = [f for f in TOOLS.rglob("*.py") if f.name != "__init__.py"]
    assert {f.relative_to(TOOLS).parts[0].removesuffix(".py") for f in files} == set(LEVEL)
    for file in files:
        own = file.relative_to(TOOLS).parts[0].removesuffix(".py")
        wrong = {name for name in imported(file) if name != own and LEVEL[name] <= LEVEL[own]}
        assert not wrong, f"{file.relative_to(TOOLS)} imports {', '.join(sorted(wrong))}"
