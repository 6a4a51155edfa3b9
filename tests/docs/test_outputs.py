"""The pages: every block of Python runs as it is written, and what is shown as printed is what is printed now."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fxteleport.passes.rules.registry import RULES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").rglob("*.md")) if p.parent.name != "tutorials")]
NEEDS = {"docs/howto/quantise.md": ("torchao", "onnx", "onnxscript", "onnxruntime")}  # of the extra `quantise`


def _load() -> ModuleType:
    found = importlib.util.spec_from_file_location("docs_outputs", ROOT / "docs" / "outputs.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


outputs = _load()


def pages_with(kind: str) -> list[str]:
    kinds = {page: {block.kind for block in outputs.blocks(page.read_text())} for page in PAGES}
    return [str(page.relative_to(ROOT)) for page in PAGES if kind in kinds[page]]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In a folder of its own; rules that a page registers are gone after it, and so are its processes."""
    monkeypatch.chdir(tmp_path)
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize("name", [n for n in pages_with("python") if n not in pages_with("console")])
def test_the_code_runs(name: str) -> None:
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'fxteleport[quantise]'")
    text = (ROOT / name).read_text()
    printed = {block.stop: said for block, said in outputs.run_python(text, name)}
    written = [b for b in outputs.blocks(text) if b.kind == "python"]
    assert len(printed) == len(written)


SLOW = {"docs/cli.md"}  # its commands take minutes


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in pages_with("console")]
)
def test_the_page_shows_what_is_printed(name: str) -> None:
    old = (ROOT / name).read_text()
    new = outputs.refreshed(old, name, outputs.printed_by)
    difference = "\n".join(
        difflib.unified_diff(old.splitlines(), new.splitlines(), "written", "printed", lineterm="", n=1)
    )
    assert outputs.alike(old, new), f"{difference}\n\nwrite it anew: python docs/outputs.py {name}"


PAGE = """
text
<!-- setup:
a = 1
-->

```python
print(a + 1)
```

```text
old
```

```console
$ fxteleport --version
old
...
$ fxteleport one \\
    two
```

```bash
ls
```
"""


def test_blocks_and_what_they_print() -> None:
    found = list(outputs.blocks(PAGE))
    assert [b.kind for b in found] == ["python", "text", "console", "bash"]
    assert found[0].setup == "a = 1\n" and PAGE.splitlines()[found[0].line] == "print(a + 1)"
    new = outputs.refreshed(PAGE, "page", lambda arguments: f"{' '.join(arguments)}\nmore\nyet more\n")
    assert "```text\n2\n```" in new
    assert "$ fxteleport --version\n--version\n...\n$ fxteleport one \\\n    two\none two\nmore\nyet more\n```" in new
    assert "<!-- setup:\na = 1\n-->" in new and new.endswith("```bash\nls\n```\n")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("largest 1.7e-07;\n the rest", "largest 2.1e-07; the\nrest", True),
        ("8 of 8 checks passed in 3.6 s on AMD", "8 of 8 checks passed in 12.0 s on Intel(R) Xeon", True),
        ("pass  7680 100.0% bitwise  0.4  full", "pass  7680 100.0% bitwise 14.9  full", True),
        ("pass  7680 100.0% bitwise  0.4  full", "pass  7681 100.0% bitwise  0.4  full", False),
        ("seconds  capture 0.1, verify 2.0", "seconds  capture 1.1, verify 0.0", True),
        ("8 of 8 checks passed in 3.6 s", "7 of 8 checks passed in 3.6 s", False),
    ],
)
def test_what_no_two_runs_share_is_not_compared(a: str, b: str, same: bool) -> None:
    assert outputs.alike(a, b) is same
