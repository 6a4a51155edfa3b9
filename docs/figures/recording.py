"""Record a session in a real terminal as a moving SVG: python docs/figures/recording.py (needs pyte, from extra dev)

The commands run in a pseudo-terminal of 80 columns; what they write, colours and progress bar included, goes through a
terminal emulator, whose screens become frames. Waits longer than a second are cut to one, so it tells no speed.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pyte

COLUMNS, LINES = 80, 24
SESSION = ("check resnet18 convnext_atto --exact", "inspect resnet18 --pinned")
_LONGEST, _SHORTEST, _END = 1.0, 0.12, 4.0  # seconds of a frame; of the last one
_COLOURS = {
    "default": "#d8dee9", "black": "#4c566a", "red": "#e06c75", "green": "#98c379", "brown": "#e5c07b",
    "blue": "#61afef", "magenta": "#c678dd", "cyan": "#56b6c2", "white": "#eceff4",
}  # fmt: skip
_WIDE, _HIGH, _MARGIN = 8.4, 18, 14
Frame = tuple[float, list[list[tuple[str, str]]]]  # seconds; lines of runs (text, colour)


def session() -> Iterator[tuple[float, bytes]]:
    """What the terminal is sent, each piece with the seconds since the one before."""
    for call in SESSION:
        yield 0.5, b"\x1b[32m$\x1b[0m "
        for letter in f"fxteleport {call}":
            yield 0.04, letter.encode()
        yield 0.3, b"\r\n"
        yield from _run(call.split())


def _run(arguments: list[str]) -> Iterator[tuple[float, bytes]]:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "fxteleport", *arguments]
    environment = {**os.environ, "TERM": "xterm-256color"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        before = time.monotonic()
        while True:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:  # as Linux says that the other end is closed
                break
            if not piece:
                break
            now = time.monotonic()
            yield now - before, piece
            before = now
    os.close(ours)


def frames(pieces: Iterator[tuple[float, bytes]]) -> list[Frame]:
    """The screens that the pieces draw, one after the other, each with how long it is seen."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    found: list[Frame] = []
    shown = _lines(screen)
    seconds = 0.0
    for wait, piece in pieces:
        seconds += min(wait, _LONGEST)
        if seconds >= _SHORTEST:
            found.append((seconds, shown))
            seconds = 0.0
        stream.feed(piece)
        shown = _lines(screen)
    return [*found, (_END, shown)]


def _lines(screen: pyte.Screen) -> list[list[tuple[str, str]]]:
    lines = []
    for y in range(LINES):
        runs: list[tuple[str, str]] = []
        for x in range(COLUMNS):
            cell = screen.buffer[y][x]
            if runs and runs[-1][1] == cell.fg:
                runs[-1] = (runs[-1][0] + cell.data, cell.fg)
            else:
                runs.append((cell.data, cell.fg))
        lines.append(runs)
    return lines


def svg(shown: list[Frame]) -> str:
    """An SVG that shows the frames in turn, without a script; who wants no motion sees the last."""
    total = sum(seconds for seconds, _ in shown)
    wide, high = COLUMNS * _WIDE + 2 * _MARGIN, LINES * _HIGH + 2 * _MARGIN
    rules, groups, at = [], [], 0.0
    for number, (seconds, lines) in enumerate(shown):
        start, stop = 100 * at / total, 100 * (at + seconds) / total
        at += seconds
        before = f"0%{{opacity:0}}{start:.3f}%{{opacity:0}}" if number else ""
        after = "" if number == len(shown) - 1 else f"{stop:.3f}%{{opacity:0}}100%{{opacity:0}}"
        rules.append(f"@keyframes f{number}{{{before}{start:.3f}%{{opacity:1}}{after}}}")
        name = "last" if number == len(shown) - 1 else "frame"
        text = "".join(_text(runs, y) for y, runs in enumerate(lines))
        groups.append(f'<g class="{name}" style="animation-name:f{number}">{text}</g>')
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {high}" role="img">
<title>A terminal: {escape("; ".join(f"fxteleport {call}" for call in SESSION))}</title>
<style>text{{font:14px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:pre}}
g{{animation:{total:.2f}s step-end infinite}}.frame{{opacity:0}}
{"".join(rules)}
@media(prefers-reduced-motion:reduce){{g{{animation:none}}}}</style>
<rect width="100%" height="100%" rx="8" fill="#20242c"/>
{"".join(groups)}
</svg>
"""


def _text(runs: list[tuple[str, str]], y: int) -> str:
    x, parts = 0, []
    for text, colour in runs:
        if text.strip():
            lead = len(text) - len(text.lstrip(" "))
            word = text.strip(" ")
            fill = _COLOURS.get(colour, f"#{colour}" if len(colour) == 6 else _COLOURS["default"])
            place = f'x="{_MARGIN + (x + lead) * _WIDE:g}" textLength="{len(word) * _WIDE:g}"'
            parts.append(f'<tspan {place} fill="{fill}">{escape(word)}</tspan>')
        x += len(text)
    return f'<text y="{_MARGIN + (y + 0.75) * _HIGH:g}">{"".join(parts)}</text>' if parts else ""


if __name__ == "__main__":
    Path(__file__).with_name("session.svg").write_text(svg(frames(session())), encoding="utf-8")
