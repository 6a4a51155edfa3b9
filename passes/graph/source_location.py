"""Source: which line of the model's code makes the call that is being recorded.

It is the innermost frame outside torch and this package: the `forward` that runs, or a helper that it calls.
Frames are walked as they are, by file name: a few hundred nanoseconds a node, where a traceback takes a millisecond.
"""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from types import FrameType

import torch

Line = tuple[str, int]  # file and line number

_HERE = Path(__file__).parents[1]
OWN = (f"{_HERE}/", f"{Path(torch.__file__).parent}/")
CAPTURE = str(_HERE / "capture" / "capture.py")  # what called it is no part of the model


class _Kinds(dict[str, str]):
    """File -> whose code is in it: "capture" (what called that is no part of the model), "own", "torch", "model"."""

    def __missing__(self, file: str) -> str:
        whose = "capture" if file == CAPTURE else "own" if file.startswith(OWN[0]) else "torch"
        kind = self[file] = whose if file.startswith(OWN) else "model"
        return kind


_KINDS = _Kinds()


def calling_line() -> Line | None:
    """The line of the model's code that is running; a line of torch's where only its containers are."""
    frame = calling_frame()
    return None if frame is None else (frame.f_code.co_filename, frame.f_lineno)


def calling_frame() -> FrameType | None:
    """The frame of that line."""
    frame = sys._getframe(1)
    nearest = None
    while True:
        kind = _KINDS[frame.f_code.co_filename]
        if kind == "model":
            return frame
        if kind == "torch" and nearest is None:
            nearest = frame
        if kind == "capture" or frame.f_back is None:
            return nearest
        frame = frame.f_back


def asking_frame() -> FrameType | None:
    """The innermost frame outside this package, of torch's code, too."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(OWN[0]):
        frame = frame.f_back
    return frame


def written(line: Line | None) -> str:
    """A line as `file:number`; "" for none."""
    return "" if line is None else f"{line[0]}:{line[1]}"


def quoted(line: Line | None) -> str:
    """A line as `file:number: text`; "" for none."""
    text = "" if line is None else linecache.getline(*line).strip()
    return f"{written(line)}: {text}" if text else written(line)
