"""Train mode's graph, where it differs from that of eval mode.

The two graphs share their parameters, and so one system of constraints; `mode_choice.py` selects which one runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import replace

from torch import fx

from fxteleport.passes.capture.graph_equality import alike
from fxteleport.passes.capture.mode_choice import Choice
from fxteleport.passes.capture.model_trace import Traced
from fxteleport.passes.capture.own_train import own_train
from fxteleport.passes.capture.side_effects import NEXT_RUN_DIFFERS
from fxteleport.passes.capture.trace_settings import TraceSettings, retry
from fxteleport.passes.capture.tracer import Tracer
from fxteleport.passes.errors import OpaqueModuleWarning
from fxteleport.passes.graph.leaf_modules import is_leaf
from fxteleport.passes.graph.node_info import info


def trace_training(
    traced: Traced,
    start: Callable[[TraceSettings], Tracer],
    run: Callable[[Tracer], Traced],
    repeats: Callable[[Traced], bool],
) -> tuple[Traced | None, Choice | None]:
    """The trace in train mode, and what chooses between it and eval mode's; None where one graph serves both modes.

    Args:
        start: makes a tracer of the same model, with the additions of the trace in eval mode.
        run: traces the same inputs with it.
        repeats: whether the next run does what a trace did.
    """
    evaluated = traced.tracer
    refused = "" if traced.is_whole else _ask_for_own_train(evaluated)
    if traced.is_whole or not evaluated.modes.asked:
        settle_dropouts(evaluated)
        return None, None
    if refused:
        settle_dropouts(evaluated)
        return None, _choice(evaluated, None, refused)
    attempts: list[Tracer] = []

    def attempt(settings: TraceSettings) -> Traced:
        attempts.append(start(settings))
        return run(attempts[-1])

    other = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OpaqueModuleWarning)
            other = retry(attempt, replace(evaluated.settings, training=True))
        if not repeats(other):
            refused = NEXT_RUN_DIFFERS
    except RecursionError:
        raise
    except Exception as error:
        refused = str(error.__cause__ or error).strip().splitlines()[0][:200]
    trained = attempts[-1]
    new = sorted(trained.leaves.opaque.keys() - evaluated.leaves.opaque.keys())
    if not refused and new:
        refused = f"'{new[0]}' could not be traced: {trained.leaves.opaque[new[0]]}"
    if not refused and alike(evaluated.graph, trained.graph, evaluated.additions.held, trained.additions.held):
        settle_dropouts(evaluated, _that_drop(evaluated.graph, trained.graph))
        return None, None
    settle_dropouts(evaluated)
    settle_dropouts(trained)
    choice = _choice(evaluated, trained, refused)
    return (None if refused else other), choice


def _ask_for_own_train(evaluated: Tracer) -> str:
    """Note that the mode matters where the model's own `train` sets attributes that the trace has read.

    Returns:
        why there can be no graph of train mode, or "".
    """
    trained, reads = own_train(evaluated.model, True), evaluated.shadows.reads
    read, unseen = reads.read(), tuple(f"{path}." for path in evaluated.leaves.opaque)
    set_by_it = [
        (path, name)
        for path, name in trained.attributes.keys() | evaluated.modes.started.attributes.keys()
        if (path, name) in read or is_leaf(evaluated.parts[path]) or f"{path}.".startswith(unseen)
    ]
    if not (set_by_it or trained.computes):
        return ""
    evaluated.modes.asked |= {path: evaluated.modes.at_start(path) for path in trained.owners}
    reads.written.update(set_by_it)
    return "the model's own train() computes with tensors, which may change weights" if trained.computes else ""


def _choice(evaluated: Tracer, trained: Tracer | None, refused: str) -> Choice:
    """What chooses between the two traces; a refusal of train mode is a condition of the trace in eval mode.

    Args:
        trained: the trace in train mode; None where there is none.
    """
    asked = evaluated.modes.asked | dict.fromkeys(trained.modes.asked if trained else ())
    for path in asked if refused else ():
        what = "whether gradients are recorded" if path is None else "its mode"
        said = f"{what} is asked for: eval mode was traced, train mode is refused ({refused})"
        evaluated.conditions.note("mode", said, path=path or "")
    in_eval = {path: evaluated.modes.at_start(path) for path in asked}
    return Choice(in_eval, {path: trained.modes.at_start(path) if trained else True for path in asked}, refused)


def _that_drop(evaluated: fx.Graph, trained: fx.Graph) -> set[str]:
    """The dropouts that drop in train mode."""
    pairs = zip(evaluated.nodes, trained.nodes, strict=True)
    return {str(a.target) for a, b in pairs if info(a).is_idle_dropout and b.op == "call_function"}


def settle_dropouts(tracer: Tracer, that_drop: Collection[str] = ()) -> None:
    """Set the probability of idle dropouts to 0, except those that drop in train mode."""
    added = tracer.additions.held
    for node in tracer.graph.nodes:
        if info(node).is_idle_dropout and node.target in added and node.target not in that_drop:
            added[str(node.target)].p = 0.0  # type: ignore[union-attr]
