"""Variants: the graphs of a model for other calls, and for data that take other branches than the example's.

Code tests whether a padding mask is all ones, to skip it. Each branch is a graph of its own over the same parameters,
and one plan holds for both, so it is right on batches with padding and without: an emitted network runs the graph whose
data guards agree. In place of the example's masks (inputs of zeros and ones), a mask of ones, one of zeros, and masks
padded on either side are tried.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from fxteleport.passes.capture.control_flow import DataDependent, first_line
from fxteleport.passes.capture.data_guards import data_guards, deciding
from fxteleport.passes.capture.data_values import DataValues, Unknown
from fxteleport.passes.capture.mode_choice import Choice
from fxteleport.passes.capture.model_trace import Arguments, Traced, trace_model
from fxteleport.passes.capture.side_effects import NEXT_RUN_DIFFERS
from fxteleport.passes.capture.trace_settings import TraceSettings, retry
from fxteleport.passes.capture.tracer import Tracer
from fxteleport.passes.capture.train_graph import settle_dropouts, trace_training
from fxteleport.passes.errors import CaptureError, OpaqueModuleWarning
from fxteleport.passes.graph.conditions import Condition
from fxteleport.passes.graph.node_info import info

_MOST = 3  # variants of one graph
_MOST_MASKS = 3  # inputs that are changed
Path = tuple[tuple[str, Any], ...]  # the source line of each branch, and its value


@dataclass(frozen=True)
class Variants:
    """The variants of a graph.

    Attributes:
        traces: their traces.
        covered: conditions of one trace that another one covers.
    """

    traces: tuple[Traced, ...] = ()
    covered: frozenset[Condition] = frozenset()


def variants_in_both(
    traced: Traced,
    other: Traced | None,
    choice: Choice | None,
    examples: Arguments,
    calls: Sequence[Arguments] = (),
) -> tuple[Variants, Variants, Choice | None]:
    """The variants of a traced graph, of train mode's graph if there is one, and what chooses between the two.

    Args:
        choice: what chooses between the two; None where one graph serves both modes, as its variants then must.
        calls: other calls of the model, each with variants of its own.

    Raises:
        CaptureError: one of them does not run, or has no graph beside the first.
    """
    last = (other or traced).tracer

    def run(inputs: Arguments, settings: TraceSettings) -> Traced:
        nonlocal last

        def attempt(needed: TraceSettings) -> Traced:
            return trace_model(Tracer(traced.tracer.model, needed, last.memo, last.additions.held), *inputs)

        found = retry(attempt, settings)
        if found.state:
            raise DataDependent(NEXT_RUN_DIFFERS)
        last = found.tracer
        return found

    def in_eval(inputs: Arguments) -> Traced:
        found = run(inputs, traced.tracer.settings)
        if choice is not None:
            settle_dropouts(found.tracer)
            return found

        def start(settings: TraceSettings) -> Tracer:
            return Tracer(traced.tracer.model, settings, found.tracer.memo, found.tracer.additions.held)

        own, asks = trace_training(found, start, lambda t: trace_model(t, *inputs), lambda t: not t.state)
        if asks is not None and any(inputs is call for call in calls):
            refuse_training(found.tracer, asks)
        elif (own, asks) != (None, None):
            raise DataDependent("its mode matters, and that of the first graph does not")
        return found

    def refuse_training(tracer: Tracer, asks: Choice) -> None:
        nonlocal choice
        why = asks.refused or "one of the calls does something else there, and the first does not"
        choice = replace(asks, refused=why)
        for path in choice.evaluating:
            tracer.conditions.note("mode", f"eval mode was traced, train mode is refused ({why})", path=path or "")

    def in_training(inputs: Arguments) -> Traced:
        found = run(inputs, other.tracer.settings)  # type: ignore[union-attr]
        settle_dropouts(found.tracer)
        return found

    evaluated = _with_calls(traced, examples, in_eval, calls)
    trained = Variants() if other is None else _with_calls(other, examples, in_training, calls)
    return evaluated, trained, None if choice is None else _asking_all(choice, evaluated.traces, other)


def _asking_all(choice: Choice, evaluated: Sequence[Traced], other: Traced | None) -> Choice:
    """What chooses between the modes, with all that the graphs of other calls and data ask."""
    new = {path: t.tracer.modes.at_start(path) for t in evaluated for path in t.tracer.modes.asked}
    new = {path: mode for path, mode in new.items() if path not in choice.evaluating}
    trained = {path: other.tracer.modes.at_start(path) if other is not None else True for path in new}
    return replace(choice, evaluating=choice.evaluating | new, training=choice.training | trained)


def _with_calls(
    first: Traced, examples: Arguments, trace: Callable[[Arguments], Traced], calls: Sequence[Arguments]
) -> Variants:
    """The variants of a traced graph, and the graphs of other calls with theirs."""
    found = trace_variants(first, examples, trace)
    traces, covered = list(found.traces), found.covered
    for number, call in enumerate(calls, start=1):
        traced = _another_call(first, call, trace, number)
        variants = trace_variants(traced, call, trace)
        traces += [traced, *variants.traces]
        covered |= variants.covered
    return Variants(tuple(traces), covered)


def _another_call(first: Traced, call: Arguments, trace: Callable[[Arguments], Traced], number: int) -> Traced:
    try:
        traced = trace(call)
    except RecursionError:
        raise
    except CaptureError as error:
        raise CaptureError(f"call {number}: {error}") from error
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise CaptureError(f"call {number} has no graph beside that of the first: {why}; plan it by itself") from error
    apart = traced.tracer.leaves.opaque.keys() - first.tracer.leaves.opaque
    if traced.is_whole or apart:
        what = "the model" if traced.is_whole else f"'{min(apart)}'"
        raise CaptureError(f"call {number} has no graph beside that of the first: {what} is kept whole in it alone")
    return traced


def trace_variants(first: Traced, examples: Arguments, trace: Callable[[Arguments], Traced]) -> Variants:
    """The variants of a traced graph.

    Args:
        examples: the inputs that it was traced on.
        trace: traces the model on others, in the same mode.
    """
    if not first.tracer.decisions.any or not first.tracer.hoisted:
        return Variants()
    guards = data_guards(first.tracer.graph)
    traces = [first]
    for changed in _proposals(first.tracer, deciding(guards), examples):
        if len(traces) > _MOST or any(_accepts(t.tracer, changed) for t in traces):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", OpaqueModuleWarning)
                found = trace(changed)
        except RecursionError:
            raise
        except Exception:  # it does not run on such data, or its graph cannot be held: the guard refuses them
            continue
        if found.is_whole or not found.tracer.hoisted or found.tracer.leaves.opaque.keys() - first.tracer.leaves.opaque:
            continue
        traces.append(found)
    return Variants(tuple(traces[1:]), frozenset(_covered([t.tracer for t in traces])))


def _proposals(tracer: Tracer, needed: set[fx.Node], examples: Arguments) -> Iterator[Arguments]:
    """The example inputs with other masks; first with all masks changed alike."""
    args, kwargs = examples
    given = dict(enumerate(args)) | kwargs
    places = [n for n in tracer.graph.nodes if n.op == "placeholder"]
    masks = [key for key, node in zip(given, places, strict=False) if node in needed and _is_mask(given[key])]
    if not 0 < len(masks) <= _MOST_MASKS:
        return
    kinds: list[list[Tensor]] = [list(_other_masks(given[key])) for key in masks]
    alike = list(zip(*kinds, strict=True))
    for chosen in dict.fromkeys((*alike, *itertools.product(*(k[:2] for k in kinds)))):
        new = given | dict(zip(masks, chosen, strict=True))
        yield tuple(new[i] for i in range(len(args))), {key: new[key] for key in kwargs}


def _is_mask(x: Any) -> bool:
    fractions = not isinstance(x, Tensor) or x.is_meta or x.is_floating_point() or x.is_complex() or x.numel() < 2
    return not fractions and x.ndim > 0 and bool(((x == 0) | (x == 1)).all())


def _other_masks(mask: Tensor) -> Iterator[Tensor]:
    """Masks like this one: of ones; padded in its last row, at the end or at the beginning; and the opposites."""
    ones, right, left = (torch.ones_like(mask) for _ in range(3))
    row = -1 if mask.ndim > 1 else slice(None)
    right[row][..., -1:] = 0
    left[row][..., :1] = 0
    yield from (ones, right, left)
    yield from (1 - m if m.dtype is not torch.bool else ~m for m in (ones, right, left))


def _accepts(tracer: Tracer, examples: Arguments) -> bool:
    """True where the data guards of a trace accept other inputs."""
    args, kwargs = examples
    places = [n for n in tracer.graph.nodes if n.op == "placeholder"]
    given = dict(zip(places, (*args, *kwargs.values()), strict=False))
    values: DataValues = tracer.decisions.values.on(given)
    try:
        return all(_same(values.of(g.args[0]), g.args[1]) for g in data_guards(tracer.graph))  # type: ignore[arg-type]
    except Unknown:
        return True


def _same(value: Any, expected: Any) -> bool:
    value = value.item() if isinstance(value, Tensor) else value
    return bool(value) is expected if isinstance(expected, bool) else bool(value == expected)


def _path(tracer: Tracer) -> list[tuple[Condition | None, str, Any]]:
    """The data decisions of a trace in order: the condition of each, its source line, and its value."""
    by_node = {node: c for c, node in tracer.conditions.nodes.items() if node is not None and c.kind == "data"}
    found = []
    for guard in data_guards(tracer.graph):
        condition = by_node.get(guard.args[0])  # type: ignore[arg-type]
        where = f"{info(guard).path} {condition.path} {condition.source}" if condition is not None else guard.name
        found.append((condition, where, guard.args[1]))
    return found


def _covered(tracers: Sequence[Tracer]) -> Iterator[Condition]:
    """The conditions at which another trace first takes another branch."""
    paths = [_path(t) for t in tracers]
    for path in paths:
        for i, (condition, where, value) in enumerate(path):
            before = [step[1:] for step in path[:i]]
            others = (p for p in paths if len(p) > i and [step[1:] for step in p[:i]] == before)
            turned = any(p[i][1] == where and p[i][2] is (not value) for p in others if isinstance(value, bool))
            if condition is not None and turned:
                yield condition
