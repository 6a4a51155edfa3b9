"""Modes: what a forward asks of train and eval mode, and what it does to them.

A network is traced in eval mode. Where its own code asks for the mode (`self.training`, `torch.is_grad_enabled()`) and
goes on in another way in the other one, it is traced in train mode as well (`train_graph.py`). Layers that are kept
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
from torch.utils._python_dispatch import TorchDispatchMode

from fxteleport.passes.capture import branch_arms, meta_eval
from fxteleport.passes.capture.attribute_journal import same
from fxteleport.passes.capture.graph_equality import alike
from fxteleport.passes.capture.patching import unrecorded
from fxteleport.passes.graph.guards import expect_gradient, guard
from fxteleport.passes.graph.leaf_modules import is_leaf, reads_training
from fxteleport.passes.graph.module_clone import BOOKKEEPING, clone, modules_of

if TYPE_CHECKING:
    from fxteleport.passes.capture.tracer import Tracer

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
        if branch_arms.agree(frame, mode):
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
                raise meta_eval.DataDependent(f"its forward changes the mode of '{path}', which it has used before")

    def is_set(self, paths: Iterable[str]) -> bool:
        """True where forward has set the mode of one of these modules."""
        return bool(self.changed) and any(path in self.changed for path in paths)

    def gradients(self, tracer: Tracer, frame: FrameType) -> bool:
        """What `torch.is_grad_enabled()` gives: in eval mode none are taken to be, in train mode they are."""
        known = False if tracer._functions else tracer.gradients[-1]
        if known is not None or tracer.finished:
            return bool(known)
        if not branch_arms.agree(frame, self.training):
            if tracer.is_inside:
                raise meta_eval.DataDependent("it asks whether gradients are recorded")
            self.asked[GRADIENTS] = self.training
        return self.training

    def requires_grad(self, tracer: Tracer, node: fx.Node, frame: FrameType) -> bool:
        """What a tensor's `requires_grad` gives: of one of the model's own, its setting; else True in train mode.

        Raises:
            DataDependent: whether an input does is not known.
        """
        if tracer.finished or frame.f_globals.get("__name__", "").startswith("torch."):
            return False
        if node.op == "get_attr" and node.target in tracer.metas:
            return self._is_trained(tracer, node, frame)
        recorded = self.gradients(tracer, frame)
        if recorded and node.op == "placeholder":
            raise meta_eval.DataDependent(f"it asks whether '{node.name}' requires a gradient")
        return recorded

    @unrecorded
    def _is_trained(self, tracer: Tracer, node: fx.Node, frame: FrameType) -> bool:
        """Whether a parameter or buffer of the model's requires a gradient; the network insists on what it decides."""
        name = str(node.target)
        owner, _, key = name.rpartition(".")
        part = tracer.parts[owner]
        trained: bool = (part._parameters | part._buffers)[key].requires_grad  # type: ignore[union-attr]
        if not branch_arms.agree(frame, trained):
            tracer.trained[name] = trained
            guard(tracer.graph, expect_gradient, node, trained, name)
        return trained

    @unrecorded
    def _alike_in_both(self, tracer: Tracer, norm: nn.Module) -> bool:
        """True for a batch norm of the user's that asks for its mode as torch's do, and goes on as they do.

        Those of one class and the same settings (but for the number of their channels) are one case.
        """
        from fxteleport.passes.capture.leaf_bodies import trace_inside

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


@dataclass(frozen=True)
class OwnTrain:
    """What a model's own `train(mode)` does beside setting the mode of every module.

    Attributes:
        modes: of the modules that it leaves in the other mode, by path.
        gradients: whether parameters require a gradient, by name; those for which it changes that.
        attributes: (module's path, attribute) -> what it sets; what refers to modules refers to those of `seen_on`.
        seen_on: the clone that showed it.
        computes: it computes with tensors, so it may change weights (low-rank updates that it merges, say).
        owners: the paths of the modules whose class has a `train` of its own.
    """

    modes: dict[str, bool] = field(default_factory=dict)
    gradients: dict[str, bool] = field(default_factory=dict)
    attributes: dict[tuple[str, str], Any] = field(default_factory=dict)
    seen_on: nn.Module | None = None
    computes: bool = False
    owners: tuple[str, ...] = ()


def has_own_train(module: nn.Module) -> bool:
    """True for a module whose `train` is not torch's."""
    return type(module).train is not nn.Module.train or "train" in vars(module)


def own_train(module: nn.Module, training: bool) -> OwnTrain:
    """What `module.train(training)` does, seen on a clone whose tensors have no values."""
    owners = tuple(path for path, m in modules_of(module).items() if has_own_train(m))
    if not owners:
        return OwnTrain()
    twin = clone(module, lambda _, t: _untouched(t))
    parts = dict(twin.named_modules())
    before = {path: dict(vars(part)) for path, part in parts.items()}
    trained = {name: p.requires_grad for name, p in twin.named_parameters()}
    with _Computing() as watch:
        try:
            twin.train(training)
        except Exception:  # it takes no mode, as exported ones do
            return OwnTrain()
    return OwnTrain(
        {path: m.training for path, m in twin.named_modules() if m.training is not training},
        {n: p.requires_grad for n, p in twin.named_parameters() if p.requires_grad is not trained[n]},
        {
            (path, name): value
            for path, part in parts.items()
            for name, value in vars(part).items()
            if name not in BOOKKEEPING and not same(value, before[path].get(name, twin))
        },
        twin,
        watch.seen,
        owners,
    )


class _Computing(TorchDispatchMode):
    """Sees whether anything is computed with tensors."""

    seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen = self.seen or func is not torch.ops.aten.detach.default
        return func(*args, **(kwargs or {}))


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
