"""The tracer: one run of a model's `forward` on proxies, composed of parts.

Each part knows the parts that it is given, and none knows the tracer. In the order of their creation: which modules are
running (`call_stack`, `gradient_contexts`), the graph and its proxies (`graph_builder`, `handles`), the tensors and
leaves that the graph refers to (`tensor_table`, `leaf_table`), concrete values for Python (`specialization`, `lengths`,
`input_facts`), the recording of calls (`recorder`, `leaf_calls`, `layer_calls`, `function_calls`), and the decision
which calls are traced (`module_calls`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxteleport.passes.capture import aten_calls, proxy
from fxteleport.passes.capture.additions import Additions
from fxteleport.passes.capture.arguments import Lowering
from fxteleport.passes.capture.aten_calls import OPERATOR
from fxteleport.passes.capture.attribute_journal import Writes
from fxteleport.passes.capture.call_stack import CallStack
from fxteleport.passes.capture.data_decisions import DataDecisions
from fxteleport.passes.capture.data_guards import hoist
from fxteleport.passes.capture.data_values import DataValues
from fxteleport.passes.capture.deciding_calls import DecidingCalls
from fxteleport.passes.capture.function_calls import FunctionCalls
from fxteleport.passes.capture.gradient_contexts import GradientContexts
from fxteleport.passes.capture.gradient_requirements import GradientRequirements
from fxteleport.passes.capture.graph_builder import GraphBuilder
from fxteleport.passes.capture.handles import Handles
from fxteleport.passes.capture.held_objects import HeldObjects
from fxteleport.passes.capture.history import History
from fxteleport.passes.capture.input_facts import InputFacts
from fxteleport.passes.capture.layer_calls import LayerCalls
from fxteleport.passes.capture.leaf_bodies import LeafBodies
from fxteleport.passes.capture.leaf_calls import LeafCalls
from fxteleport.passes.capture.leaf_table import LeafTable
from fxteleport.passes.capture.lengths import Lengths
from fxteleport.passes.capture.meta_cache import Memo
from fxteleport.passes.capture.model_tensors import ModelTensors
from fxteleport.passes.capture.module_calls import ModuleCalls
from fxteleport.passes.capture.mutation import forget_stale, mark_aliases, remove_dead
from fxteleport.passes.capture.norm_modes import alike_in_both
from fxteleport.passes.capture.object_inputs import ObjectInputs
from fxteleport.passes.capture.placeholders import Placeholders
from fxteleport.passes.capture.plain_functions import run_watching
from fxteleport.passes.capture.recorder import Recorder, record_left_over
from fxteleport.passes.capture.side_effects import SideEffects
from fxteleport.passes.capture.specialization import Specialization
from fxteleport.passes.capture.tensor_table import TensorTable
from fxteleport.passes.capture.trace_conditions import TraceConditions
from fxteleport.passes.capture.trace_guards import TraceGuards
from fxteleport.passes.capture.trace_settings import TraceSettings
from fxteleport.passes.capture.traced_modules import Shadows
from fxteleport.passes.capture.training_mode import Modes
from fxteleport.passes.graph.leaf_modules import DROPOUT
from fxteleport.passes.graph.module_clone import modules_of, path_of

_BATCH_NORM = tuple(inspect.signature(F.batch_norm).parameters)


class Tracer:
    """A trace of one model: its parts, and the interface for proxies and patched functions. Used once.

    Args:
        model: the model.
        memo: evaluates calls; other traces of the same capture share it.
        added: the additions of an earlier trace to the model, whose names are in use.
    """

    def __init__(
        self, model: nn.Module, settings: TraceSettings, memo: Memo, added: Mapping[str, nn.Module | Tensor]
    ) -> None:
        self.model, self.settings, self.memo = model, settings, memo
        self.device, self.makes_all = settings.device, settings.makes_all
        self.finished = self.hoisted = False  # hoisted: the data guards run first
        self.parts = modules_of(model)
        self.stack, self.gradients, self.writes = CallStack(), GradientContexts(), Writes()
        self.handles = Handles(lambda node, value: proxy.make(node, self, value))
        self.builder = GraphBuilder(self.handles, self.stack, self.gradients)
        self.inputs = InputFacts(self.builder, settings.ranks, settings.types)
        self.conditions = TraceConditions(self.stack)
        self.model_tensors = ModelTensors(self.parts)
        self.additions = Additions((self.model_tensors.metas, self.parts), added)
        self.tensors = TensorTable(self.model_tensors, self.builder, self.additions, memo.values)
        self.held = HeldObjects(self.parts, self.model_tensors.names)
        self.leaves = LeafTable(model, self.parts, self.model_tensors, self.additions, settings, self.held)
        guards = TraceGuards(self.builder.graph, self.stack)
        data = DataValues(self.builder.graph, memo, self.model_tensors.buffer, self.additions.held.get)
        self.decisions = DataDecisions(settings, guards, self.conditions, data)
        self.values = Specialization(guards, self.conditions, self.inputs, settings, self.decisions)
        self.lengths = Lengths(guards, self.conditions, self.leaves.opaque)
        self.objects = ObjectInputs(self.builder)
        lowering = Lowering(self.builder, self.tensors, self.stack, self.leaves.add_like, self.objects)
        self.lower = lowering.lower
        self.recorder = Recorder(
            settings, memo, self.builder, lowering, self.tensors, self.values, self.lengths, self.inputs
        )
        self.placeholders = Placeholders(self.builder, self.conditions, memo.values, self.recorder.record, self.objects)
        self.calls = LeafCalls(self.recorder, self.leaves, memo)
        bodies = LeafBodies(self._body, memo.values, self.conditions, self.inputs, self.leaves.opaque)
        self.required = GradientRequirements(self.model_tensors, guards)
        is_norm = functools.partial(alike_in_both, bodies, self.leaves)
        self.modes = Modes(settings, model, self.gradients, self.required, self.leaves.twins, is_norm)
        self.layers = LayerCalls(
            settings, self.leaves, self.calls, bodies, self.additions, self.values, self.writes,
            self.stack, self.model_tensors.names.keys(),
        )  # fmt: skip
        self.functions = FunctionCalls(
            settings, self.recorder, self.leaves, self.calls, bodies, self.additions, self.stack, memo, guards
        )
        self.hook_gradient = self.functions.hook_gradient
        self.effects = SideEffects(self.tensors, self.model_tensors.metas, self.writes, settings)
        self.history = History(
            settings, self.builder, self.handles, self.tensors, self.conditions, self.stack, self.writes, self.held
        )
        deciding = DecidingCalls(
            settings, self.decisions, self.leaves, self.functions, self.effects, self.writes, self.history
        )
        self.plain_function = deciding.function
        modules = ModuleCalls(
            settings, deciding, self.leaves, self.calls, self.layers, self.functions, bodies, self.modes,
            self.effects, self.writes, self.stack, self.history,
        )  # fmt: skip
        self.shadows = Shadows(self.tensors, self.modes, self.writes, modules, self.held, self.stack)

    def _body(self, module: nn.Module, training: bool) -> Tracer:
        """A trace of a module's forward inside this one, for the body of a call."""
        return Tracer(module, self.settings.of_body(training), self.memo, {})

    @property
    def graph(self) -> fx.Graph:
        """The graph so far."""
        return self.builder.graph

    def shadow(self) -> nn.Module:
        """The clone of the model whose forward records."""
        return self.shadows.make(self.model, self.settings.training, self.settings.stateful)

    def running(self) -> AbstractContextManager[None]:
        """While this lasts, torch's functions in this thread are recorded."""
        return run_watching(self, self.settings.functions, self.settings.converting, self.shadows)

    def finish(self, lowered: Any, out: Any) -> fx.Graph:
        """End the recording: append the output, and run the passes over the finished graph."""
        self.builder.output(lowered, proxy.plain(out))
        mutations = self.builder.mutations
        mark_aliases(self.graph, mutations, self.model_tensors.metas)
        forget_stale(self.graph, mutations, self.memo.values.memory_of)
        remove_dead(self.graph, self.calls.draws)
        self.hoisted = not self.decisions.any or hoist(self.graph, mutations, self.leaves.may_write, self.calls.draws)
        return self.graph

    def end(self) -> None:
        """End the trace, also after an error: proxies that Python still holds become plain values."""
        self.finished = True
        self.shadows.finish()
        self.handles.settle()
        self.held.restore()

    # -- the interface for proxies and patched functions (`protocols.Trace`) -------------------------

    @property
    def in_function(self) -> bool:
        return self.gradients.in_function

    def record(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call."""
        return (record_left_over if self.finished else self.recorder.record)(op, target, args, kwargs)

    def call_function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a torch function; batch norm and dropout become leaves that follow train and eval mode."""
        module = self.stack.innermost
        if func is F.batch_norm and isinstance(module, nn.modules.batchnorm._BatchNorm):
            own, path = module._buffers.get("running_mean"), path_of(module)
            given = dict(zip(_BATCH_NORM, args, strict=False)) | kwargs
            is_own = own is not None and given.get("running_mean") is own and path in self.modes.own
            if is_own and (self.settings.is_body or given.get("training", False) is False):
                return self.layers.normalisation(module, **given)
        if isinstance(func, OPERATOR):
            return aten_calls.call(self, func, args, kwargs)
        if func in DROPOUT:
            return self.functions.dropout(func, *args, **kwargs)
        return self.record("call_function", func, args, kwargs)

    def apply(
        self, function: type[torch.autograd.Function], args: tuple[Any, ...] | None, otherwise: Callable[[], Any]
    ) -> Any:
        """Record a call of an autograd function, or run its forward by `otherwise`."""
        kept = args is not None and self.functions.keeps(function, args, self.model)
        if kept and proxy.find_trace(args) is self:
            return self.functions.custom(function, args)  # type: ignore[arg-type]
        with self.gradients.inside_function():
            return otherwise()

    def shadow_of(self, module: nn.Module) -> nn.Module | None:
        return self.shadows.of(module)

    def is_grad_enabled(self, frame: FrameType) -> bool:
        return self.modes.gradients(frame)

    def requires_grad(self, node: fx.Node, frame: FrameType) -> bool:
        return False if self.finished else self.modes.requires_grad(node, frame)

    def enter_gradients(self, recording: bool | None) -> None:
        self.gradients.enter(recording)

    def leave_gradients(self) -> None:
        self.gradients.leave()
