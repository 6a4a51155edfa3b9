"""Modules that `torch.export` makes: what a trace takes out of their clones.

They check their inputs before they run, by a hook or a setting, in Python code of torch's own whose questions are no
part of the network: what it takes is a condition of the program, not of the trace. Unflattened ones run their graph in
an interpreter, and, if asked, as the code of that graph.
"""

from __future__ import annotations

from typing import Any

from torch import nn

_EXPORT = "torch.export"


def is_check(hook: Any) -> bool:
    """True for a hook that checks the inputs of an exported module."""
    return (getattr(hook, "__module__", None) or "").startswith(_EXPORT)


def without_checks(module: nn.Module) -> None:
    """Have the clone of a model run the graphs of its exported modules, and nothing before."""
    for part in module.modules():
        state = vars(part)
        for key in [key for key, hook in state["_forward_pre_hooks"].items() if is_check(hook)]:
            del state["_forward_pre_hooks"][key]
        if "_run_with_interpreter" in state:
            state["_run_with_interpreter"] = False
        if "check_input_constraints" in state:
            state["check_input_constraints"] = False
