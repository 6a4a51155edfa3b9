"""mkdocs hooks: links to the code get pages, the reference is generated, and the package is found in a checkout."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import reference
import sources
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

_PACKAGE = tempfile.TemporaryDirectory()


@event_priority(100)  # before mkdocstrings looks
def on_config(config: Any) -> Any:
    """Let mkdocstrings read the package: a checkout's folders as the build maps them into one."""
    folder = Path(_PACKAGE.name) / "fxteleport"
    if not folder.exists():
        folder.mkdir()
        inside = [p for p in (sources.ROOT / "fxteleport").iterdir() if p.name != "__pycache__"]
        for path in [*inside, sources.ROOT / "passes", sources.ROOT / "tools"]:
            (folder / path.name).symlink_to(path)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_PACKAGE.name]
    if str(sources.ROOT) not in sys.path:
        sys.path.insert(0, str(sources.ROOT))
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made: the root's, the reference, and those of all code that a page links to."""
    made = dict(reference.pages())
    front = {new: (sources.ROOT / old).read_text(encoding="utf-8") for old, new in sources.FRONT.items()}
    linked: set[str] = set()
    for old, new in sources.FRONT.items():
        linked |= sources.targets(front[new], old)
        made[new] = sources.relinked(front[new], old)
    for file in files.documentation_pages():
        linked |= sources.targets(file.content_string, f"docs/{file.src_uri}")
    for name in linked:
        made[sources.site_path(name)] = sources.shown(name)
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """A page of `docs/` with links that hold on the site."""
    if page.file.generated_by:
        return markdown
    return sources.relinked(markdown, f"docs/{page.file.src_uri}")
