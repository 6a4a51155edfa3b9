"""Assertions: where one arm of a branch does nothing but raise, the trace takes the other.

`assert torch.isfinite(x).all()` branches on a value that is unknown before the run. But the code goes on in one arm
only, so the trace takes that arm, and the emitted network makes the same check.
"""

from __future__ import annotations

import dis
import functools
from types import CodeType, FrameType
from typing import Any

import torch

from fxteleport.passes.graph.source_location import CAPTURE, OWN


def must_be(frame: FrameType) -> bool | None:
    """The truth value with which the branch that a frame is at does not raise; None: neither arm only raises."""
    return _verdicts(frame.f_code).get(frame.f_lasti)


def own_check(frame: FrameType | None) -> bool | None:
    """`must_be` where the model's own code makes the check, and no code catches the error; else None."""
    if frame is None or is_caught(frame):
        return None
    return True if _is_asserted(frame, frame.f_lasti) else must_be(frame)


def insists(frame: FrameType | None) -> bool:
    """True where a frame compares the value that it reads with another, and raises unless both are equal."""
    if frame is None or frame.f_lasti < 0 or is_caught(frame):
        return False
    at, equal = _compared(frame.f_code, frame.f_lasti)
    return at is not None and ((equal and _is_asserted(frame, at)) or _verdicts(frame.f_code).get(at) is equal)


def equality_insisted(frame: FrameType | None) -> bool | None:
    """Whether the two sides that a frame compares right now must be equal, or not, if it is not to raise."""
    if frame is None or frame.f_lasti < 0 or is_caught(frame):
        return None
    before, after = _cut(frame.f_code, frame.f_lasti)
    verdict = _verdicts(frame.f_code).get(after[0].offset) if after else None
    turned = bool(before) and "!=" in str(before[-1].argval)
    return verdict if verdict is None else verdict is not turned


def unpacks(frame: FrameType | None) -> bool:
    """True where a frame unpacks a sequence into a fixed number of names, and no code catches the error."""
    if frame is None or frame.f_lasti < 0:
        return False
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] == "UNPACK_SEQUENCE" and not is_caught(frame)


def is_caught(frame: FrameType | None) -> bool:
    """True where an error that a frame raises now may be caught inside the model."""
    while frame is not None and frame.f_code.co_filename != CAPTURE:
        own = not frame.f_code.co_filename.startswith(OWN)
        if own and any(start <= frame.f_lasti < end for start, end in _tried(frame.f_code)):
            return True
        frame = frame.f_back
    return False


@functools.lru_cache(maxsize=256)
def _tried(code: CodeType) -> tuple[tuple[int, int], ...]:
    """The ranges of the code in which an error may be caught (a `with` counts, too)."""
    steps = dis.Bytecode(code)
    entries = getattr(steps, "exception_entries", None)
    if entries is not None:
        return tuple((entry.start, entry.end) for entry in entries)
    tries = any(step.opname.startswith("SETUP_") for step in steps)  # Python 3.10 has no table of them
    return ((0, len(code.co_code)),) if tries else ()


@functools.lru_cache(maxsize=256)
def _verdicts(code: CodeType) -> dict[int, bool]:
    """For each offset in the code at which a condition is evaluated: the value with which it does not raise."""
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
    """True where the code from here on only raises."""
    for step in steps[start:]:
        if step.opname == "RAISE_VARARGS":
            return True
        if "JUMP" in step.opname or step.opname.startswith(("STORE", "DELETE", "RETURN", "FOR_", "YIELD", "RERAISE")):
            return False
    return False


# -- `torch._assert(condition, message)`, which does nothing but raise -------------------------------------------------

_LOADS = ("LOAD_", "PUSH_NULL", "NOP")
_TEXT = frozenset({"FORMAT_VALUE", "FORMAT_SIMPLE", "FORMAT_WITH_SPEC", "CONVERT_VALUE", "BUILD_STRING"})
_READS = frozenset({"BINARY_OP", "BINARY_SUBSCR"})
_CALLS = frozenset({"CALL", "CALL_FUNCTION", "CALL_METHOD"})


def _is_asserted(frame: FrameType, at: int) -> bool:
    """True where the value that the code computes at an offset is an argument of `torch._assert`."""
    function = _first_argument_of(frame.f_code, at)
    found: Any = frame.f_globals.get(function[0]) if function else None
    for name in function[1:]:
        found = getattr(found, name, None)
    return found is torch._assert


@functools.lru_cache(maxsize=256)
def _steps(code: CodeType) -> list[dis.Instruction]:
    return [step for step in dis.get_instructions(code) if step.opname != "CACHE"]


def _cut(code: CodeType, at: int) -> tuple[list[dis.Instruction], list[dis.Instruction]]:
    """The instructions of a code up to the one at an offset (or around it), and those after; without PRECALLs."""
    before = [step for step in _steps(code) if step.offset <= at]
    after = _steps(code)[len(before) :]
    if before and before[-1].opname == "PRECALL":
        before, after = [*before, after[0]], after[1:]
    return tuple([step for step in steps if step.opname != "PRECALL"] for steps in (before, after))  # type: ignore[return-value]


@functools.lru_cache(maxsize=4096)
def _first_argument_of(code: CodeType, at: int) -> tuple[str, ...]:
    """The name of the function whose first argument is the value computed at an offset: ("torch", "_assert")."""
    before, after = _cut(code, at)
    above = 0  # values on the stack above it
    for step in after:
        name, count = step.opname, step.arg or 0
        if name in _CALLS and count > above:
            return _called(before) if count == above + 1 else ()
        least = 2 if name in _READS else 1 if name in ("LOAD_ATTR", "LOAD_METHOD") else 0
        known = name.startswith(_LOADS) or name in _TEXT or name in _READS or name in _CALLS
        least = count if name == "BUILD_STRING" else 1 if name in _TEXT else least
        if not known or above < least:
            return ()
        above += _effect(step)
    return ()


def _effect(step: dis.Instruction) -> int:
    """By how many values an instruction grows the stack; a call pops its function and the object it is bound to."""
    if step.opname in _CALLS:
        return -(step.arg or 0) - (step.opname != "CALL_FUNCTION")
    return dis.stack_effect(step.opcode, step.arg if step.opcode >= dis.HAVE_ARGUMENT else None)


def _called(steps: list[dis.Instruction]) -> tuple[str, ...]:
    """The names that were loaded before the value that the last instructions compute."""
    effect, last = 0, len(steps) - 1
    while last >= 0:
        step = steps[last]
        if "JUMP" in step.opname:
            return ()
        effect += _effect(step)
        last -= 1
        if effect == 1:
            break
    before = [step for step in steps[max(last - 3, 0) : last + 1] if step.opname != "PUSH_NULL"]
    names = [str(step.argval) for step in before[-2:]]
    if before and before[-1].opname in ("LOAD_GLOBAL", "LOAD_NAME"):
        return (names[-1],)
    attribute = len(before) > 1 and before[-1].opname in ("LOAD_ATTR", "LOAD_METHOD")
    return tuple(names) if attribute and before[-2].opname in ("LOAD_GLOBAL", "LOAD_NAME") else ()


@functools.lru_cache(maxsize=1024)
def _compared(code: CodeType, at: int) -> tuple[int | None, bool]:
    """The offset at which the value computed at `at` is compared with a plain one, and whether by `==` (or `!=`)."""
    plain, comparing = (*_cut(code, at)[1][:2], None, None)[:2]
    if plain is None or comparing is None or not plain.opname.startswith(("LOAD_CONST", "LOAD_FAST", "LOAD_SMALL_INT")):
        return None, False
    kind = str(comparing.argval).removeprefix("bool(").removesuffix(")")
    if comparing.opname != "COMPARE_OP" or kind not in ("==", "!="):
        return None, False
    return comparing.offset, kind == "=="
