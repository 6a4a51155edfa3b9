"""The next run: whether it does what the traced one does, where forward leaves attributes with other values."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

from fxteleport.passes.capture.graph_equality import alike
from fxteleport.passes.capture.model_trace import Traced
from fxteleport.passes.capture.trace_settings import TraceSettings


def next_run_is_alike(traced: Traced, again: Callable[[TraceSettings], Traced]) -> bool:
    """True where a run that finds the attributes that a traced one has left does the same.

    It may ask for less: a model that looks once at what its labels are, and notes it. The traced run's guards are right
    in every run.

    Where only dropouts drop more or less, it does in eval mode; train mode is asked about.

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
