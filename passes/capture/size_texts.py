"""Messages: the text of a size does not specialise the size where it is part of a message only.

`torch._assert(n % 2 == 0, f"{n} is odd")` builds the text at each call, `print(x.shape)` prints it, and the network's
results depend on neither: the text goes into a call whose result is dropped. A text that is looked up, compared or
stored (`getattr(self, f"table_{n}")`) may decide anything, so its size is specialised.
"""

from __future__ import annotations

import dis
import functools
from types import CodeType, FrameType

_LOGS = frozenset({"logging", "warnings", "traceback"})  # modules that convert their arguments to text
_MAKES = ("FORMAT_", "CONVERT_", "BUILD_STRING", "BUILD_TUPLE")
_AROUND = (*_MAKES, "LOAD_", "BINARY_SUBSCR", "BINARY_OP", "PRECALL", "CALL", "KW_NAMES", "PUSH_NULL", "EXTENDED_ARG")


def is_message(frame: FrameType) -> bool:
    """True where the text that a frame is building now is part of a message only."""
    if frame.f_globals.get("__name__", "").partition(".")[0] in _LOGS:
        return True
    return _is_dropped(frame.f_code, frame.f_lasti)


def will_be_message(frame: FrameType) -> bool:
    """True where the value that a frame reads now becomes text next, in a message only."""
    if frame.f_lasti < 0:
        return False
    following = next((step for step in _steps(frame.f_code) if step.offset > frame.f_lasti), None)
    return following is not None and _is_dropped(frame.f_code, following.offset)


@functools.lru_cache(maxsize=256)
def _steps(code: CodeType) -> list[dis.Instruction]:
    return [step for step in dis.get_instructions(code) if step.opname != "CACHE"]


@functools.lru_cache(maxsize=1024)
def _is_dropped(code: CodeType, offset: int) -> bool:
    """Follow the text through the code: it must end, joined to others, in a call whose result is dropped."""
    steps = [step for step in _steps(code) if step.offset >= offset]
    if steps[0].opname.startswith(("PRECALL", "CALL")):  # str(n), or print(n)
        steps = [step for i, step in enumerate(steps) if i and not step.opname.startswith("CALL")]
        if steps[0].opname == "POP_TOP":
            return True
    elif steps[0].opname.startswith("FORMAT_"):
        steps = steps[1:]
    else:
        return False
    above = 0  # values on the stack above the text
    for i, step in enumerate(steps):
        touches = not above and step.opname.startswith(("LOAD_ATTR", "LOAD_METHOD"))
        if touches or not step.opname.startswith(_AROUND):
            return False
        above += dis.stack_effect(step.opcode, step.arg, jump=False)
        if above >= 0:
            continue
        if step.opname.startswith(("PRECALL", "CALL")):
            after = next((s for s in steps[i + 1 :] if not s.opname.startswith("CALL")), None)
            return after is not None and after.opname == "POP_TOP"
        if not step.opname.startswith(_MAKES):
            return False
        above = 0  # a longer text is in its place
    return False
