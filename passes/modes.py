"""Modes: what a forward asks of train and eval mode, and what it does to them.

A network is traced in eval mode. Where its own code asks for the mode (`self.training`, `torch.is_grad_enabled()`) and
goes on in another way in the other one, it is traced in train mode as well (`both_modes.py`). Layers that are kept
whole know their mode by themselves; one whose mode forward has set, whatever `train()` says, is traced as a function.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from fxteleport.passes import arms, evaluate
from fxteleport.passes.leaves import is_leaf, reads_training
from fxteleport.passes.patches import unrecorded
from fxteleport.passes.shadow import clone, modules_of

if TYPE_CHECKING:
    from fxteleport.passes.tracer import Tracer

_BatchNorm = nn.modules.batchnorm._BatchNorm
_NORMS = nn.modules.batchnorm.__file__
GRADIENTS = None  # in the place of a module's path: whether gradients are recorded


@dataclass
class Modes:
    """The modes of one trace.

    Attributes:
        training: whether it is the one in train mode.
        asked: path of a module whose mode decided something -> that mode.
        changed: path of a module whose mode forward has set -> that mode.
        own: batch norms whose forward, where it asks for the mode, does what the torch layer under it does.
    """

    training: bool = False
    asked: dict[str | None, bool] = field(default_factory=dict)
    changed: dict[str, bool] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)
    _read: set[str] = field(default_factory=set)
    _late: list[nn.Module] = field(default_factory=list)
    _norms: dict[str, bool] = field(default_factory=dict)
    _given: Any = None  # what the batch norm whose forward runs was given

    def called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The forward of a module that is not kept whole is about to run."""
        if isinstance(module, _BatchNorm):
            self.own.discard(_path(module))
            self._given = args, kwargs

    def read(self, tracer: Tracer, module: nn.Module, mode: bool, frame: FrameType) -> bool:
        """What `module.training` gives to the code of a frame."""
        path = _path(module)
        if tracer.finished or path in self.changed:
            return mode
        self._read.add(path)
        if isinstance(module, _BatchNorm) and frame.f_code.co_filename == _NORMS:
            self.own.add(path)
            return mode if tracer.is_inside else False  # one branch: the layer takes the other by itself
        if tracer.is_inside:
            self.own.add(path)
            return mode
        if isinstance(module, _BatchNorm):
            if path not in self._norms:
                self._norms[path] = self._alike_in_both(tracer, module)
            if self._norms[path]:
                self.own.add(path)
                return False
        if arms.agree(frame, mode):
            return mode
        self.asked[path] = mode
        return mode

    def write(self, tracer: Tracer, module: nn.Module, mode: bool) -> None:
        """`module.training` is set."""
        path = _path(module)
        if tracer.finished:
            return
        if path not in self.changed and (path in self._read or path in tracer.twins):
            self.asked[path] = vars(module)["training"]
            self._late.append(module)
        self.changed[path] = mode

    def reject_late(self, tracer: Tracer) -> None:
        """Raise DataDependent for a mode that was used before forward set it: the next run would find another one."""
        for module in self._late:
            if vars(module)["training"] is not tracer.mode_of(path := _path(module)):
                raise evaluate.DataDependent(f"its forward changes the mode of '{path}', which it has used before")

    def is_set(self, paths: Iterable[str]) -> bool:
        """True where forward has set the mode of one of these modules."""
        return bool(self.changed) and any(path in self.changed for path in paths)

    def gradients(self, tracer: Tracer, frame: FrameType) -> bool:
        """What `torch.is_grad_enabled()` gives: in eval mode none are taken to be, in train mode they are."""
        known = False if tracer._functions else tracer.gradients[-1]
        if known is not None or tracer.finished:
            return bool(known)
        if not arms.agree(frame, self.training):
            if tracer.is_inside:
                raise evaluate.DataDependent("it asks whether gradients are recorded")
            self.asked[GRADIENTS] = self.training
        return self.training

    def requires_grad(self, tracer: Tracer, node: fx.Node, frame: FrameType) -> bool:
        """What a tensor's `requires_grad` gives: it does where gradients are recorded.

        Raises:
            DataDependent: whether an input does is not known.
        """
        if tracer.finished or frame.f_globals.get("__name__", "").startswith("torch."):
            return False
        recorded = self.gradients(tracer, frame)
        if recorded and node.op == "placeholder":
            raise evaluate.DataDependent(f"it asks whether '{node.name}' requires a gradient")
        return recorded

    @unrecorded
    def _alike_in_both(self, tracer: Tracer, norm: nn.Module) -> bool:
        """True for a batch norm of the user's that asks for its mode as torch's do, and goes on as they do.

        Those of one class and the same settings (but for the number of their channels) are one case.
        """
        from fxteleport.passes.both_modes import alike
        from fxteleport.passes.branches import trace_inside

        real = tracer.real(_path(norm))
        key: Any = tuple(
            [(type(m), *[x for x in vars(m).items() if x[0] not in _OTHER]) for m in modules_of(real).values()]
        )
        try:
            hash(key)
        except TypeError:
            key = (repr(key),)
        found = _ALIKE.get(key)
        if found is None:
            try:
                args, kwargs = self._given
                evaluated, trained = trace_inside(tracer, real, args, kwargs, (False, True))
            except Exception:
                found = False
            else:
                found = alike(evaluated, trained, {}, {})
            while len(_ALIKE) >= _MANY:
                del _ALIKE[next(iter(_ALIKE))]
            _ALIKE[key] = found
        return found


_ALIKE: dict[Any, bool] = {}  # of a batch norm's class and settings, whichever model it is in
_MANY = 256
_OTHER = frozenset(vars(nn.Module())) | {"num_features", "_path"}


def modes_after(model: nn.Module, training: bool) -> dict[str, bool]:
    """The modes that a model's own `train(training)` leaves its modules in, by path; only those that it excepts."""
    if all(type(m).train is nn.Module.train and "train" not in vars(m) for m in modules_of(model).values()):
        return {}
    return after_train(model, training)[0]


def after_train(module: nn.Module, training: bool) -> tuple[dict[str, bool], dict[str, bool]]:
    """What `module.train(training)` makes of modes, and of `requires_grad`, where it does more than set all modes."""
    twin = clone(module, lambda _, t: _untouched(t))
    before = {name: p.requires_grad for name, p in twin.named_parameters()}
    try:
        twin.train(training)
    except Exception:  # it takes no mode, as exported ones do
        return {}, {}
    modes = {path: m.training for path, m in twin.named_modules() if m.training is not training}
    return modes, {n: p.requires_grad for n, p in twin.named_parameters() if p.requires_grad is not before[n]}


def _untouched(tensor: torch.Tensor) -> torch.Tensor:
    """A stand-in, of which `train()` may say that it is frozen."""
    made = torch.empty_like(tensor, device="meta")
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def attribute(tracer: Tracer) -> property:
    """The `training` of a shadow module, which its tracer watches."""

    def get(module: nn.Module) -> bool:
        mode: bool = vars(module)["training"]
        if "_path" not in vars(module) or tracer.finished:
            return mode
        return tracer.modes.read(tracer, module, mode, sys._getframe(1))

    def put(module: nn.Module, mode: bool) -> None:
        if "_path" in vars(module):
            tracer.modes.write(tracer, module, mode)
        vars(module)["training"] = mode

    return property(get, put)


def depends(module: nn.Module) -> bool:
    """True for a module that is kept whole, whose own code asks for its mode: it may decide what comes out."""
    return any(reads_training(type(m)) and not is_leaf(m) for m in module.modules())  # type: ignore[arg-type]


def _path(module: nn.Module) -> str:
    return str(module.__dict__["_path"])
