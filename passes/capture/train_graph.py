"""Both modes: the graph of a network in train mode, where it is another one than in eval mode.

The two graphs have one set of parameters, and so one system of constraints (`mode_choice.py` says which one runs).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import replace

from torch import fx

from fxteleport.passes.capture.mode_choice import Choice
from fxteleport.passes.capture.model_trace import Traced
from fxteleport.passes.capture.same_graph import alike
from fxteleport.passes.capture.trace_settings import TraceSettings, retry
from fxteleport.passes.capture.tracer import Tracer
from fxteleport.passes.errors import OpaqueModuleWarning
from fxteleport.passes.graph.node_info import info


def trace_training(
    traced: Traced, start: Callable[[TraceSettings], Tracer], run: Callable[[Tracer], Traced]
) -> tuple[Traced | None, Choice | None]:
    """The trace in train mode of what was traced in eval mode, and what chooses; None where one graph does for both.

    Args:
        start: makes a tracer of the same model, which knows what was added to the model in eval mode.
        run: has it trace the same inputs.
    """
    evaluated = traced.tracer
    if not evaluated.modes.asked or traced.is_whole:
        _settle_dropouts(evaluated)
        return None, None
    attempts: list[Tracer] = []

    def attempt(settings: TraceSettings) -> Traced:
        attempts.append(start(settings))
        return run(attempts[-1])

    refused, other = "", None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OpaqueModuleWarning)
            other = retry(attempt, replace(evaluated.settings, training=True))
    except RecursionError:
        raise
    except Exception as error:
        refused = str(error.__cause__ or error).strip().splitlines()[0][:200]
    trained = attempts[-1]
    new = sorted(trained.leaves.opaque.keys() - evaluated.leaves.opaque.keys())
    if not refused and new:
        refused = f"'{new[0]}' could not be traced: {trained.leaves.opaque[new[0]]}"
    if not refused and alike(evaluated.graph, trained.graph, evaluated.additions.held, trained.additions.held):
        _settle_dropouts(evaluated, _that_drop(evaluated.graph, trained.graph))
        return None, None
    _settle_dropouts(evaluated)
    _settle_dropouts(trained)
    choice = _choice(evaluated, trained, refused)
    return (None if refused else other), choice


def _choice(evaluated: Tracer, trained: Tracer, refused: str) -> Choice:
    """What chooses between the two; a refusal of train mode is a condition of the trace in eval mode."""
    asked = evaluated.modes.asked | dict.fromkeys(trained.modes.asked)
    for path in asked if refused else ():
        what = "whether gradients are recorded" if path is None else "its mode"
        said = f"{what} is asked for: eval mode was traced, train mode is refused ({refused})"
        evaluated.conditions.note("mode", said, path=path or "")
    in_eval = {path: evaluated.modes.at_start(path) for path in asked}
    return Choice(in_eval, {path: trained.modes.at_start(path) for path in asked}, refused)


def _that_drop(evaluated: fx.Graph, trained: fx.Graph) -> set[str]:
    """The dropouts that drop in train mode."""
    pairs = zip(evaluated.nodes, trained.nodes, strict=True)
    return {str(a.target) for a, b in pairs if info(a).is_idle_dropout and b.op == "call_function"}


def _settle_dropouts(tracer: Tracer, that_drop: Collection[str] = ()) -> None:
    """A dropout that was asked not to drop never does, unless it was asked to in train mode."""
    added = tracer.additions.held
    for node in tracer.graph.nodes:
        if info(node).is_idle_dropout and node.target in added and node.target not in that_drop:
            added[str(node.target)].p = 0.0  # type: ignore[union-attr]
