"""Modes: where forward reads train and eval mode, and where it sets them.

A network is traced in eval mode. Where its own code reads the mode (`self.training`, `torch.is_grad_enabled()`) and
does something else in the other one, it is traced in train mode as well (`train_graph.py`). Leaves follow their mode by
themselves; a layer whose mode forward has set, whatever `train()` says, is traced as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from types import FrameType
from typing import Any

from torch import fx, nn

from fxteleport.passes.capture import branch_arms
from fxteleport.passes.capture.control_flow import DataDependent
from fxteleport.passes.capture.gradient_contexts import GradientContexts
from fxteleport.passes.capture.gradient_requirements import GradientRequirements
from fxteleport.passes.capture.own_train import own_train
from fxteleport.passes.capture.trace_settings import TraceSettings
from fxteleport.passes.graph.leaf_modules import is_leaf, reads_training
from fxteleport.passes.graph.module_clone import path_of

_BatchNorm = nn.modules.batchnorm._BatchNorm
_NORMS = nn.modules.batchnorm.__file__
GRADIENTS = None  # in the place of a module's path: whether gradients are recorded


class Modes:
    """The modes of one trace.

    Args:
        required: `requires_grad` of the model's own tensors.
        used: the paths of leaves that were called, which follow their modes by themselves.
        alike_in_both: whether a batch norm's forward does in both modes what torch's does.

    Attributes:
        started: what the model's own `train` does in the mode that is traced.
        asked: path of a module whose mode decided a branch -> that mode.
        changed: path of a module whose mode forward has set -> that mode.
        own: batch norms whose forward reads the mode only as the torch layer under it does.
    """

    def __init__(
        self,
        settings: TraceSettings,
        model: nn.Module,
        gradients: GradientContexts,
        required: GradientRequirements,
        used: Container[str],
        alike_in_both: Callable[[nn.Module, Any, Any], bool],
    ) -> None:
        self.started = own_train(model, settings.training)
        self.asked: dict[str | None, bool] = {}
        self.changed: dict[str, bool] = {}
        self.own: set[str] = set()
        self._training, self._is_body = settings.training, settings.is_body
        self._gradients, self._required = gradients, required
        self._used, self._alike_in_both = used, alike_in_both
        self._read: set[str] = set()
        self._late: list[nn.Module] = []
        self._norms: dict[str, bool] = {}
        self._given: tuple[Any, Any] = ((), {})  # the arguments of the batch norm whose forward is running

    def at_start(self, path: str | None) -> bool:
        """The mode of a module at the beginning of the trace; for None, whether gradients are recorded."""
        return self._training if path is None else self.started.modes.get(path, self._training)

    def called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that the forward of a module is about to be traced."""
        if isinstance(module, _BatchNorm):
            self.own.discard(path_of(module))
            self._given = args, kwargs

    def read(self, module: nn.Module, mode: bool, frame: FrameType) -> bool:
        """The value of `module.training` for the code of a frame."""
        path = path_of(module)
        if path in self.changed:
            return mode
        self._read.add(path)
        if isinstance(module, _BatchNorm) and frame.f_code.co_filename == _NORMS:
            self.own.add(path)
            return mode if self._is_body else False  # eval mode's branch; the leaf follows the mode by itself
        if self._is_body:
            self.own.add(path)
            return mode
        if isinstance(module, _BatchNorm):
            if path not in self._norms:
                self._norms[path] = self._alike_in_both(module, *self._given)
            if self._norms[path]:
                self.own.add(path)
                return False
        if branch_arms.agree(frame, mode):
            return mode
        self.asked[path] = mode
        return mode

    def write(self, module: nn.Module, mode: bool) -> None:
        """Note that `module.training` is set."""
        path = path_of(module)
        if path not in self.changed and (path in self._read or path in self._used):
            self.asked[path] = vars(module)["training"]
            self._late.append(module)
        self.changed[path] = mode

    def reject_late(self) -> None:
        """Raise DataDependent for a mode that was used before forward set it: the next run starts with another one."""
        for module in self._late:
            if vars(module)["training"] is not self.at_start(path := path_of(module)):
                raise DataDependent(f"its forward changes the mode of '{path}', which it has used before")

    def is_set(self, paths: Iterable[str]) -> bool:
        """True where forward has set the mode of one of these modules."""
        return bool(self.changed) and any(path in self.changed for path in paths)

    def gradients(self, frame: FrameType) -> bool:
        """The result of `torch.is_grad_enabled()`: False in eval mode, True in train mode."""
        known = False if self._gradients.in_function else self._gradients.recording
        if known is not None:
            return known
        if not branch_arms.agree(frame, self._training):
            if self._is_body:
                raise DataDependent("it asks whether gradients are recorded")
            self.asked[GRADIENTS] = self._training
        return self._training

    def requires_grad(self, node: fx.Node, frame: FrameType) -> bool:
        """A tensor's `requires_grad`: a model's own tensor has its setting; any other has True in train mode.

        Raises:
            DataDependent: it is an input's, which is unknown.
        """
        if frame.f_globals.get("__name__", "").startswith("torch."):
            return False
        if self._required.know(node):
            return self._required.of(node, frame)
        recorded = self.gradients(frame)
        if recorded and node.op == "placeholder":
            raise DataDependent(f"it asks whether '{node.name}' requires a gradient")
        return recorded


def depends(module: nn.Module) -> bool:
    """True for a leaf whose own code reads its mode, so that its result may depend on it."""
    return any(reads_training(type(m)) and not is_leaf(m) for m in module.modules())  # type: ignore[arg-type]
