"""Checks: a branch of Python that does nothing but raise tells what its condition must be.

`assert torch.isfinite(x).all()` asks for a value that only the run knows. Yet the code goes on in one way only, so the
trace goes on in that way, and the emitted network makes the same check.
"""

from __future__ import annotations

import dis
import functools
from types import CodeType, FrameType


def must_be(frame: FrameType) -> bool | None:
    """What the condition that a frame asks for right now must be if it is not to raise; None: it may be either."""
    return _verdicts(frame.f_code).get(frame.f_lasti)


def takes_apart(frame: FrameType) -> bool:
    """True where a frame is right now giving the items of a sequence to names, one each: `q, k, v = parts`.

    Another number of items raises there, so nothing else may be decided by how many there are.
    """
    return frame.f_code.co_code[frame.f_lasti] == _UNPACK


_UNPACK = dis.opmap["UNPACK_SEQUENCE"]


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
