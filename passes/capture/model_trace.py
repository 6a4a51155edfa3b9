"""The trace of a model on example inputs; a model whose own forward cannot be traced becomes one opaque leaf."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxteleport.passes.capture import last_run
from fxteleport.passes.capture.attribute_journal import ABSENT
from fxteleport.passes.capture.control_flow import (
    Again,
    CannotRun,
    DataDependent,
    NextRunDiffers,
    first_line,
    raise_if_hashed,
)
from fxteleport.passes.capture.held_objects import Left
from fxteleport.passes.capture.history import Mark
from fxteleport.passes.capture.leaf_table import WHOLE
from fxteleport.passes.capture.meta_values import to_meta, tree_map
from fxteleport.passes.capture.model_tensors import named_tensors
from fxteleport.passes.capture.modules_left import InModules, ModulesLeft
from fxteleport.passes.capture.observed import Observed
from fxteleport.passes.capture.patching import unaware
from fxteleport.passes.capture.placeholders import said
from fxteleport.passes.capture.replay import runs
from fxteleport.passes.capture.shared_state import SharedState
from fxteleport.passes.capture.side_effects import Attributes
from fxteleport.passes.capture.traced_modules import InBuffers, reassigned
from fxteleport.passes.capture.tracer import Tracer
from fxteleport.passes.errors import CaptureError, OpaqueModuleWarning
from fxteleport.passes.graph.grad_mode import write_switches
from fxteleport.passes.graph.module_clone import linked, modules_of, path_of
from fxteleport.passes.graph.node_info import Trust, info

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Traced:
    """A model, traced in one mode.

    Attributes:
        is_whole: it is one opaque leaf.
        assigned: the model's tensors that its forward replaces by others.
        left: attributes that forward may have read, and leaves with other values.
        late: those that it wrote before it read them: a run that takes another branch would read them.
        objects: what it changes in the user's objects that modules refer to.
        remade: nodes of values that an earlier run left -> the nodes of that run's trace that compute the same.
    """

    tracer: Tracer
    is_whole: bool
    assigned: dict[str, Tensor]
    left: Attributes
    late: Attributes
    objects: Left
    remade: Mapping[fx.Node, fx.Node]

    @property
    def state(self) -> frozenset[str]:
        """The paths of the modules that are left with values that another run might compute differently."""
        return frozenset(path for (path, _), value in self.left.items() if not last_run.is_remade(value))


def trace_model(tracer: Tracer, args: tuple[Any, ...], kwargs: dict[str, Any], at: str = "") -> Traced:
    """Trace the model of a new tracer on example inputs.

    Args:
        at: the path of the module that is called with them; the model itself by default.

    Raises:
        CaptureError: the model does not run on them.
        Again: another trace is needed, with other settings.
    """
    try:
        return _traced(tracer, (args, kwargs), at)
    finally:
        tracer.end()
        tracer.settings.objects.undo()


def _traced(tracer: Tracer, examples: Arguments, at: str) -> Traced:
    arguments = tracer.placeholders.of_call(tracer.parts[at].forward, *examples)
    inputs = [node for node in tracer.graph.nodes if isinstance(info(node).value, Tensor)]
    entry = tracer.builder.last
    root = tracer.shadow()
    shadows = list(dict.fromkeys(modules_of(root).values()))
    called = next(shadow for shadow in shadows if path_of(shadow) == at)
    for shadow in shadows:
        tracer.shadows.link(tracer.parts[path_of(shadow)], shadow)
        if tracer.modes.started.owners:
            vars(shadow)["training"] = tracer.modes.at_start(path_of(shadow))
    remade = _set_attributes(tracer, shadows)
    is_whole = False
    left: Attributes = {}
    late: Attributes = {}
    objects = Left()
    try:
        out, left, late, objects = _run(tracer, called, shadows, arguments)
        if entry is not None:
            tracer.inputs.insist(
                tracer.conditions,
                inputs,
                entry,
                functools.partial(runs, tracer.leaves.twins, tracer.leaves.opaque),
                tracer.shadows.tested,
            )
        tracer.objects.put_back(tracer.lower)
        lowered = tracer.lower(out)
    except (Again, RecursionError):
        raise
    except Exception as error:
        raise_if_hashed(error)
        if at:
            tracer.history.undo(Mark(entry))
            raise
        is_whole = True
        with tracer.effects.whole_call():
            out = _kept_whole(tracer, error, entry, examples, arguments)
        lowered = tracer.lower(out)
    names = {name for shadow in shadows for name in reassigned(shadow)}
    assigned = {name: tensor for name, tensor in named_tensors(tracer.parts) if name in names} if names else {}
    tracer.finish(lowered, out)
    if tracer.gradients.switches:
        write_switches(tracer.graph, {name for name, _ in tracer.model.named_parameters()})
    return Traced(tracer, is_whole, assigned, left, late, objects, remade)


def _set_attributes(tracer: Tracer, shadows: Sequence[nn.Module]) -> dict[fx.Node, fx.Node]:
    """Set attributes of shadows: values that an earlier run has left, and those that the model's `train` sets.

    Returns:
        Nodes of those values -> the nodes of the earlier run's trace that compute the same.
    """
    remade: dict[fx.Node, fx.Node] = {}

    def found(x: Any) -> Any:
        value, made = last_run.found(x, tracer.record)
        remade.update(made)
        return value

    started = tracer.modes.started
    tracer.settings.objects.leave(found)
    if not (started.attributes or tracer.settings.found):
        return remade
    by_path = {path_of(shadow): shadow for shadow in shadows}
    for (path, name), value in tracer.settings.found.items():
        if isinstance(value, InModules):
            value.put(by_path[path], name, by_path)
        elif isinstance(value, InBuffers):
            dict.__setitem__(by_path[path]._buffers, name, found(value.value))
        elif value is ABSENT:
            vars(by_path[path]).pop(name, None)
        else:
            vars(by_path[path])[name] = found(value)
    if not started.attributes or started.seen_on is None:
        return remade
    places = {id(m): by_path[path] for path, m in started.seen_on.named_modules()}
    for (path, name), value in started.attributes.items():
        held = vars(by_path[path])
        tracer.writes.note(held, name)
        tracer.shadows.reads.written.add((path, name))
        held[name] = linked(value, places)
    return remade


def _run(
    tracer: Tracer, root: nn.Module, shadows: Sequence[nn.Module], arguments: Arguments
) -> tuple[Any, Attributes, Attributes, Left]:
    """The results of the model's forward, and what it leaves in attributes (see `Traced`) and objects."""
    args, kwargs = arguments
    tracer.writes.start(shadows)
    parts = ModulesLeft(shadows)
    with tracer.running(), tracer.effects.run():
        out = root(*args, **kwargs)
    opaque = tuple(f"{path}." for path in tracer.leaves.opaque)  # these keep their state
    for shadow in shadows:
        if not f"{path_of(shadow)}.".startswith(opaque):
            tracer.effects.reject_state(shadow)
    left, late = tracer.effects.state_left(shadows, tracer.shadows.reads)
    left |= parts.left()
    if tracer.leaves.opaque:
        state = SharedState(shadows, tracer.parts, tracer.writes, tracer.shadows.reads, set(left))
        if told := list(state.of(tracer.leaves)):
            raise NextRunDiffers(told)
    objects = tracer.held.left().with_values(tracer.effects.stand_in)
    if objects.places:
        by_path = {path_of(shadow): shadow for shadow in shadows}
        left |= {(path, name): tracer.effects.stand_in(vars(by_path[path])[name]) for path, name in objects.places}
    tracer.effects.reject_changed_layers()
    tracer.modes.reject_late()
    return out, left, late, objects


def _kept_whole(
    tracer: Tracer, error: Exception, entry: fx.Node | None, examples: Arguments, arguments: Arguments
) -> Any:
    """Make the model one opaque leaf, since its own forward cannot be traced; nothing in it is free.

    Where it runs neither on meta tensors nor on invented data, it runs once on the inputs themselves.

    Args:
        entry: the last node that reads the inputs.
    """
    if tracer.settings.training:  # there is the graph of eval mode
        raise error
    cause: BaseException | None = error
    where = ""
    if isinstance(error, CannotRun):
        inside = f"in the forward of '{tracer.stack.path}'" if tracer.stack.path else "in its forward"
        where, cause = f"{inside}, {error}", error.__cause__
    tracer.history.undo(Mark(entry))
    reason = f"{type(error).__name__}: {first_line(error)}"
    tracer.leaves.keep_whole(WHOLE, reason)
    tracer.objects.reset()
    args, kwargs = tracer.objects.given(arguments)
    try:
        out = tracer.calls.call(WHOLE, args, kwargs)
    except DataDependent as failure:
        raise CaptureError(f"no graph can hold the model on these inputs ({said(*examples)}): {failure}") from cause
    except CannotRun:
        try:
            with torch.random.fork_rng(devices=[]), unaware():
                zeros = functools.partial(tracer.memo.values.made_up, torch.zeros)
                value = tracer.leaves.run(WHOLE, *tree_map(zeros, examples))
        except Exception as failure:
            why = where or f"{type(failure).__name__}: {failure}"
            raise CaptureError(f"the model does not run on these inputs ({said(*examples)}): {why}") from cause
        seen = Observed(tree_map(to_meta, value), Trust.RAGGED)
        out = tracer.recorder.append("call_module", WHOLE, args, kwargs, seen)
    warnings.warn(f"the model is kept whole, nothing in it can move: {reason}", OpaqueModuleWarning, stacklevel=8)
    return out
