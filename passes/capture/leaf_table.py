"""The modules that a graph calls: which they are, how they run on meta tensors, and why some were not traced.

A leaf's twin is a clone of its module on the meta device, which evaluates calls. Where that fails, a clone with the
module's own weights runs once on invented data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import FunctionType
from typing import Any

from torch import Tensor, fx, nn

from fxteleport.passes.capture.additions import Additions
from fxteleport.passes.capture.held_by_leaves import leaving_nothing
from fxteleport.passes.capture.held_objects import HeldObjects
from fxteleport.passes.capture.meta_values import CPU, META, tree_map
from fxteleport.passes.capture.model_tensors import ModelTensors, named_tensors
from fxteleport.passes.capture.opaque_leaves import Helper, Withheld
from fxteleport.passes.capture.trace_settings import TraceSettings
from fxteleport.passes.capture.training_mode import depends
from fxteleport.passes.graph.leaf_modules import as_its_class, is_leaf, is_nested_encoder, watched, without_hooks
from fxteleport.passes.graph.module_clone import clone
from fxteleport.passes.graph.reachable import Reach, Reached

WHOLE = "_whole"  # the leaf that stands for a model whose own forward cannot be traced


class LeafTable:
    """The leaves of one trace.

    Args:
        parts: the model's modules by path.

    Attributes:
        twins: leaf path -> the module that runs on meta tensors.
        classes: leaf path -> the class whose `forward` it runs, where that is not the module's own.
        opaque: leaf path -> why it could not be traced.
        reached: leaf path -> what its code can read of the model outside it.
        named: tensors that an opaque method may read on other data.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: Mapping[str, nn.Module],
        tensors: ModelTensors,
        additions: Additions,
        settings: TraceSettings,
        held: HeldObjects,
    ) -> None:
        self._stateful, self._held = settings.stateful, held
        self.twins: dict[str, nn.Module] = {}
        self.classes: dict[str, type] = {}
        self.opaque: dict[str, str] = {}
        self.reached: dict[str, Reached] = {}
        self.named: set[str] = set()
        self.reach = Reach(parts, tensors.names)
        self._model, self._parts, self._tensors, self._additions = model, parts, tensors, additions
        self._training, self._carriers = settings.training, frozenset(map(id, settings.carriers))

    def real(self, path: str) -> nn.Module:
        """The user's module at a path."""
        return self._model if path == WHOLE else self._parts[path]

    def twin(self, path: str) -> nn.Module:
        """The module that runs on meta tensors in place of the one at a path."""
        if path not in self.twins:
            self.twins[path] = self._twin(path)
        return self.twins[path]

    def add(self, path: str, leaf: nn.Module) -> None:
        """Add a leaf that is not the model's own; it is its own twin."""
        self._additions.add(path, leaf)
        self.twins[path] = leaf

    def forget(self, path: str) -> None:
        """Remove an added leaf, which is not called after all."""
        self._additions.held.pop(path, None)
        self.twins.pop(path, None)

    def add_like(self, wanted: str, leaf: nn.Module) -> str:
        """As `add`, under a free path like the one wanted; returns the path."""
        path = self._additions.free_path(wanted)
        self.add(path, leaf)
        return path

    def keep_whole(self, path: str, why: str) -> None:
        """Make a module opaque: its tensors, and those that its code can read elsewhere, are pinned."""
        self.opaque[path] = why
        reached = self.reach.of(self.real(path))
        self.reached[path] = dataclasses.replace(reached, carriers=reached.carriers | self._carriers)
        self.twins.pop(path, None)

    def watched(self, path: str) -> AbstractContextManager[None]:
        """While this lasts, an opaque leaf is evaluated; the user's objects are restored afterwards."""
        where = "" if path == WHOLE else path
        if path not in self.opaque:
            return nullcontext()
        known = self._carriers if where in self._stateful else None
        watch = HeldObjects(self._parts, self._tensors.names, refuses=known is None)
        return leaving_nothing(self.real(path), where, watch, self._held, known)

    def keep_method_whole(self, path: str, module: nn.Module, method: FunctionType, why: str) -> None:
        """Make a method an opaque leaf at `path`; the tensors that its code names are withheld from it."""
        self.opaque[path] = why
        self.reached[path] = self.reach.of(method, type(module))
        names = names_in(self.reach.of_method(module, method))
        self.named |= {self._tensors.canonical[name] for name in names}

    def of_method(self, owner: str, method: FunctionType) -> Helper:
        """A method of the module at a path as a leaf: it may read the module's settings, but not its weights."""
        real = self.real(owner)

        def withheld(name: str, _: Tensor) -> Tensor:
            return self._tensors.metas[name].to(META).as_subclass(Withheld)

        mode = self._mode_of(real)
        leaf = Helper(clone(real, withheld, owner, training=mode, beside=self.reach.of(real)), method)
        leaf.training = mode
        return leaf

    def may_write(self, node: fx.Node) -> bool:
        """True for a call of a leaf that may change its state, or whose code is not known."""
        if node.op != "call_module":
            return False
        parts = self.twin(str(node.target)).modules()
        return node.target in self.opaque or any(part._buffers for part in parts)

    def run(self, path: str, args: Any, kwargs: Any) -> Any:
        """Run a module with its own weights, in the mode that is traced, where they are."""
        real = self.real(path)
        there = next((p.device for p in real.parameters()), CPU)
        args, kwargs = tree_map(lambda x: x.to(there) if isinstance(x, Tensor) else x, (args, kwargs))
        copies: dict[int, Tensor] = {}

        def own(_: str, tensor: Tensor) -> Tensor:  # it may write
            if id(tensor) not in copies:
                copied = tensor.detach().clone()
                is_parameter = isinstance(tensor, nn.Parameter)
                copies[id(tensor)] = nn.Parameter(copied, tensor.requires_grad) if is_parameter else copied
            return copies[id(tensor)]

        return clone(real, own, training=self._mode_of(real), beside=self.reached.get(path))(*args, **kwargs)

    def _twin(self, path: str) -> nn.Module:
        cls = self.classes.get(path)
        real = self.real(path)

        def class_of(module: nn.Module) -> type:
            return cls if cls is not None and module is real else type(module)

        def on_meta(name: str, _: Tensor) -> Tensor:
            tensor = self._tensors.metas[name]
            return tensor if tensor.is_meta else tensor.to(META)

        name, mode = "" if path == WHOLE else path, self._mode_of(real)
        twin = clone(real, on_meta, name, class_of=class_of, training=mode, beside=self.reached.get(path))
        if is_nested_encoder(real):  # the meta device has no nested tensors
            vars(twin)["use_nested_tensor"] = False
        if cls is not None:
            return as_its_class(twin)
        return without_hooks(twin) if is_leaf(real) and watched(real) else twin

    def _mode_of(self, module: nn.Module) -> bool:
        """The mode in which a leaf's twin runs; for torch's layers it does not matter."""
        return self._training and depends(module)


def names_in(reached: Reached) -> Iterator[str]:
    """The names of the tensors that code can read."""
    yield from reached.tensors
    yield from (name for name, _ in named_tensors(reached.modules))
