"""Calls of torch's layers: as they were at planning, or with tensors and settings that forward has assigned."""

from __future__ import annotations

from collections.abc import Callable, KeysView
from typing import Any

from torch import nn

from fxteleport.passes.capture.additions import Additions
from fxteleport.passes.capture.attribute_journal import Writes, same, same_settings
from fxteleport.passes.capture.call_stack import CallStack
from fxteleport.passes.capture.leaf_bodies import LeafBodies
from fxteleport.passes.capture.leaf_calls import LeafCalls
from fxteleport.passes.capture.leaf_table import LeafTable
from fxteleport.passes.capture.opaque_leaves import Given, with_settings
from fxteleport.passes.capture.proxy import NumberProxy, Proxy, node_of, value_of
from fxteleport.passes.capture.recording_mode import unrecorded
from fxteleport.passes.capture.specialization import Specialization
from fxteleport.passes.capture.trace_settings import TraceSettings
from fxteleport.passes.capture.traced_modules import holds_its_own
from fxteleport.passes.graph.leaf_modules import is_intricate, is_leaf, methods, reads_training
from fxteleport.passes.graph.module_clone import PATH, path_of
from fxteleport.passes.graph.node_info import update
from fxteleport.passes.graph.structure import is_spelt


class LayerCalls:
    """Records calls of layers: the model's own, and those inside the user's batch norms.

    Args:
        weights: the ids of the model's tensors.
    """

    def __init__(
        self,
        settings: TraceSettings,
        leaves: LeafTable,
        calls: LeafCalls,
        bodies: LeafBodies,
        additions: Additions,
        values: Specialization,
        writes: Writes,
        stack: CallStack,
        weights: KeysView[int],
    ) -> None:
        self._settings = settings
        self._leaves, self._calls, self._bodies, self._additions = leaves, calls, bodies, additions
        self._values, self._writes, self._stack, self._weights = values, writes, stack, weights

    def call(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record a call of a layer: as a leaf if the layer is as it was at planning, else as a function of its tensors.

        Raises:
            RuntimeError: forward has changed it, and it cannot be called as a function.
        """
        path = path_of(module)
        if self.is_as_planned(module):
            return self._calls.call(path, args, kwargs)
        cls: type = type(self._leaves.real(path))
        if is_intricate(module):
            raise RuntimeError(f"'{path}' ({cls.__name__}) is given other weights or settings")
        if reads_training(cls) and methods(cls).isdisjoint(vars(module)):
            return self.as_it_is(module, args, kwargs)
        with self._stack.inside(module):
            return module.forward(*args, **kwargs)

    def watched(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record a call of a layer with hooks: the hooks are traced on its inputs and results."""

        def bare(*inputs: Any, **keywords: Any) -> Any:
            del vars(module)["forward"]
            return self.call(module, forward, inputs, keywords)

        vars(module)["forward"] = bare
        try:
            return forward(*args, **kwargs)
        finally:
            vars(module).pop("forward", None)

    def is_as_planned(self, module: nn.Module) -> bool:
        """True for the shadow of a layer whose settings, tensors and parts are as at planning."""
        real = self._leaves.real(path_of(module))
        if self._writes.have_set(module) or not (same_settings(module, real) and holds_its_own(module)):
            return False
        if not self._weights.isdisjoint(map(id, vars(real).values())):  # a plain attribute is someone's weight
            return False
        return not module._modules or (
            module._modules.keys() == real._modules.keys()
            and all(
                self._leaves.real(path_of(m)) is real._modules[k] for k, m in module._modules.items() if m is not None
            )
            and all(self.is_as_planned(m) for m in module._modules.values() if m is not None)
        )

    @unrecorded
    def as_it_is(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        cls: type[nn.Module] | None = None,
        tensors: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Any:
        """Record a call of a layer that forward has changed, and whose mode matters.

        It becomes a new leaf with the current settings, which takes the current tensors as arguments.
        """
        real = self._leaves.real(path_of(module))
        layer = with_settings(real, {**vars(module), **settings}, cls or type(real), self._plain)
        vars(layer)[PATH] = path_of(module)  # whose mode it is in
        if tensors is None:
            tensors = dict([*module._parameters.items(), *module._buffers.items()])  # proxies, not what stands for them
        given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        leaf = Given(layer, tuple(given)) if given else layer
        path = self._additions.free_path(f"{path_of(module)}_as_set")
        graphs = self._bodies.known(path, leaf, args, kwargs, (False, True)) if not is_leaf(layer) else []
        out = self._calls.call_added(path, leaf, args, kwargs | given)
        self._calls.note_bodies(out, graphs)
        return out

    def _plain(self, x: Any) -> Any:
        """A setting as a plain value for a leaf; a size in it gets a guard.

        Raises:
            RuntimeError: it holds a tensor or a module of this trace.
        """
        if issubclass(type(x), NumberProxy):
            return self._values.number(x, type(value_of(x)))
        if type(x) in (tuple, list):
            return type(x)(map(self._plain, x))
        if not is_spelt(x):
            raise RuntimeError(f"a layer gets a {type(x).__name__} for a setting")
        return x

    def normalisation(self, module: nn.Module, input: Proxy, training: bool = False, **given: Any) -> Any:
        """Record the normalisation in a batch norm subclass as a leaf of its torch base class, which follows the mode.

        Args:
            given: the other arguments of `F.batch_norm`; the leaf takes those that are not the module's own.
        """
        path = path_of(module)
        real: Any = self._leaves.real(path)
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
            self._leaves.classes[path] = cls
            out = self._calls.call(path, (input,), {})
        else:
            tensors["num_batches_tracked"] = module._buffers.get("num_batches_tracked")
            out = self.as_it_is(module, (input,), {}, cls, tensors, **settings)
        if self._settings.is_body:
            update(node_of(out), follows_mode=training is self._settings.training)
        return out
