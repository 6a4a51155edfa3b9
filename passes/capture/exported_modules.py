"""Modules that `torch.export` makes: removing input checks from their clones.

They check their inputs before they run, by a hook or a setting. That code of torch's is not traced: the inputs that the
program takes are its own condition, not the trace's. Unflattened modules run their graph in an interpreter or, if a
setting says so, as generated code.
"""

from __future__ import annotations

from typing import Any

from torch import nn

_EXPORT = "torch.export"


def is_check(hook: Any) -> bool:
    """True for a hook that checks the inputs of an exported module."""
    return (getattr(hook, "__module__", None) or "").startswith(_EXPORT)


def without_checks(module: nn.Module) -> None:
    """Have the clone of a model run the graphs of its exported modules without their input checks."""
    for part in module.modules():
        state = vars(part)
        for key in [key for key, hook in state["_forward_pre_hooks"].items() if is_check(hook)]:
            del state["_forward_pre_hooks"][key]
        if "_run_with_interpreter" in state:
            state["_run_with_interpreter"] = False
        if "check_input_constraints" in state:
            state["check_input_constraints"] = False
