"""Identity: code that asks whether a type of tensors is another one, `x.dtype is torch.float16`.

Python tells no object that it is compared with `is`. So code that does it with a type of tensors gets the type itself,
and the emitted network insists on that.
"""

from __future__ import annotations

import dis
import functools
from types import CodeType

import torch

_TYPES = frozenset(name for name, x in vars(torch).items() if isinstance(x, torch.dtype)) | {"dtype"}
_OPERANDS = 6  # steps: `torch.float16 is self.weight.dtype` takes five


@functools.lru_cache(maxsize=4096)
def compares_types(code: CodeType) -> bool:
    """True for code in which `is` or `is not` stands beside the name of a type of tensors."""
    if _TYPES.isdisjoint(code.co_names):
        return False
    steps = [step for step in dis.get_instructions(code) if step.opname != "CACHE"]
    places = [i for i, step in enumerate(steps) if step.opname == "IS_OP"]
    return any(step.argval in _TYPES for i in places for step in steps[max(i - _OPERANDS, 0) : i] if _is_name(step))


def _is_name(step: dis.Instruction) -> bool:
    return step.opname in ("LOAD_ATTR", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_METHOD")
