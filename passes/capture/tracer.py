"""The tracer: runs a model's `forward` on proxies, and decides what is traced and what is kept whole."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxteleport.passes.capture import meta_eval, proxy
from fxteleport.passes.capture.arguments import named_tensors
from fxteleport.passes.capture.leaf_bodies import Stores
from fxteleport.passes.capture.leaf_calls import OUTSIDE, WHOLE, Kept, again, first_line
from fxteleport.passes.capture.mutation import forget_stale, mark_aliases, remove_dead
from fxteleport.passes.capture.patching import run_by, unaware, unrecorded
from fxteleport.passes.capture.placeholders import placeholders, said
from fxteleport.passes.capture.replay import other_ranks, runs
from fxteleport.passes.capture.side_effects import plain_state, reject_state, without_drawing
from fxteleport.passes.capture.traced_modules import path_of, reassigned, shadow
from fxteleport.passes.capture.training_mode import depends
from fxteleport.passes.errors import CaptureError, OpaqueModuleWarning
from fxteleport.passes.graph.grad_mode import write_switches
from fxteleport.passes.graph.guards import expect_tensor, guard
from fxteleport.passes.graph.leaf_modules import (
    DRAWING,
    DROPOUT,
    changes_gradients,
    is_compiled,
    is_intricate,
    is_leaf,
    is_mode_dependent,
    methods,
    reads_training,
    watched,
)
from fxteleport.passes.graph.module_clone import linked, modules_of
from fxteleport.passes.graph.node_info import NodeInfo, Trust, describe, info
from fxteleport.passes.graph.settings import Reads

_BATCH_NORM = tuple(inspect.signature(F.batch_norm).parameters)
# Errors that keeping the module whole in which they arise does not mend.
_NOT_HERE = (meta_eval.CannotRun, meta_eval.Again, RecursionError)


class Tracer(Kept):
    """Runs a model's `forward` on proxies and records what it calls. Used once."""

    def __init__(self, model: nn.Module, makes_all: bool = False, hashes: bool = False, training: bool = False) -> None:
        super().__init__(model, makes_all, hashes, training)
        self.inputs = ""  # in words
        self.entry: fx.Node | None = None  # the last node that reads the inputs
        self.assigned: dict[str, Tensor] = {}
        self.trained: dict[str, bool] = {}  # parameters of which code asked whether they require a gradient
        self.reads = Reads()
        self.found: Mapping[tuple[str, str], Any] = {}  # attributes that the run finds, if not as they are in the model
        self.left: dict[tuple[str, str], Any] = {}  # plain ones that it may have read, and leaves as others
        self.stateful: frozenset[str] = frozenset()  # modules that compute something else in the next run
        self.shadow_of: dict[int, nn.Module] = {}  # the shadow of a module of the user's, by its id
        self.shadows: dict[type, type] = {}  # class -> the class of its shadow modules

    # -- the run ---------------------------------------------------------------------------------------

    def trace(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record `model(*args, **kwargs)` in this tracer's mode and tidy the graph.

        Raises:
            CaptureError: the model does not run on these inputs.
            Again: another tracer is needed, which `makes_all` or `hashes`.
        """
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self.device = tensors[0].device if tensors else torch.device("cpu")
        self.inputs = said(args, kwargs)
        given = (args, kwargs)
        args, kwargs = placeholders(self, self.model, args, kwargs)
        inputs = [n for n in self.graph.nodes if isinstance(info(n).value, Tensor)]
        self.entry = next(iter(reversed(self.graph.nodes)), None)
        root = shadow(self, self.model, "", self.modes.training)
        parts = list(dict.fromkeys(modules_of(root).values()))
        for part in parts if self.started.owners else ():
            vars(part)["training"] = self.mode_of(path_of(part))
        self.set_attributes(parts)
        self.shadow_of = {id(self.parts[path_of(part)]): part for part in parts}
        try:
            with run_by(self), without_drawing(self):
                out = root(*args, **kwargs)
            for module in parts:
                reject_state(self, module)
            self.left = dict(plain_state(self, parts))
            for key in self.writes.left():
                raise meta_eval.DataDependent(f"its forward leaves a layer with another '{key}' than it finds")
            self.modes.reject_late(self)
            self.insist_on(inputs)
            lowered = self.lower(out)
        except meta_eval.CannotRun as error:
            where = path_of(self.stack[-1]) if self.stack else ""
            inside = f"in the forward of '{where}'" if where else "in its forward"
            out = self.whole(error, f"{inside}, {error}", given, args, kwargs)
            lowered = self.lower(out)
        except (meta_eval.Again, RecursionError):
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

    def set_attributes(self, parts: list[nn.Module]) -> None:
        """Let the shadows have what the model's own `train` sets in the mode that is traced."""
        shadows = {path_of(part): part for part in parts}
        for (path, name), value in self.found.items():
            vars(shadows[path])[name] = value
        if not self.started.attributes or self.started.seen_on is None:
            return
        places = {id(m): shadows[path] for path, m in self.started.seen_on.named_modules()}
        for (path, name), value in self.started.attributes.items():
            held = vars(shadows[path])
            self.writes.note(held, name)
            self.reads.written.add((path, name))
            held[name] = linked(value, places)

    def finish(self, lowered: Any, out: Any) -> None:
        """Nothing more is recorded: the output, and what the graph as a whole tells."""
        self.graph.output(lowered)
        describe(self.graph.output_node(), NodeInfo(proxy.plain(out)))
        mark_aliases(self.graph, self._mutations, self.metas)
        forget_stale(self.graph, self._mutations)
        remove_dead(self.graph, self.draws)

    def draws(self, node: fx.Node) -> bool:
        """True for a call that draws random numbers in train mode."""
        if node.op != "call_module":
            return node.target in DROPOUT
        return node in self.branches or any(isinstance(m, DRAWING) for m in self.twins[str(node.target)].modules())

    def insist_on(self, inputs: list[fx.Node]) -> None:
        """Guards of the input tensors' axes and types, where Python asked for any tensor's."""
        if not (self.asks_rank or self.asks_type) or self.entry is None:
            return
        takes_others = self.rank_line is not None and self.takes_other_ranks(inputs)
        with self.graph.inserting_after(self.entry):
            for node in reversed(inputs):
                value = info(node).value
                facts = value.ndim if self.asks_rank else None, value.dtype if self.asks_type else None
                guard(self.graph, expect_tensor, node, *facts, node.name)
        for node in inputs:
            value = info(node).value
            if takes_others:
                self.rest_on("form", f"'{node.name}' has {value.ndim} axes", node, "", self.rank_line)
            if self.asks_type:
                kind = "a floating-point type" if value.dtype.is_floating_point else str(value.dtype)
                self.rest_on("form", f"'{node.name}' is of {kind}", node, "")

    @unrecorded
    def takes_other_ranks(self, inputs: list[fx.Node]) -> bool:
        """Whether forward runs on inputs with more or fewer axes as far as where Python asked how many there are."""
        last = self.rank_node
        if last is None or last._erased:
            return True
        return any(runs(self.twins, self.opaque, self.graph, shapes, last) for shapes in other_ranks(inputs))

    def whole(self, error: Exception, where: str, given: tuple[Any, Any], args: Any, kwargs: Any) -> Any:
        """The model's own forward cannot be traced: it is one opaque leaf, and nothing in it is free.

        Where it runs neither without values nor on made-up ones, it is run once on the inputs themselves.
        """
        if self.modes.training:  # there is the graph of eval mode
            raise error
        self.rollback(self.entry, 0)
        self.stack.clear()
        reason = f"{type(error).__name__}: {first_line(error)}"
        self.keep(WHOLE, reason)
        try:
            out = self.call_leaf(WHOLE, args, kwargs)
        except meta_eval.CannotRun:
            try:
                with torch.random.fork_rng(devices=[]), unaware():
                    value = self.run_leaf(
                        WHOLE, *meta_eval.tree_map(functools.partial(meta_eval.made_up, torch.zeros), given)
                    )
            except Exception as itself:
                cause = error.__cause__ if where else error
                raise self.refused(where or f"{type(itself).__name__}: {itself}") from cause
            value = meta_eval.tree_map(meta_eval.to_meta, value)
            out = self.append("call_module", WHOLE, args, kwargs, value, trust=Trust.RAGGED)
        self.is_whole = True
        warnings.warn(f"the model is kept whole, nothing in it can move: {reason}", OpaqueModuleWarning, stacklevel=6)
        return out

    def refused(self, why: str) -> CaptureError:
        """The error for a model that fails on real data too."""
        return CaptureError(f"the model does not run on these inputs ({self.inputs}): {why}")

    # -- calls of modules ------------------------------------------------------------------------------

    def call_module(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A module is called: keep it whole, or trace its forward, or fall back from the second to the first."""
        path = path_of(module)
        real = self.real(path)
        if is_compiled(real):
            return module._modules["_orig_mod"](*args, **kwargs)  # type: ignore[misc]
        if changes_gradients(real) and not self.is_inside and not (path and is_leaf(real)):
            return self.call_hooked(path, args, kwargs)
        is_set = self.modes.changed and self.modes.is_set(path_of(m) for m in module.modules())
        if path and is_leaf(real) and not (is_set and reads_training(type(real))):  # type: ignore[arg-type]
            self.writes.called(module)
            return (self.call_watched if watched(real) else self.call_layer)(module, forward, args, kwargs)
        if path and is_mode_dependent(real) and not is_set:
            with contextlib.suppress(Stores):
                planned = self.is_as_planned(module)
                if self.reach.of(real):
                    if not planned:
                        raise RuntimeError(f"'{path}' has other settings than at planning, and {OUTSIDE}")
                    self.keep(path, OUTSIDE)
                    return self.call_leaf(path, args, kwargs)
                if not planned:
                    return self.call_given(module, args, kwargs)
                graphs = self.inside(path, real, args, kwargs, (False, True))
                out = self.call_leaf(path, args, kwargs)
                if graphs and proxy.is_proxy(out):
                    self.branches[out._node] = tuple(graphs)
                return out
        self.modes.called(module, args, kwargs)
        asked = dict(self.modes.asked)
        self.stack.append(module)
        depth, writes = len(self.stack), len(self.writes)
        mark, moved = next(iter(reversed(self.graph.nodes)), None), len(self._moved)
        before = meta_eval.containers((args, kwargs))
        try:
            out = forward(*args, **kwargs)
            reject_state(self, module)
        except _NOT_HERE:
            raise
        except Exception as error:
            again(error)
            if not path or is_set or any(map(watched, real.modules())):  # what is kept whole is as it is in the model
                raise
            if self.writes.changed(module.modules(), writes):  # what is kept whole is what it was at planning
                raise
            self.modes.asked = asked | ({path: self.mode_of(path)} if depends(real) else {})
            del self.stack[depth:]
            self.rollback(mark, moved, before)
            reason = f"{type(error).__name__}: {first_line(error)}"
            self.keep(path, reason)
            warnings.warn(f"module '{path}' is kept whole: {reason}", OpaqueModuleWarning, stacklevel=2)
            out = self.call_leaf(path, args, kwargs)
        self.stack.pop()
        return out

    def call_hooked(self, path: str, args: Any, kwargs: Any) -> Any:
        """A module that is no leaf is called, whose backward hooks may change gradients: they run where it is whole."""
        reason = "it has backward hooks, which may change its gradients"
        if not path:
            raise RuntimeError(reason)
        self.keep(path, reason)
        warnings.warn(f"module '{path}' is kept whole: {reason}", OpaqueModuleWarning, stacklevel=2)
        if depends(self.real(path)):
            self.modes.asked[path] = self.mode_of(path)
        return self.call_leaf(path, args, kwargs)

    def call_layer(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """One of torch's layers is called: a leaf as long as it is what it was at planning.

        One that forward has changed is a function of what it holds now.
        """
        path = path_of(module)
        if self.is_as_planned(module):
            return self.call_leaf(path, args, kwargs)
        cls: type = type(self.real(path))
        if is_intricate(module):
            raise RuntimeError(f"'{path}' ({cls.__name__}) is given other weights or settings")
        if reads_training(cls) and methods(cls).isdisjoint(vars(module)):
            return self.call_given(module, args, kwargs)
        self.stack.append(module)
        out = module.forward(*args, **kwargs)
        self.stack.pop()
        return out

    def call_watched(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A layer with hooks is called: they run on what it takes and gives, as part of the graph."""

        def bare(*inputs: Any, **keywords: Any) -> Any:
            del vars(module)["forward"]
            return self.call_layer(module, forward, inputs, keywords)

        vars(module)["forward"] = bare
        try:
            return forward(*args, **kwargs)
        finally:
            vars(module).pop("forward", None)

    def call_function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a torch function; batch norm and dropout become leaves that know train and eval mode."""
        module = self.stack[-1] if self.stack else None
        if func is F.batch_norm and isinstance(module, nn.modules.batchnorm._BatchNorm):
            own, path = module._buffers.get("running_mean"), path_of(module)
            given = dict(zip(_BATCH_NORM, args, strict=False)) | kwargs
            is_own = own is not None and given.get("running_mean") is own and path in self.modes.own
            if is_own and (self.is_inside or given.get("training", False) is False):
                return self.own_normalisation(module, **given)
        if func in DROPOUT:
            return self.functional_dropout(func, *args, **kwargs)
        return self.record("call_function", func, args, kwargs)

    def call_helper(self, module: nn.Module, fn: types.FunctionType, args: Any, kwargs: Any) -> Any:
        """A method of a module, other than `forward`, is called: if it depends on the data, keep it whole."""
        depth, mark, moved = len(self.stack), next(iter(reversed(self.graph.nodes)), None), len(self._moved)
        before, writes = meta_eval.containers((args, kwargs)), len(self.writes)
        try:
            return fn(module, *args, **kwargs)
        except _NOT_HERE:
            raise
        except Exception as error:
            again(error)
            if proxy.find_tracer((args, kwargs)) is None or any(map(watched, module.modules())):
                raise
            parts, names = self.reach.parts_of_method(module, fn)
            if self.writes.changed(parts, writes, module, names):
                raise
            del self.stack[depth:]
            self.rollback(mark, moved, before)
            try:
                return self.call_helper_whole(module, fn, args, kwargs, first_line(error))
            except meta_eval.CannotRun:  # it needs the weights: then its module is kept whole
                raise error from None
