"""Kept: calls that are recorded whole, as one node of a leaf.

Leaves are torch's own layers, modules whose only secret is `self.training`, what cannot be traced, custom autograd
functions, and what takes their place in the graph (a dropout for `F.dropout`). A leaf runs as a twin on meta tensors.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx, nn

from fxteleport.errors import OpaqueModuleWarning
from fxteleport.passes import evaluate, proxy
from fxteleport.passes.branches import Stores, trace_inside, value_of
from fxteleport.passes.helpers import Applied, Helper, Unread
from fxteleport.passes.leaves import DROPOUT, is_leaf, watched, without_hooks
from fxteleport.passes.objects import is_spelt
from fxteleport.passes.patches import unrecorded
from fxteleport.passes.proxy import Proxy
from fxteleport.passes.recorder import Recorder
from fxteleport.passes.shadow import clone
from fxteleport.passes.traced import path_of

if TYPE_CHECKING:
    from fxteleport.passes.tracer import Tracer

WHOLE = "_whole"  # the leaf that stands for a model whose own forward cannot be traced


class Kept(Recorder):
    """A recorder that knows the model whose calls it keeps whole."""

    def __init__(self, model: nn.Module, makes_all: bool = False, hashes: bool = False) -> None:
        super().__init__(model, makes_all, hashes)
        self.model = model
        self.classes: dict[str, type] = {}
        self.branches: dict[fx.Node, tuple[fx.Graph, ...]] = {}
        self.is_inside = False  # its graph tells of a call that is kept whole

    def real(self, path: str) -> nn.Module:
        """The user's module at a path."""
        return self.model if path == WHOLE else self.parts[path]

    def twin(self, path: str, training: bool = False) -> nn.Module:
        """The clone of the module at `path` that runs on meta tensors."""
        cls = self.classes.get(path)
        real = self.real(path)
        path = "" if path == WHOLE else path

        def class_of(module: nn.Module) -> type:
            return cls if cls is not None and module is real else type(module)

        def on_meta(name: str, _: Tensor) -> Tensor:
            tensor = self.metas[name]
            return tensor if tensor.is_meta else tensor.to(evaluate.META)

        made = clone(real, on_meta, path, class_of=class_of, training=training)
        return without_hooks(made) if cls is not None or (is_leaf(real) and watched(real)) else made

    @unrecorded
    def call_leaf(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call of a module that is kept whole."""
        if path not in self.twins:
            self.twins[path] = self.twin(path)

        def real(*inputs: Any, **keywords: Any) -> Any:
            return self.run_leaf(path, inputs, keywords)

        def run(inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            return self.memo.run("call_module", self.twins[path], inputs, keywords, real)

        what = f"'{path}' ({type(self.real(path)).__name__})"
        observed = self.observe(run, what, args, kwargs)
        if path == WHOLE:
            return self.append("call_module", path, args, kwargs, *observed)
        return self.given("call_module", path, args, kwargs, *observed, path in self.opaque)

    def own_normalisation(self, module: nn.Module, x: Proxy) -> Any:
        """The normalisation inside a batch norm subclass, as a leaf of its torch base class."""
        path = path_of(module)
        self.classes[path] = next(c for c in type(module).__mro__ if c.__module__.startswith("torch.nn."))
        return self.call_leaf(path, (x,), {})

    @unrecorded
    def functional_dropout(
        self, func: Any, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Any:
        """`F.dropout(x, p, self.training)` as a leaf, so that it drops again after `train()`."""
        if training or p == 0.0:
            return self.record("call_function", func, (input, p, training, inplace), {})
        path = self.free_path(f"{path_of(self.stack[-1])}.{func.__name__}")
        self.added[path] = self.twins[path] = DROPOUT[func](p).eval()
        return self.append("call_module", path, (input,), {}, proxy.plain(input))

    @unrecorded
    def call_helper_whole(self, module: nn.Module, fn: Callable[..., Any], args: Any, kwargs: Any, why: str) -> Any:
        """Record a call of a method as a leaf of its own; it may read the module's settings, not its weights.

        Raises:
            CannotRun: it does read the weights.
        """
        owner = path_of(module)
        path = self.free_path(f"{owner}.{fn.__name__}")
        twin = self.twin(owner)
        leaf = Helper(twin, fn)
        with Unread(twin):
            run = functools.partial(evaluate.run, "call_module", leaf)
            out = self.call_added(path, leaf, run, args, kwargs, unseen=True)
        self.opaque[path] = why
        warnings.warn(f"method '{path}' is kept whole: {why}", OpaqueModuleWarning, stacklevel=2)
        return out

    def keeps(self, function: type[torch.autograd.Function], args: tuple[Any, ...]) -> bool:
        """True for a user's autograd function of tensors and plain values.

        One that is handed code to run (torch's checkpoint and its like) is traced through, as the modules it calls.
        """
        if self.is_inside or function.__module__.startswith("torch."):
            return False
        leaves = evaluate.leaves_of(args)
        plain = all(proxy.is_proxy(x) or isinstance(x, Tensor) or is_spelt(x) for x in leaves)
        return plain and proxy.find_tracer(args) is self

    def call_custom(self, function: type[torch.autograd.Function], args: tuple[Any, ...]) -> Any:
        """Record a call of a custom autograd function, which keeps its backward."""
        owner = path_of(self.stack[-1]) if self.stack else ""
        path, leaf = self.free_path(f"{owner}.{function.__name__}"), Applied(function)
        graphs: list[fx.Graph] = []

        def run(inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            graphs.extend(self.inside(path, leaf, args, {}, (False,)))
            return value_of(graphs[0]) if graphs else evaluate.run("call_module", leaf, inputs, keywords)

        out = self.call_added(path, leaf, run, args, {})
        if graphs and proxy.is_proxy(out):
            self.branches[out._node] = tuple(graphs)
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
    def inside(self, path: str, module: nn.Module, args: Any, kwargs: Any, modes: tuple[bool, ...]) -> list[fx.Graph]:
        """The graphs of what a call that is kept whole does, a mode each; none where it cannot be traced."""
        try:
            return trace_inside(cast("Tracer", self), module, args, kwargs, modes)
        except (evaluate.Again, Stores):
            raise
        except Exception as error:
            again(error)
            self.opaque[path] = first_line(error)
            return []

    def run_leaf(self, path: str, args: Any, kwargs: Any) -> Any:
        """Run a module with its own weights, in eval mode, where they are."""
        real = self.real(path)
        there = next((p.device for p in real.parameters()), evaluate.CPU)
        args, kwargs = evaluate.tree_map(lambda x: x.to(there) if isinstance(x, Tensor) else x, (args, kwargs))
        own = clone(real, lambda _, t: t if isinstance(t, nn.Parameter) else t.clone(), training=False)  # it may write
        return own(*args, **kwargs)


def again(error: BaseException) -> None:
    """Raise HashedSize where an error comes of a size that was hashed: then sizes must be."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, evaluate.Unhashable):
            raise evaluate.HashedSize(str(cause)) from error
        cause = cause.__cause__ or cause.__context__


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
