"""The tracer: runs a model's `forward` on proxies, and decides what is traced and what is kept whole."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxteleport.errors import CaptureError, OpaqueModuleWarning
from fxteleport.passes import evaluate, proxy
from fxteleport.passes.aliases import forget_stale, mark_aliases, remove_dead
from fxteleport.passes.branches import Stores, trace_inside, value_of
from fxteleport.passes.evaluate import Trust
from fxteleport.passes.grad_mode import write_switches
from fxteleport.passes.guards import expect_tensor, guard
from fxteleport.passes.helpers import Applied, Helper, Unread
from fxteleport.passes.inputs import placeholders, said
from fxteleport.passes.leaves import (
    DROPOUT,
    is_compiled,
    is_leaf,
    is_mode_dependent,
    reads_training,
    watched,
    without_hooks,
)
from fxteleport.passes.lowering import named_tensors
from fxteleport.passes.objects import is_spelt
from fxteleport.passes.patches import run_by, unaware
from fxteleport.passes.proxy import Proxy
from fxteleport.passes.recorder import Recorder
from fxteleport.passes.shadow import clone
from fxteleport.passes.state import reject_state, without_drawing
from fxteleport.passes.traced import path_of, reassigned, shadow

# Errors that keeping the module whole in which they arise does not mend.
_NOT_HERE = (evaluate.CannotRun, evaluate.Again, RecursionError)
WHOLE = "_whole"  # the leaf that stands for a model whose own forward cannot be traced


class Tracer(Recorder):
    """Runs a model's `forward` on proxies and records what it calls. Used once."""

    def __init__(self, model: nn.Module, makes_all: bool = False, hashes: bool = False) -> None:
        super().__init__(model, makes_all, hashes)
        self.model = model
        self.classes: dict[str, type] = {}
        self.inputs = ""  # in words
        self.entry: fx.Node | None = None  # the last node that reads the inputs
        self.opaque: dict[str, str] = {}
        self.branches: dict[fx.Node, tuple[fx.Graph, ...]] = {}
        self.assigned: dict[str, Tensor] = {}
        self.is_inside = False  # its graph tells of a call that is kept whole
        self.shadow_of: dict[int, nn.Module] = {}  # the shadow of a module of the user's, by its id
        self.shadows: dict[type, type] = {}  # class -> the class of its shadow modules

    # -- the run ---------------------------------------------------------------------------------------

    def trace(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record `model(*args, **kwargs)` in eval mode and tidy the graph.

        Raises:
            CaptureError: the model does not run on these inputs.
            Again: another tracer is needed, which `makes_all` or `hashes`.
        """
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self.device = tensors[0].device if tensors else torch.device("cpu")
        self.inputs = said(args, kwargs)
        given = (args, kwargs)
        args, kwargs = placeholders(self, self.model, args, kwargs)
        inputs = [n for n in self.graph.nodes if isinstance(n.meta["val"], Tensor)]
        self.entry = next(iter(reversed(self.graph.nodes)), None)
        root = shadow(self, self.model, "", training=False)
        parts = list(root.modules())
        self.shadow_of = {id(self.parts[path_of(part)]): part for part in parts}
        try:
            with run_by(self), without_drawing(self):
                out = root(*args, **kwargs)
            for module in parts:
                reject_state(self, module)
            self.insist_on(inputs)
            lowered = self.lower(out)
        except evaluate.CannotRun as error:
            where = path_of(self.stack[-1]) if self.stack else ""
            inside = f"in the forward of '{where}'" if where else "in its forward"
            out = self.whole(error, f"{inside}, {error}", given, args, kwargs)
            lowered = self.lower(out)
        except (evaluate.Again, RecursionError):
            raise
        except Exception as error:
            again(error)
            out = self.whole(error, "", given, args, kwargs)
            lowered = self.lower(out)
        names = {name for module in parts for name in reassigned(module)}
        self.assigned = {name: tensor for name, tensor in named_tensors(self.parts) if name in names} if names else {}
        self.finish(lowered, out)
        if self.switches:
            write_switches(self.graph, {name for name, _ in self.model.named_parameters()})

    def finish(self, lowered: Any, out: Any) -> None:
        """Nothing more is recorded: the output, and what the graph as a whole tells."""
        self.graph.output(lowered)
        self.graph.output_node().meta.update(val=proxy.plain(out), path="")
        mark_aliases(self.graph, self._mutations, self.metas)
        forget_stale(self.graph, self._mutations)
        remove_dead(self.graph)

    def insist_on(self, inputs: list[fx.Node]) -> None:
        """Guards of the input tensors' axes and types, where Python asked for any tensor's."""
        if not (self.asks_rank or self.asks_type) or self.entry is None:
            return
        with self.graph.inserting_after(self.entry):
            for node in reversed(inputs):
                value = node.meta["val"]
                facts = value.ndim if self.asks_rank else None, value.dtype if self.asks_type else None
                guard(self.graph, expect_tensor, node, *facts, node.name)

    def whole(self, error: Exception, where: str, given: tuple[Any, Any], args: Any, kwargs: Any) -> Any:
        """The model's own forward cannot be traced: it is one opaque leaf, and nothing in it is free.

        Where it runs neither without values nor on made-up ones, it is run once on the inputs themselves.
        """
        self.rollback(self.entry, 0)
        self.stack.clear()
        try:
            out = self.call_leaf(WHOLE, args, kwargs)
        except evaluate.CannotRun:
            try:
                with torch.random.fork_rng(devices=[]), unaware():
                    value = self.run_leaf(
                        WHOLE, *evaluate.tree_map(functools.partial(evaluate.made_up, torch.zeros), given)
                    )
            except Exception as itself:
                cause = error.__cause__ if where else error
                raise self.refused(where or f"{type(itself).__name__}: {itself}") from cause
            value = evaluate.tree_map(evaluate.to_meta, value)
            out = self.append("call_module", WHOLE, args, kwargs, value, trust=Trust.RAGGED)
        self.opaque[WHOLE] = reason = f"{type(error).__name__}: {_first_line(error)}"
        warnings.warn(f"the model is kept whole, nothing in it can move: {reason}", OpaqueModuleWarning, stacklevel=6)
        return out

    def refused(self, why: str) -> CaptureError:
        """The error for a model that fails on real data too."""
        return CaptureError(f"the model does not run on these inputs ({self.inputs}): {why}")

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

    # -- calls of modules ------------------------------------------------------------------------------

    def call_module(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A module is called: keep it whole, or trace its forward, or fall back from the second to the first."""
        path = path_of(module)
        real = self.real(path)
        if is_compiled(real):
            return module._modules["_orig_mod"](*args, **kwargs)  # type: ignore[misc]
        if path and is_leaf(real):
            call = functools.partial(self.call_leaf, path)
            return self.call_watched(module, forward, call, args, kwargs) if watched(real) else call(args, kwargs)
        if path and is_mode_dependent(real):
            with contextlib.suppress(Stores):
                graphs = self.inside(path, real, args, kwargs, (False, True))
                out = self.call_leaf(path, args, kwargs)
                if graphs:
                    self.branches[out._node] = tuple(graphs)
                return out
        if reads_training(type(real)) and not isinstance(real, nn.modules.batchnorm._BatchNorm):
            self.specialized.append(f"{path or 'the model'}: its forward reads self.training (eval mode was traced)")
        self.stack.append(module)
        mark, moved = next(iter(reversed(self.graph.nodes)), None), len(self._moved)
        before = evaluate.containers((args, kwargs))
        try:
            out = forward(*args, **kwargs)
            reject_state(self, module)
        except _NOT_HERE:
            raise
        except Exception as error:
            again(error)
            if not path or any(map(watched, real.modules())):  # a hook may reach out of what would be kept whole
                raise
            self.rollback(mark, moved, before)
            self.opaque[path] = reason = f"{type(error).__name__}: {_first_line(error)}"
            warnings.warn(f"module '{path}' is kept whole: {reason}", OpaqueModuleWarning, stacklevel=2)
            out = self.call_leaf(path, args, kwargs)
        self.stack.pop()
        return out

    def call_watched(
        self, module: nn.Module, forward: Callable[..., Any], call: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """A leaf with hooks is called: they run on what it takes and gives, as part of the graph."""

        def bare(*inputs: Any, **keywords: Any) -> Any:
            if any(held.get(k, module) is not v for k, v in vars(module).items() if k != "forward"):
                raise RuntimeError("a hook of its changes its attributes")
            return call(inputs, keywords)

        held = dict(vars(module))
        vars(module)["forward"] = bare
        try:
            return forward(*args, **kwargs)
        finally:
            del vars(module)["forward"]

    def call_function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a torch function; batch norm and dropout become leaves that know train and eval mode."""
        module = self.stack[-1] if self.stack else None
        if func is F.batch_norm and isinstance(module, nn.modules.batchnorm._BatchNorm):
            own = module._buffers.get("running_mean")
            if own is not None and len(args) > 1 and args[1] is own:
                return self.own_normalisation(module, args[0])
        if func in DROPOUT:
            return self.functional_dropout(func, *args, **kwargs)
        return self.record("call_function", func, args, kwargs)

    def own_normalisation(self, module: nn.Module, x: Proxy) -> Any:
        """The normalisation inside a batch norm subclass, as a leaf of its torch base class."""
        path = path_of(module)
        self.classes[path] = next(c for c in type(module).__mro__ if c.__module__.startswith("torch.nn."))
        return self.call_leaf(path, (x,), {})

    def functional_dropout(
        self, func: Any, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Any:
        """`F.dropout(x, p, self.training)` as a leaf, so that it drops again after `train()`."""
        if training or p == 0.0:
            return self.record("call_function", func, (input, p, training, inplace), {})
        path = self.free_path(f"{path_of(self.stack[-1])}.{func.__name__}")
        self.added[path] = self.twins[path] = DROPOUT[func](p).eval()
        return self.append("call_module", path, (input,), {}, proxy.plain(input))

    def call_leaf(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call of a module that is kept whole."""
        if path not in self.twins:
            self.twins[path] = self.twin(path)

        def real(*inputs: Any, **keywords: Any) -> Any:
            return self.run_leaf(path, inputs, keywords)

        def run(inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            return self.memo.run("call_module", self.twins[path], inputs, keywords, real)

        what = f"'{path}' ({type(self.real(path)).__name__})"
        return self.append("call_module", path, args, kwargs, *self.observe(run, what, args, kwargs))

    def call_helper(self, module: nn.Module, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A method of a module, other than `forward`, is called: if it depends on the data, keep it whole."""
        depth, mark, moved = len(self.stack), next(iter(reversed(self.graph.nodes)), None), len(self._moved)
        before = evaluate.containers((args, kwargs))
        try:
            return fn(module, *args, **kwargs)
        except _NOT_HERE:
            raise
        except Exception as error:
            again(error)
            if proxy.find_tracer((args, kwargs)) is None or any(map(watched, module.modules())):
                raise
            del self.stack[depth:]
            self.rollback(mark, moved, before)
            try:
                return self.call_helper_whole(module, fn, args, kwargs, _first_line(error))
            except evaluate.CannotRun:  # it needs the weights: then its module is kept whole
                raise error from None

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
            out = self.call_added(path, leaf, run, args, kwargs)
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
        if graphs:
            self.branches[out._node] = tuple(graphs)
        return out

    def call_added(self, path: str, leaf: nn.Module, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record a call of a leaf that is not the model's own; `run` evaluates it."""
        observed = self.observe(run, f"'{path}'", args, kwargs)
        self.added[path] = self.twins[path] = leaf
        return self.append("call_module", path, args, kwargs, *observed)

    def inside(self, path: str, module: nn.Module, args: Any, kwargs: Any, modes: tuple[bool, ...]) -> list[fx.Graph]:
        """The graphs of what a call that is kept whole does, a mode each; none where it cannot be traced."""
        try:
            return trace_inside(self, module, args, kwargs, modes)
        except (evaluate.Again, Stores):
            raise
        except Exception as error:
            again(error)
            self.opaque[path] = _first_line(error)
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
