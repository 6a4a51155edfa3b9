"""Capture is put together from parts that do not know what they are parts of."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CAPTURE = Path(__file__).parents[3] / "passes" / "capture"
FILES = sorted(CAPTURE.rglob("*.py"))
PACKAGE = "fxteleport.passes.capture"
# Those that know the tracer.
PUTS_TOGETHER = {"capture.py", "model_trace.py", "train_graph.py", "data_variants.py", "inner_graphs.py"}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_part_knows_the_tracer(path: Path) -> None:
    """Nor is it imported for its type."""
    modules = [x.module or "" for x in ast.walk(parsed(path)) if isinstance(x, ast.ImportFrom)]
    assert path.name in PUTS_TOGETHER or not any(m.endswith(".tracer") for m in modules)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_private_is_read_by_its_own_class(path: Path) -> None:
    """The node and the value behind a proxy have accessors (`proxy/`)."""
    if path.parent.name == "proxy":
        return
    for x in ast.walk(parsed(path)):
        if isinstance(x, ast.Attribute) and x.attr in ("_node", "_value", "_trace", "_example", "_path"):
            assert isinstance(x.value, ast.Name), f"line {x.lineno}"
            assert x.value.id == "self", f"line {x.lineno}"


def named(path: Path) -> str:
    """A file as a module."""
    return ".".join((PACKAGE, *path.relative_to(CAPTURE).with_suffix("").parts)).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """The modules of capture that a file imports."""
    modules = set(map(named, FILES))
    needed = set[str]()
    for x in ast.walk(parsed(path)):
        if isinstance(x, ast.ImportFrom) and (x.module or "").startswith(PACKAGE):
            names = {f"{x.module}.{name.name}" for name in x.names}
            needed |= names & modules if names & modules else {x.module or ""}
    return needed


def test_parts_import_each_other_in_one_direction() -> None:
    imports = {named(path): imported(path) for path in FILES}
    while True:
        leaves = {name for name, needed in imports.items() if not needed & imports.keys()}
        if not leaves:
            break
        imports = {name: needed for name, needed in imports.items() if name not in leaves}
    assert not imports, f"these import each other: {sorted(imports)}"
