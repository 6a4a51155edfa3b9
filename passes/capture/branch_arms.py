"""Arms: whether both arms of a branch on the mode reach the same instruction with the same values.

`p if self.training else 0.0` decides nothing where p is 0, nor does `if self.training and self.checkpointing` where
the second is False. Both arms are followed in the bytecode as long as they only look up plain values.
"""

from __future__ import annotations

import dis
import functools
import sys
from types import CodeType, FrameType
from typing import Any

from torch import nn


def agree(frame: FrameType, value: bool) -> bool:
    """True where the branch that a frame is at goes on alike with a truth value and with its negation."""
    steps, index = _steps(frame.f_code)
    start = index.get(frame.f_lasti, len(steps)) + 1
    ends = [_follow(frame, steps, index, start, answer) for answer in (value, not value)]
    (one, held), (other, others) = ends
    return one == other and len(held) == len(others) and all(map(_equal, held, others))


@functools.lru_cache(maxsize=512)
def _steps(code: CodeType) -> tuple[list[dis.Instruction], dict[int, int]]:
    steps = [step for step in dis.get_instructions(code) if step.opname not in _IDLE]
    return steps, {step.offset: i for i, step in enumerate(steps)}


_IDLE = frozenset({"CACHE", "NOP", "RESUME", "EXTENDED_ARG", "NOT_TAKEN", "PRECALL"})
_MOST = 64  # steps; a loop would go on for ever


def _follow(
    frame: FrameType, steps: list[dis.Instruction], index: dict[int, int], at: int, value: bool
) -> tuple[int, list[Any]]:
    """The first instruction that does more than look something up, and the values pushed before it."""
    stack: list[Any] = [value]
    for _ in range(_MOST):
        if at >= len(steps):
            break
        step = steps[at]
        name, ahead = step.opname, at + 1
        try:
            if "JUMP" in name:
                ahead = _jump(step, index, stack, ahead)
            elif name.startswith("LOAD_FAST"):
                stack.append(frame.f_locals[step.argval])
            elif name == "LOAD_CONST":
                stack.append(step.argval)
            elif name == "LOAD_ATTR" and not (sys.version_info >= (3, 12) and (step.arg or 0) & 1):  # of no method
                stack.append(_held(stack.pop(), step.argval))
            elif name == "UNARY_NOT":
                stack.append(not _plain(stack.pop()))
            elif name == "TO_BOOL":
                stack.append(bool(_plain(stack.pop())))
            else:
                break
        except (KeyError, IndexError, ValueError):
            break
        at = ahead
    return at, stack


def _jump(step: dis.Instruction, index: dict[int, int], stack: list[Any], ahead: int) -> int:
    """The step after one that may jump; its condition is popped from the stack, or left there by `and` and `or`."""
    name = step.opname
    if "BACKWARD" in name:
        raise ValueError
    if name.startswith("JUMP_IF"):
        jumps = bool(_plain(stack[-1])) is ("TRUE" in name)
        if not jumps:
            stack.pop()
    elif name.startswith("POP_JUMP"):
        asked = stack[-1]
        if name.endswith(("IF_NONE", "IF_NOT_NONE")):
            jumps = (asked is None) is name.endswith("IF_NONE")
        else:
            jumps = bool(_plain(asked)) is name.endswith("TRUE")
        stack.pop()
    else:
        jumps = True
    return index[step.argval] if jumps else ahead


_PLAIN = (bool, int, float, str, type(None))


def _plain(x: Any) -> Any:
    if type(x) not in _PLAIN:
        raise ValueError
    return x


def _held(x: Any, name: str) -> Any:
    """An attribute that is stored as a plain value: no property, and no tensor of the model."""
    if not isinstance(x, nn.Module) or hasattr(type(x), name):
        raise ValueError
    return x.__dict__[name] if name in x.__dict__ else x._modules[name]


def _equal(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and type(a) in _PLAIN and bool(a == b))
