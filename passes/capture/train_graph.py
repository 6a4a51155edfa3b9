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
from torch.fx.node import map_arg

from fxteleport.passes.capture import meta_eval
from fxteleport.passes.capture.opaque_leaves import Applied, Helper
from fxteleport.passes.errors import InputError, OpaqueModuleWarning
from fxteleport.passes.graph.leaf_modules import DROPOUT
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.storage import equal

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
    if not tracer.modes.asked or tracer.is_whole:
        settle(())
        return None, None
    makes_all, hashes = tracer.makes_all, tracer.hashes
    refused = ""
    while True:
        other = type(tracer)(tracer.model, makes_all, hashes, training=True)
        other.memo, other.added = tracer.memo, dict(tracer.added)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", OpaqueModuleWarning)
                other.trace(args, kwargs)
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
    _settle(other, ())
    asked = tracer.modes.asked | dict.fromkeys(other.modes.asked)
    choice = Choice(
        {path: tracer.mode_of(path) for path in asked}, {path: other.mode_of(path) for path in asked}, refused
    )
    if refused:
        for path in asked:
            what = "whether gradients are recorded" if path is None else "its mode"
            said = f"{what} is asked for: eval mode was traced, train mode is refused ({refused})"
            tracer.rest_on("mode", said, path=path or "")
        return None, choice
    return other, choice


def alike(evaluated: fx.Graph, trained: fx.Graph, added: Added, more: Added) -> bool:
    """True where two graphs make the same calls, but for the modes that layers know by themselves."""
    ones, others = list(evaluated.nodes), list(trained.nodes)
    if len(ones) != len(others):
        return False
    place = {node: _Place(i) for i, node in enumerate(ones)} | {node: _Place(i) for i, node in enumerate(others)}
    return all(_same_call(a, b, place, added, more) for a, b in zip(ones, others, strict=True))


@dataclass(frozen=True)
class _Place:
    """A node by its number."""

    number: int


def _same_call(a: fx.Node, b: fx.Node, place: Mapping[fx.Node, _Place], added: Added, more: Added) -> bool:
    if b.op == "call_function" and b.target in DROPOUT and info(a).is_idle_dropout:
        x, p, _, inplace = b.args
        leaf = added.get(str(a.target))
        drops = type(leaf) is DROPOUT[b.target] and (leaf.p, leaf.inplace) == (p, inplace)
        return drops and place[a.args[0]] == place[x]  # type: ignore[index]
    if not (info(a).follows_mode and info(b).follows_mode):
        return False
    if a.op != b.op or _effects(a) != _effects(b):
        return False
    if a.op == "placeholder":
        return a.target == b.target
    same = a.target == b.target if a.op not in _NAMING else _same_target(str(a.target), str(b.target), added, more)
    one, other = map_arg((a.args, a.kwargs), place.__getitem__), map_arg((b.args, b.kwargs), place.__getitem__)  # type: ignore[arg-type]
    return same and _equal(one, other)


def _effects(node: fx.Node) -> tuple[Any, ...]:
    known = info(node)
    return known.has_effect, known.is_aliased, known.records_gradients


_NAMING = ("get_attr", "call_module")


def _same_target(a: str, b: str, added: Added, more: Added) -> bool:
    """True for one module or tensor of the model's, or two of the trace's own that are alike."""
    if (a in added) is not (b in more):
        return False
    if a not in added:
        return a == b
    one, other = added[a], more[b]
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and one.shape == other.shape and equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, Applied) and isinstance(other, Applied):
        return one.function is other.function
    if isinstance(one, Helper) and isinstance(other, Helper):
        return one.is_like(other)
    return type(one) in _DROPOUTS and (one.p, one.inplace) == (other.p, other.inplace)  # type: ignore[union-attr]


_DROPOUTS = frozenset(DROPOUT.values())


def _equal(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(v, b[k]) for k, v in a.items())
    if isinstance(a, slice):
        return _equal((a.start, a.stop, a.step), (b.start, b.stop, b.step))
    return a is b or bool(a == b)


def _following(evaluated: fx.Graph, trained: fx.Graph) -> set[str]:
    """The dropouts that drop in train mode."""
    pairs = zip(evaluated.nodes, trained.nodes, strict=True)
    return {str(a.target) for a, b in pairs if info(a).is_idle_dropout and b.op == "call_function"}


def _settle(tracer: Tracer, following: Any) -> None:
    """A dropout that was asked not to drop never does, unless it was asked to in train mode."""
    for node in tracer.graph.nodes:
        if info(node).is_idle_dropout and node.target in tracer.added and node.target not in following:
            tracer.added[str(node.target)].p = 0.0  # type: ignore[union-attr]
