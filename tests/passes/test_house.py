"""The house: short files, short classes, one base of the project's own."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

PASSES = Path(__file__).parents[2] / "passes"
FILES = sorted(PASSES.rglob("*.py"))
LONGEST_CLASS, LONGEST_FILE, MEDIAN = 150, 350, 112


def classes() -> list[tuple[Path, ast.ClassDef]]:
    return [(path, x) for path in FILES for x in ast.walk(ast.parse(path.read_text())) if isinstance(x, ast.ClassDef)]


def test_no_class_is_too_long() -> None:
    long = {f"{path.name}: {x.name}": (x.end_lineno or 0) - x.lineno + 1 for path, x in classes()}
    assert not {name: lines for name, lines in long.items() if lines > LONGEST_CLASS}


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(PASSES)): len(path.read_text().splitlines()) for path in FILES}
    assert statistics.median(lengths.values()) <= MEDIAN
    assert not {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE}


def test_no_class_has_two_bases_of_the_projects_own() -> None:
    """But for proxies: `Overriding` is what torch looks for on them."""
    own = {x.name for _, x in classes()} - {"Overriding"}
    for path, x in classes():
        bases = [b.id for b in x.bases if isinstance(b, ast.Name) and b.id in own]
        assert len(bases) <= 1, f"{path.name}: {x.name}"


def test_a_package_says_what_goes_in_and_what_comes_out() -> None:
    for path in FILES:
        if path.name == "__init__.py":
            words = (ast.get_docstring(ast.parse(path.read_text())) or "").lower()
            assert "open `" in words, path
