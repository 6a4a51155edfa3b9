"""Both modes: the graph of a network in train mode, where it is another one than in eval mode.

The two graphs have one set of parameters, and so one system of constraints. The emitted network runs the one that its
modules' modes ask for, and refuses to run where they ask for neither (some are frozen, or train mode has no graph).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from fxteleport.passes.capture import meta_eval
from fxteleport.passes.capture.graph_equality import alike
from fxteleport.passes.capture.side_effects import next_run_is_alike
from fxteleport.passes.capture.training_mode import own_train
from fxteleport.passes.errors import InputError, OpaqueModuleWarning
from fxteleport.passes.graph.leaf_modules import is_leaf
from fxteleport.passes.graph.node_info import info

if TYPE_CHECKING:
    from fxteleport.passes.capture.tracer import Tracer

Added = Mapping[str, "nn.Module | Tensor"]


@dataclass(frozen=True)
class Choice:
    """What decides which graph runs: the modes of modules by path (None: whether gradients are recorded).

    Attributes:
        evaluating, training: the modes in which the graphs were traced.
        refused: why there is none for train mode, or "".
    """

    evaluating: dict[str | None, bool]
    training: dict[str | None, bool]
    refused: str = ""

    def is_training(self, network: nn.Module) -> bool:
        """Which graph a network's modes ask for.

        Raises:
            InputError: neither.
        """
        now = {path: _mode(network, path) for path in self.evaluating}
        if now == self.evaluating:
            return False
        if now == self.training and not self.refused:
            return True
        where = next(path for path in now if now[path] is not self.evaluating[path])
        what = "gradients are recorded" if where is None else f"'{where or 'the network'}' is in train mode"
        why = self.refused or "other modules are not, and it was planned with all of them in the same mode"
        if where is not None and self.evaluating[where]:
            what = what.replace("train", "eval")
        raise InputError(
            f"what this network computes depends on its mode, and {what}, in which it was not captured: {why}."
            " Call eval() first (or, with gradients recorded, torch.no_grad()), or run the model itself, moved by"
            " plan.apply_ in mode='weights'"
        )


def _mode(network: nn.Module, path: str | None) -> bool:
    if path is None:
        return torch.is_grad_enabled()
    module = network
    for name in path.split(".") if path else ():
        child = module._modules.get(name)
        if child is None:
            break
        module = child
    return module.training


def choosing(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of an emitted network that chooses between two graphs (`TeleportedModule.choice`)."""

    @functools.wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.choice.is_training(self):
            return self.in_training.forward(*args, **kwargs)
        return forward(self, *args, **kwargs)

    return wrapper


# -- tracing -----------------------------------------------------------------------------------------------------------


def trace_training(
    tracer: Tracer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tracer | None, Choice | None]:
    """The trace in train mode of what was traced in eval mode, and what chooses; None where one graph does for both."""
    settle = functools.partial(_settle, tracer)
    if tracer.is_whole:
        settle(())
        return None, None
    refused = _ask_for_own_train(tracer)
    if not tracer.modes.asked:
        settle(())
        return None, None
    makes_all, hashes = tracer.makes_all, tracer.hashes
    other = tracer
    while not refused:
        other = type(tracer)(tracer.model, makes_all, hashes, training=True)
        other.memo, other.added = tracer.memo, dict(tracer.added)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", OpaqueModuleWarning)
                other.trace(args, kwargs)
            if not next_run_is_alike(other, args, kwargs):
                refused = "its forward sets an attribute, and computes something else in the next run"
        except meta_eval.WrittenConstant:
            makes_all = True
            continue
        except meta_eval.HashedSize:
            hashes = True
            continue
        except RecursionError:
            raise
        except Exception as error:
            refused = str(error.__cause__ or error).strip().splitlines()[0][:200]
        finally:
            other.end()
        break
    new = sorted(other.opaque.keys() - tracer.opaque.keys())
    if not refused and new:
        refused = f"'{new[0]}' could not be traced: {other.opaque[new[0]]}"
    if not refused and alike(tracer.graph, other.graph, tracer.added, other.added):
        settle(_following(tracer.graph, other.graph))
        return None, None
    settle(())
    if other is not tracer:
        _settle(other, ())
    asked = tracer.modes.asked | dict.fromkeys(other.modes.asked)
    trained = {path: True if other is tracer else other.mode_of(path) for path in asked}
    choice = Choice({path: tracer.mode_of(path) for path in asked}, trained, refused)
    if refused:
        for path in asked:
            what = "whether gradients are recorded" if path is None else "its mode"
            said = f"{what} is asked for: eval mode was traced, train mode is refused ({refused})"
            tracer.rest_on("mode", said, path=path or "")
        return None, choice
    return other, choice


def _ask_for_own_train(tracer: Tracer) -> str:
    """Note that the mode matters where the model's own `train` sets what the trace rests on.

    Returns why there can be no graph of train mode, or "".
    """
    trained = own_train(tracer.model, True)
    read, unseen = tracer.reads.read(), tuple(f"{path}." for path in tracer.opaque)
    set_by_it = [
        (path, name)
        for path, name in trained.attributes.keys() | tracer.started.attributes.keys()
        if (path, name) in read or is_leaf(tracer.parts[path]) or f"{path}.".startswith(unseen)
    ]
    if not (set_by_it or trained.computes):
        return ""
    tracer.modes.asked |= {path: tracer.mode_of(path) for path in trained.owners}
    for where in set_by_it:
        tracer.reads.written.add(where)
    return "the model's own train() computes with tensors, which may change weights" if trained.computes else ""


def _following(evaluated: fx.Graph, trained: fx.Graph) -> set[str]:
    """The dropouts that drop in train mode."""
    pairs = zip(evaluated.nodes, trained.nodes, strict=True)
    return {str(a.target) for a, b in pairs if info(a).is_idle_dropout and b.op == "call_function"}


def _settle(tracer: Tracer, following: Any) -> None:
    """A dropout that was asked not to drop never does, unless it was asked to in train mode."""
    for node in tracer.graph.nodes:
        if info(node).is_idle_dropout and node.target in tracer.added and node.target not in following:
            tracer.added[str(node.target)].p = 0.0  # type: ignore[union-attr]
