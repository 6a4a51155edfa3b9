"""Checks: a branch of Python that does nothing but raise tells what its condition must be.

`assert torch.isfinite(x).all()` asks for a value that only the run knows. Yet the code goes on in one way only, so the
trace goes on in that way, and the emitted network makes the same check.
"""

from __future__ import annotations

import dis
import functools
from types import CodeType, FrameType

from fxteleport.passes.graph.source_location import CAPTURE, OWN


def must_be(frame: FrameType) -> bool | None:
    """What the condition that a frame asks for right now must be if it is not to raise; None: it may be either."""
    return _verdicts(frame.f_code).get(frame.f_lasti)


def own_check(frame: FrameType | None) -> bool | None:
    """The same where the model's own code insists on it, and nothing catches what it raises; None: it does not."""
    return None if frame is None or _caught(frame) else must_be(frame)


def unpacks(frame: FrameType | None) -> bool:
    """True where a frame takes a sequence apart into so many names, and nothing catches what it raises otherwise."""
    if frame is None or frame.f_lasti < 0:
        return False
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] == "UNPACK_SEQUENCE" and not _caught(frame)


def _caught(frame: FrameType | None) -> bool:
    """True where what a frame raises right now may be caught before it leaves the model."""
    while frame is not None and frame.f_code.co_filename != CAPTURE:
        own = not frame.f_code.co_filename.startswith(OWN)
        if own and any(start <= frame.f_lasti < end for start, end in _tried(frame.f_code)):
            return True
        frame = frame.f_back
    return False


@functools.lru_cache(maxsize=256)
def _tried(code: CodeType) -> tuple[tuple[int, int], ...]:
    """From where to where in the code an error does not just leave it (a `with` counts, too)."""
    steps = dis.Bytecode(code)
    entries = getattr(steps, "exception_entries", None)
    if entries is not None:
        return tuple((entry.start, entry.end) for entry in entries)
    tries = any(step.opname.startswith("SETUP_") for step in steps)  # Python 3.10 has no table of them
    return ((0, len(code.co_code)),) if tries else ()


@functools.lru_cache(maxsize=256)
def _verdicts(code: CodeType) -> dict[int, bool]:
    """For each place in the code at which a condition is asked for: the value with which it does not raise."""
    steps = [step for step in dis.get_instructions(code) if step.opname != "CACHE"]
    index = {step.offset: i for i, step in enumerate(steps)}
    found: dict[int, bool] = {}
    for i, step in enumerate(steps):
        if "JUMP" not in step.opname or not step.opname.endswith(("IF_TRUE", "IF_FALSE")):
            continue
        jumps_when = step.opname.endswith("IF_TRUE")
        going_on, jumping = _raises(steps, i + 1), _raises(steps, index.get(step.argval, len(steps)))
        if going_on != jumping:
            verdict = jumps_when if going_on else not jumps_when
            found[step.offset] = verdict
            before = i - 1
            if before >= 0 and steps[before].opname == "TO_BOOL":  # Python 3.13 asks there
                found[steps[before].offset] = verdict
                before -= 1
            if before >= 0:  # a call whose result is a plain bool
                found[steps[before].offset] = verdict
    return found


def _raises(steps: list[dis.Instruction], start: int) -> bool:
    """True where the code from here runs straight into a `raise`."""
    for step in steps[start:]:
        if step.opname == "RAISE_VARARGS":
            return True
        if "JUMP" in step.opname or step.opname.startswith(("STORE", "DELETE", "RETURN", "FOR_", "YIELD", "RERAISE")):
            return False
    return False
