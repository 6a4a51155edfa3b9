"""Inner graphs: the graphs of modules that opaque code calls.

The inputs and outputs of such a module have the CoB 1; inside, its graph is constrained as any other. In the emitted
network the opaque code calls networks of these graphs.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxteleport.passes.capture.inner_calls import Arguments, Calls, Inside, may_have_a_graph
from fxteleport.passes.capture.leaf_table import WHOLE
from fxteleport.passes.capture.meta_values import tree_map
from fxteleport.passes.capture.model_trace import Traced, trace_model
from fxteleport.passes.capture.patching import unaware
from fxteleport.passes.capture.trace_settings import TraceSettings, retry
from fxteleport.passes.capture.tracer import Tracer
from fxteleport.passes.capture.train_graph import settle_dropouts
from fxteleport.passes.errors import OpaqueModuleWarning
from fxteleport.passes.graph.conditions import Condition
from fxteleport.passes.graph.node_info import info


@dataclass
class Inner:
    """The traces of modules that opaque code calls, by path.

    Attributes:
        owners: the paths of the opaque modules.
    """

    traces: dict[str, Traced] = field(default_factory=dict)
    owners: set[str] = field(default_factory=set)

    def conditions(self) -> Iterator[Condition]:
        """Conditions of weights that go back into the model's class; an emitted network withholds these."""
        for path in self.owners:
            value = "on all data, its code, which is kept whole, only calls the modules in it that are teleported"
            yield Condition("data", "", "" if path == WHOLE else path, "", value)


def inner_graphs(traced: Traced, last: Tracer, examples: Arguments) -> Inner:
    """The traces of modules that the opaque leaves of a trace call.

    Args:
        last: the last tracer of the capture, which has all additions to the model.
    """
    tracer, inner = traced.tracer, Inner()
    for path in tracer.leaves.opaque:
        if (path != WHOLE and path not in tracer.parts) or not _has_inside(module := tracer.leaves.real(path)):
            continue
        where = "" if path == WHOLE else path
        inside = Inside(module, where, tracer.leaves.reached.get(path), tracer.leaves.reach)
        attempt = functools.partial(_attempt, tracer, inner, last)
        for name, found in _of_code(module, where, inside, list(_given(tracer, path, examples)), tracer.parts, attempt):
            inner.traces[name] = found
            inner.owners.add(path)
    return inner


def _has_inside(module: nn.Module) -> bool:
    parts = (part for part in module.modules() if part is not module)
    return any(may_have_a_graph(part) and any(True for _ in part.parameters()) for part in parts)


def _given(tracer: Tracer, path: str, examples: Arguments) -> Iterator[Arguments]:
    """The arguments of the calls of an opaque module: the example inputs, or invented values."""
    for node in tracer.graph.nodes:
        if node.op == "call_module" and node.target == path:
            if path == WHOLE:
                yield examples
            else:
                values = fx.node.map_arg((node.args, node.kwargs), lambda n: info(n).value)
                made = functools.partial(tracer.memo.values.made_up, torch.zeros)
                yield tree_map(made, values)  # type: ignore[misc]


def _of_code(
    module: nn.Module,
    path: str,
    inside: Inside,
    given: Sequence[Arguments],
    parts: dict[str, nn.Module],
    attempt: Callable[[str, Arguments], Traced | None],
) -> list[tuple[str, Traced]]:
    """The largest modules in an opaque one that its code does nothing with but call them, with their traces."""
    if len(given) != 1:
        return []
    with torch.random.fork_rng(devices=[]), unaware(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            calls = inside.calls(_copy(given[0]))
            for name, call in inside.calls(_redrawn(given[0])).items():
                if name in calls:  # a number computed from data differs in each run, so no graph fits all runs
                    calls[name].alike &= call.alike and call.plain == calls[name].plain
        except Exception:  # it does not run on invented values
            return []

        def calls_only(names: list[str]) -> bool:
            return inside.calls_only(_copy(given[0]), names, parts)

        fit = [name for name in _largest(module, path, calls) if calls_only([name])]
    found = [(name, trace) for name in fit if (trace := attempt(name, calls[name].given)) is not None]
    failed = {name for name in fit if name not in dict(found)}
    for name in failed:  # a module inside it may succeed
        smaller = [n for n in _largest(parts[name], name, calls) if calls_only([n])]
        found += [(n, trace) for n in smaller if (trace := attempt(n, calls[n].given)) is not None]
    with torch.random.fork_rng(devices=[]), unaware():
        return found if found and calls_only([name for name, _ in found]) else []


def _copy(arguments: Arguments) -> Arguments:
    copied: Arguments = tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, arguments)
    return copied


def _redrawn(arguments: Arguments) -> Arguments:
    """A copy with other numbers."""

    def redrawn(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return torch.randn_like(x) if x.is_floating_point() or x.is_complex() else x.detach().clone()

    made: Arguments = tree_map(redrawn, arguments)
    return made


def _largest(module: nn.Module, path: str, calls: dict[str, Calls]) -> Iterator[str]:
    """The paths of the largest modules in one whose calls are all alike."""
    for name, part in module._modules.items():
        if part is None:
            continue
        inner = f"{path}.{name}" if path else name
        if inner in calls and calls[inner].alike and may_have_a_graph(part):
            yield inner
        else:
            yield from _largest(part, inner, calls)


def _attempt(tracer: Tracer, inner: Inner, last: Tracer, path: str, given: Arguments) -> Traced | None:
    """The trace of a module alone, if all of it can be traced, and it does the same in both modes and in each run."""

    def trace(settings: TraceSettings) -> Traced:
        newest = next(reversed(inner.traces.values())).tracer if inner.traces else last
        return trace_model(Tracer(tracer.model, settings, tracer.memo, newest.additions.held), *given, at=path)

    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", OpaqueModuleWarning)
            found = retry(trace, tracer.settings)
    except RecursionError:
        raise
    except Exception:
        return None
    held: Any = found.state or found.objects or found.assigned
    if held or found.tracer.leaves.opaque or found.tracer.modes.asked or found.tracer.decisions.any:
        return None
    settle_dropouts(found.tracer)
    return found
