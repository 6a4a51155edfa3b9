"""The project's own exceptions. Each message says what was wrong, where, and what to do about it."""


class TeleportError(Exception):
    """Base class of every error that fxteleport raises on purpose."""


class ModelError(TeleportError):
    """The model cannot be used: unknown name, broken factory, quantised, scripted or not materialised."""


class CaptureError(TeleportError):
    """The model does not run on the example inputs, so there is no graph to teleport."""


class CobError(TeleportError):
    """A change of basis is invalid: wrong length, zero or non-finite values, a range outside its law."""


class RuleError(TeleportError):
    """A rule is wrong.

    It is registered twice, or with a key that no node can have; it asks for an axis that a tensor does not have; or,
    under `plan(..., checks=True)`, it fails in another way than by declining.
    """


class GraphError(TeleportError):
    """A graph is not what a pass must leave behind (`check_graph`): a fault of fxteleport's, or of a user's rule."""


class CheckpointError(TeleportError):
    """A file is missing, corrupt, of another model, or cannot be written."""


class InputError(TeleportError):
    """A call or a command-line option is wrong."""


class NothingFree(InputError):
    """The plan has no freedom that could be used for what was asked."""


class ConditionError(TeleportError):
    """`strict=True` allows no conditions, and the plan rests on some."""


class GuardError(TeleportError, ValueError):
    """An emitted network met what it was not captured for: another number, length, type, structure or branch."""


class DataGuardError(GuardError):
    """An emitted network met data (a mask, a length) that take another branch than the captured ones."""


class Decline(Exception):
    """Raised by a rule that does not cover a call: the node is pinned and the reason reported."""


class OpaqueModuleWarning(UserWarning):
    """A submodule could not be traced and is kept whole (one opaque call), with its inputs and outputs pinned."""


class ConditionWarning(UserWarning):
    """Weights without a guard were teleported by a plan that rests on conditions (`plan.conditions`)."""
