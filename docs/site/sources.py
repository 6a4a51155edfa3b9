"""The files of the repository that pages link to, as pages of the site: so a link is right there and on GitHub.

A page in `docs/` says `../passes/rules/folds.py`, and `README.md` says `docs/method.md`. Links within `docs/` stay;
what lies outside of it is shown by a page of its own, below `source/`.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME, SOURCE = "index.md", "source"
# Pages of the repository's root, and what the site calls them.
FRONT = {"README.md": HOME, "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
_FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
_LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".cff": "yaml"}


def targets(text: str, where: str) -> set[str]:
    """Files and folders outside of `docs/` that a page links to, from the root. `where` is the page's own path."""
    found = {_from_root(link[1], where) for link in _LINK.finditer(_FENCE.sub("", text))}
    return {name for name in found if not _on_site(name)}


def relinked(text: str, where: str) -> str:
    """A page of the repository (its path from the root) with links that hold on the site."""
    here = posixpath.dirname(site_path(where))

    def replaced(link: re.Match[str]) -> str:
        name = site_path(_from_root(link[1], where))
        return posixpath.relpath(name, here or ".") + (link[2] or "")

    parts, last = [], 0
    for fence in [*_FENCE.finditer(text), None]:
        parts.append(_LINK.sub(replaced, text[last : fence.start() if fence else len(text)]))
        if fence:
            parts.append(fence[0])
            last = fence.end()
    return "".join(parts)


def site_path(name: str) -> str:
    """Where the site has a file or folder of the repository."""
    if name in FRONT:
        return FRONT[name]
    if name == "docs" or name.startswith("docs/"):
        return _inside(name) if _on_site(name) else f"{SOURCE}/{name}.md"
    return f"{SOURCE}/{name}.md"


def shown(name: str) -> str:
    """The page of a file (its text) or of a folder (its files, which are links)."""
    path = ROOT / name
    if path.is_dir():
        files = sorted(f.name for f in path.iterdir() if f.suffix == ".py" and f.stem != "__init__")
        init = path / "__init__.py"
        lines = [f"- `{file}`: {_purpose(path / file)}" for file in files]
        return "\n".join([f"# {name}", "", _purpose(init) if init.exists() else "", "", *lines, ""])
    language = _LANGUAGES.get(path.suffix, "text")
    return f'# {name}\n\n````{language} linenums="1"\n{path.read_text(encoding="utf-8").rstrip()}\n````\n'


def _purpose(path: Path) -> str:
    """The first line of a module's docstring."""
    text = re.match(r'\s*"""(.*)', path.read_text(encoding="utf-8"))
    return text[1].removesuffix('"""') if text else ""


def _from_root(link: str, where: str) -> str:
    name = posixpath.normpath(posixpath.join(posixpath.dirname(where), link))
    if not os.path.exists(ROOT / name):
        raise FileNotFoundError(f"{where} links to '{link}', which does not exist")
    return name


def _on_site(name: str) -> bool:
    return name in FRONT or name == "docs" or (name.startswith("docs/") and not name.endswith(".py"))


def _inside(name: str) -> str:
    return HOME if name == "docs" else name.removeprefix("docs/")
