"""Kept: calls that are recorded whole, as one node of a leaf.

Leaves are torch's own layers, modules whose only secret is `self.training`, what cannot be traced, custom autograd
functions, and what takes their place in the graph (a dropout for `F.dropout`). A leaf runs as a twin on meta tensors.
"""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx, nn

from fxteleport.passes.capture import meta_eval, proxy
from fxteleport.passes.capture.arguments import named_tensors
from fxteleport.passes.capture.attribute_journal import Writes, same, same_settings
from fxteleport.passes.capture.backward_bodies import trace_backward
from fxteleport.passes.capture.leaf_bodies import Stores, trace_inside, value_of
from fxteleport.passes.capture.opaque_leaves import (
    Applied,
    Given,
    GradientHook,
    Helper,
    Registered,
    Withheld,
    with_settings,
)
from fxteleport.passes.capture.patching import unrecorded
from fxteleport.passes.capture.proxy import NumberProxy, Proxy
from fxteleport.passes.capture.recorder import Recorder
from fxteleport.passes.capture.traced_modules import holds_its_own, path_of
from fxteleport.passes.capture.training_mode import Modes, depends, own_train
from fxteleport.passes.errors import OpaqueModuleWarning
from fxteleport.passes.graph.leaf_modules import DROPOUT, as_its_class, is_leaf, watched, without_hooks
from fxteleport.passes.graph.module_clone import clone
from fxteleport.passes.graph.ops import leaves_of
from fxteleport.passes.graph.reachable import Reach, Reached
from fxteleport.passes.graph.structure import is_spelt

if TYPE_CHECKING:
    from fxteleport.passes.capture.tracer import Tracer

OUTSIDE = "its code can read tensors of other modules"
WHOLE = "_whole"  # the leaf that stands for a model whose own forward cannot be traced


class Kept(Recorder):
    """A recorder that knows the model whose calls it keeps whole."""

    def __init__(self, model: nn.Module, makes_all: bool = False, hashes: bool = False, training: bool = False) -> None:
        super().__init__(model, makes_all, hashes)
        self.model = model
        self.modes = Modes(training)
        self.started = own_train(model, training)
        self.is_whole = False
        self.classes: dict[str, type] = {}
        self.branches: dict[fx.Node, tuple[fx.Graph, ...]] = {}
        self.backwards: dict[fx.Node, fx.Graph | str] = {}
        self.is_inside = False  # its graph tells of a call that is kept whole
        self.writes = Writes()
        self.reach = Reach(self.parts, self._own)
        self.reached: dict[str, Reached] = {}  # leaf path -> what its code can read outside it
        self.named: set[str] = set()  # tensors that a method which is kept whole may read on other data

    def real(self, path: str) -> nn.Module:
        """The user's module at a path."""
        return self.model if path == WHOLE else self.parts[path]

    def twin(self, path: str, beside: Reached | None = None) -> nn.Module:
        """The clone of the module at `path` that runs on meta tensors; torch's layers give the same in both modes."""
        cls = self.classes.get(path)
        real = self.real(path)
        training = self.modes.training and depends(real)
        path = "" if path == WHOLE else path

        def class_of(module: nn.Module) -> type:
            return cls if cls is not None and module is real else type(module)

        def on_meta(name: str, _: Tensor) -> Tensor:
            tensor = self.metas[name]
            return tensor if tensor.is_meta else tensor.to(meta_eval.META)

        made = clone(real, on_meta, path, class_of=class_of, training=training, beside=beside)
        if cls is not None:
            return as_its_class(made)
        return without_hooks(made) if is_leaf(real) and watched(real) else made

    @unrecorded
    def call_leaf(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call of a module that is kept whole."""
        if path not in self.twins:
            self.twins[path] = self.twin(path, self.reached.get(path))

        def real(*inputs: Any, **keywords: Any) -> Any:
            return self.run_leaf(path, inputs, keywords)

        def run(inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            return self.memo.run("call_module", self.twins[path], inputs, keywords, real)

        what = f"'{path}' ({type(self.real(path)).__name__})"
        observed = self.observe(run, what, args, kwargs)
        if path == WHOLE:
            return self.append("call_module", path, args, kwargs, *observed)
        return self.given("call_module", path, args, kwargs, *observed, path in self.opaque)

    def is_as_planned(self, module: nn.Module) -> bool:
        """True for a shadow of a layer whose settings, tensors and parts are the layer's own."""
        real = self.real(path_of(module))
        if self.writes.have_set(module) or not (same_settings(module, real) and holds_its_own(module)):
            return False
        if not self._own.keys().isdisjoint(map(id, vars(real).values())):  # a plain attribute is someone's weight
            return False
        return not module._modules or (
            module._modules.keys() == real._modules.keys()
            and all(self.real(path_of(m)) is real._modules[k] for k, m in module._modules.items() if m is not None)
            and all(self.is_as_planned(m) for m in module._modules.values() if m is not None)
        )

    @unrecorded
    def call_given(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        cls: type[nn.Module] | None = None,
        tensors: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Any:
        """Record a call of a layer that forward has changed, and whose mode matters.

        It is a leaf of its own with the settings that it has now, which is given the tensors that it has now.
        """
        real = self.real(path_of(module))
        layer = with_settings(real, {**vars(module), **settings}, cls or type(real), self.plain_setting)
        vars(layer)["_path"] = path_of(module)  # whose mode it is in
        if tensors is None:
            tensors = dict([*module._parameters.items(), *module._buffers.items()])  # proxies, not what stands for them
        given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        leaf = Given(layer, tuple(given)) if given else layer
        path = self.free_path(f"{path_of(module)}_as_set")
        graphs = self.inside(path, leaf, args, kwargs, (False, True)) if not is_leaf(layer) else []
        out = self.call_added(path, leaf, functools.partial(meta_eval.run, "call_module", leaf), args, kwargs | given)
        if graphs and proxy.is_proxy(out):
            self.branches[out._node] = tuple(graphs)
        return out

    def plain_setting(self, x: Any) -> Any:
        """A setting as a leaf has it; the emitted network insists on a size that it was made of.

        Raises:
            RuntimeError: it holds a tensor or a module of this trace.
        """
        if issubclass(type(x), NumberProxy):
            return self.number(x, type(x._value))
        if type(x) in (tuple, list):
            return type(x)(map(self.plain_setting, x))
        if not is_spelt(x):
            raise RuntimeError(f"a layer gets a {type(x).__name__} for a setting")
        return x

    def keep(self, path: str, why: str) -> None:
        """A module becomes opaque: what is in it, and what its code can read elsewhere, stays as it is."""
        self.opaque[path] = why
        self.reached[path] = self.reach.of(self.real(path))
        self.twins.pop(path, None)

    def own_normalisation(self, module: nn.Module, input: Proxy, training: bool = False, **given: Any) -> Any:
        """The normalisation inside a batch norm subclass, as a leaf of its torch base class, which knows its mode.

        Args:
            given: the other arguments of `F.batch_norm`; where they are not the module's own, the leaf is given them.
        """
        path = path_of(module)
        real = cast(nn.BatchNorm1d, self.real(path))
        cls = next(c for c in type(real).__mro__ if c.__module__.startswith("torch.nn."))
        tensors = {name: given.get(name) for name in ("running_mean", "running_var", "weight", "bias")}
        tables = (module._parameters, module._buffers)
        own = {name: table[name] for table in tables for name in tensors if name in table}  # no more become nodes
        eps, momentum = given.get("eps", 1e-5), given.get("momentum", 0.1)
        if real.momentum is None and same(momentum, 0.0):  # the average over all batches, in train mode
            momentum = None
        settings = {"eps": eps, "momentum": momentum, "track_running_stats": module.track_running_stats}
        if all(tensors[name] is own.get(name) for name in tensors) and all(
            same(value, getattr(real, name)) for name, value in settings.items()
        ):
            self.classes[path] = cls
            out = self.call_leaf(path, (input,), {})
        else:
            tensors["num_batches_tracked"] = module._buffers.get("num_batches_tracked")
            out = self.call_given(module, (input,), {}, cls, tensors, **settings)
        if self.is_inside:
            out._node.meta["follows"] = training is self.modes.training
        return out

    @unrecorded
    def functional_dropout(
        self, func: Any, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Any:
        """`F.dropout(x, p, self.training)` as a leaf, so that it drops again after `train()`.

        Whether it would is seen later, in train mode: one that never drops is none (`train_graph.py`).
        """
        if p == 0.0:
            training = False
        if training or p == 0.0 or self.is_inside:
            return self.record("call_function", func, (input, p, training, inplace), {})
        path = self.free_path(f"{path_of(self.stack[-1]) if self.stack else ''}.{func.__name__}")
        self.added[path] = self.twins[path] = DROPOUT[func](p, inplace).eval()
        written = [input] if inplace and proxy.is_proxy(input) else []  # in train mode
        out = self.append("call_module", path, (input,), {}, proxy.plain(input), written)
        out._node.meta["training"] = False
        return out

    def mode_of(self, path: str | None) -> bool:
        """The mode of a module at the beginning of the trace; of None, whether gradients are recorded."""
        return self.modes.training if path is None else self.started.modes.get(path, self.modes.training)

    @unrecorded
    def call_helper_whole(self, module: nn.Module, fn: types.FunctionType, args: Any, kwargs: Any, why: str) -> Any:
        """Record a call of a method as a leaf of its own; it may read the module's settings, not its weights.

        Where it does on other data, the emitted network fails; the original would not, so there they stay as they are.

        Raises:
            CannotRun: it does read the weights.
        """
        owner = path_of(module)
        path = self.free_path(f"{owner}.{fn.__name__}")
        real = self.real(owner)

        def withheld(name: str, _: Tensor) -> Tensor:
            return self.metas[name].to(meta_eval.META).as_subclass(Withheld)

        mode = self.modes.training and depends(real)
        leaf = Helper(clone(real, withheld, owner, training=mode, beside=self.reach.of(real)), fn)
        leaf.training = mode
        run = functools.partial(meta_eval.run, "call_module", leaf)
        out = self.call_added(path, leaf, run, args, kwargs, unseen=True)
        self.opaque[path] = why
        self.reached[path] = self.reach.of(fn, type(real))
        self.named |= {self.canonical[name] for name in names_in(self.reach.of_method(real, fn))}
        warnings.warn(f"method '{path}' is kept whole: {why}", OpaqueModuleWarning, stacklevel=2)
        return out

    def keeps(self, function: type[torch.autograd.Function], args: tuple[Any, ...]) -> bool:
        """True for a user's autograd function of tensors and plain values.

        One that is handed code to run (torch's checkpoint and its like) is traced through, as the modules it calls.
        """
        if function.__module__.startswith("torch."):
            return False
        if self.is_inside:
            if not isinstance(self.model, Applied):
                raise meta_eval.DataDependent(f"it applies {function.__name__}, whose backward is its own")
            return False
        leaves = leaves_of(args)
        plain = all(proxy.is_proxy(x) or isinstance(x, Tensor) or is_spelt(x) for x in leaves)
        return plain and proxy.find_tracer(args) is self

    def call_custom(self, function: type[torch.autograd.Function], args: tuple[Any, ...]) -> Any:
        """Record a call of a custom autograd function, which keeps its backward."""
        owner = path_of(self.stack[-1]) if self.stack else ""
        path, leaf = self.free_path(f"{owner}.{function.__name__}"), Applied(function)
        graphs: list[fx.Graph] = []
        reached = self.reach.of(function)
        if reached:
            self.reached[path] = reached
            self.opaque[path] = OUTSIDE

        def run(inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            graphs.extend([] if reached else self.inside(path, leaf, args, {}, (False,)))
            return value_of(graphs[0]) if graphs else meta_eval.run("call_module", leaf, inputs, keywords)

        out = self.call_added(path, leaf, run, args, {})
        if graphs and proxy.is_proxy(out):
            self.branches[out._node] = tuple(graphs)
            try:
                self.backwards[out._node] = trace_backward(cast("Tracer", self), function, args)
            except Exception as error:
                again(error)
                self.backwards[out._node] = first_line(error)
        return out

    @unrecorded
    def call_added(
        self, path: str, leaf: nn.Module, run: Callable[..., Any], args: Any, kwargs: Any, unseen: bool = False
    ) -> Any:
        """Record a call of a leaf that is not the model's own; `run` evaluates it."""
        observed = self.observe(run, f"'{path}'", args, kwargs)
        self.added[path] = self.twins[path] = leaf
        return self.given("call_module", path, args, kwargs, *observed, unseen or path in self.opaque)

    @unrecorded
    def hook_gradient(self, tensor: Proxy, hook: Callable[..., Any]) -> Registered:
        """Record that forward registers a hook on a tensor's gradient, which it may change."""
        path = self.free_path(f"{path_of(self.stack[-1]) if self.stack else ''}.gradient_hook")
        self.added[path] = self.twins[path] = GradientHook(hook)
        handle = self.append("call_module", path, (tensor,), {}, None)
        handle._node.meta["keep"] = True
        return Registered(handle._node)

    @unrecorded
    def inside(self, path: str, module: nn.Module, args: Any, kwargs: Any, modes: tuple[bool, ...]) -> list[fx.Graph]:
        """The graphs of what a call that is kept whole does, a mode each; none where it cannot be traced."""
        try:
            return trace_inside(cast("Tracer", self), module, args, kwargs, modes)
        except (meta_eval.Again, Stores):
            raise
        except Exception as error:
            again(error)
            self.opaque[path] = first_line(error)
            return []

    def run_leaf(self, path: str, args: Any, kwargs: Any) -> Any:
        """Run a module with its own weights, in the mode that is traced, where they are."""
        real = self.real(path)
        there = next((p.device for p in real.parameters()), meta_eval.CPU)
        args, kwargs = meta_eval.tree_map(lambda x: x.to(there) if isinstance(x, Tensor) else x, (args, kwargs))
        made: dict[int, Tensor] = {}

        def own(_: str, tensor: Tensor) -> Tensor:  # it may write
            if id(tensor) not in made:
                copied = tensor.detach().clone()
                is_parameter = isinstance(tensor, nn.Parameter)
                made[id(tensor)] = nn.Parameter(copied, tensor.requires_grad) if is_parameter else copied
            return made[id(tensor)]

        mode = self.modes.training and depends(real)
        return clone(real, own, training=mode, beside=self.reached.get(path))(*args, **kwargs)


def names_in(reached: Reached) -> Iterator[str]:
    """The names of the tensors that code can read."""
    yield from reached.tensors
    yield from (name for name, _ in named_tensors(reached.modules))


def again(error: BaseException) -> None:
    """Raise HashedSize where an error comes of a size that was hashed: then sizes must be."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, meta_eval.Unhashable):
            raise meta_eval.HashedSize(str(cause)) from error
        cause = cause.__cause__ or cause.__context__


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
