"""The recording: what a terminal is sent becomes frames, and these an SVG that any browser shows."""

from __future__ import annotations

import importlib.util
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest.importorskip("pyte", reason="needs the extra 'dev'")
if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
_found = importlib.util.spec_from_file_location("docs_recording", FIGURES / "recording.py")
assert _found is not None and _found.loader is not None
recording = importlib.util.module_from_spec(_found)
_found.loader.exec_module(recording)


def texts(picture: str) -> list[str]:
    """The text of each frame."""
    root = ElementTree.fromstring(picture)
    return ["\n".join("".join(line.itertext()) for line in group) for group in root.iter() if group.tag.endswith("}g")]


def test_frames_are_the_screens_one_after_the_other() -> None:
    pieces = [(0.0, b"50% <done>"), (9.0, b"\r\x1b[K\x1b[32mpass\x1b[0m  a\r\n"), (0.01, b"2 of 2"), (0.5, b" passed")]
    shown = recording.frames(iter(pieces))
    assert [seconds for seconds, _ in shown] == [1.0, 0.51, 4.0]  # a long wait is cut, a short one joins the next
    picture = recording.svg(shown)
    assert texts(picture) == ["50% <done>", "passa\n2 of 2", "passa\n2 of 2 passed"]
    assert '#98c379">pass<' in picture and "<script" not in picture


def test_the_recording_in_the_docs_ends_as_the_session_does() -> None:
    *_, last = texts((FIGURES / "session.svg").read_text())
    assert "inspect resnet18 --pinned" in last and "free values with --mode full --norm-stats rescaled" in last
