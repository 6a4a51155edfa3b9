"""Identity: code that asks which object it has, or of which class, and what it is told of one that stands for another.

Python tells no object that it is compared with `is`. So code that does it with a type of tensors, `x.dtype is
torch.float16`, gets the type itself, and the emitted network insists on that; and in code that does it with
variables, no call may give back a tensor that it was given: a trace has another proxy then.

`x.__class__` in code of the model's own is the class of what `x` stands for. torch's C code looks there, too, and would
read the memory of what is of class `Tensor`: so only the instruction that reads that attribute is told.
"""

from __future__ import annotations

import dis
import functools
from types import CodeType, FrameType
from typing import Any

import torch

from fxteleport.passes.graph.source_location import OWN

_TYPES = frozenset(name for name, x in vars(torch).items() if isinstance(x, torch.dtype)) | {"dtype"}
_OPERANDS = 6  # steps: `torch.float16 is self.weight.dtype` takes five
_LOCAL = ("LOAD_FAST", "LOAD_DEREF")
_CLASS: Any = vars(object)["__class__"]


@functools.lru_cache(maxsize=4096)
def compares_types(code: CodeType) -> bool:
    """True for code in which `is` or `is not` stands beside the name of a type of tensors."""
    if _TYPES.isdisjoint(code.co_names):
        return False
    steps = _steps(code)
    places = [i for i, step in enumerate(steps) if step.opname == "IS_OP"]
    return any(step.argval in _TYPES for i in places for step in steps[max(i - _OPERANDS, 0) : i] if _is_name(step))


@functools.lru_cache(maxsize=4096)
def compares_variables(code: CodeType) -> bool:
    """True for code in which `is` or `is not` stands between variables, or one and what a call gives."""
    steps = _steps(code)
    return any(_takes_objects(steps[:i]) for i, step in enumerate(steps) if step.opname == "IS_OP")


def _takes_objects(before: list[dis.Instruction]) -> bool:
    asks_for_type = any(step.opname == "LOAD_GLOBAL" and step.argval == "type" for step in before[-_OPERANDS:])
    operands = before[-2:]
    kinds = [step.opname.startswith(_LOCAL) or "CALL" in step.opname for step in operands]
    return all(kinds) and not asks_for_type and not any(_is_constant(step.argval, before) for step in operands)


def _is_constant(name: Any, before: list[dis.Instruction]) -> bool:
    """True for a variable of pytest's, whose assertions put even `None` into one, that holds a constant."""
    if not (isinstance(name, str) and name.startswith("@py_")):
        return False
    stores = [i for i, step in enumerate(before) if step.opname == "STORE_FAST" and step.argval == name]
    return bool(stores) and before[stores[-1] - 1].opname == "LOAD_CONST"


def asks_for_class(frame: FrameType) -> bool:
    """True where a frame of the model's code reads `__class__` right now."""
    code = frame.f_code
    if "__class__" not in code.co_names:  # nearly always
        return False
    return frame.f_lasti in _class_reads(code) and not code.co_filename.startswith(OWN)


@functools.lru_cache(maxsize=4096)
def _class_reads(code: CodeType) -> frozenset[int]:
    return frozenset(step.offset for step in _steps(code) if _is_name(step) and step.argval == "__class__")


def set_class(x: Any, cls: Any) -> None:
    """What `x.__class__ = cls` does where no property is in its way."""
    _CLASS.__set__(x, cls)


def _steps(code: CodeType) -> list[dis.Instruction]:
    return [step for step in dis.get_instructions(code) if step.opname != "CACHE"]


def _is_name(step: dis.Instruction) -> bool:
    return step.opname in ("LOAD_ATTR", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_METHOD")
