"""The errors and warnings that a user may catch or filter; they are defined in `passes/errors.py`."""

from fxteleport.passes.errors import (
    CaptureError,
    CheckpointError,
    CobError,
    ConditionError,
    ConditionWarning,
    GraphError,
    GuardError,
    InputError,
    ModelError,
    NothingFree,
    OpaqueModuleWarning,
    RuleError,
    TeleportError,
)

__all__ = [
    "CaptureError", "CheckpointError", "CobError", "ConditionError", "ConditionWarning", "GraphError", "GuardError",
    "InputError", "ModelError", "NothingFree", "OpaqueModuleWarning", "RuleError", "TeleportError",
]  # fmt: skip
