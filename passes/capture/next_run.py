"""The next run: whether it does what the traced run does, although forward has changed attributes or objects."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

from fxteleport.passes.capture.graph_equality import alike
from fxteleport.passes.capture.model_trace import Traced
from fxteleport.passes.capture.trace_settings import TraceSettings


def next_run_is_alike(traced: Traced, again: Callable[[TraceSettings], Traced]) -> bool:
    """True where a run that starts with what the traced run has left makes the same calls.

    It may have fewer guards (a model that looks at its labels once, and caches the answer): those of the traced run
    hold in every run.

    In eval mode, dropouts may differ in how much they drop; train mode is compared separately.

    Args:
        again: traces the same model on the same inputs.
    """
    if not (traced.left or traced.objects):
        return True
    if traced.objects.differs:
        return False
    tracer = traced.tracer
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            next_run = again(replace(tracer.settings, found=traced.left, objects=traced.objects))
    except Exception:
        return False
    if traced.objects.arrays and next_run.objects.arrays:  # a run that writes the same again would leave them
        return False
    other = next_run.tracer
    graphs, training = (
        (tracer.graph, other.graph, tracer.additions.held, other.additions.held),
        tracer.settings.training,
    )
    same = alike(*graphs, drops=training, less_sure=True)
    if same and not training and not alike(*graphs, less_sure=True):
        tracer.modes.asked |= {path: tracer.modes.at_start(path) for path, _ in traced.left}
    return same
