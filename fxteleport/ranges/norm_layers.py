"""Norms with fixed statistics: in eval mode each is `scale * x + shift`, with one scale and shift a channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxteleport.ranges.layers import NamedTensor, arguments

_RULES = ("batch_norm", "instance_norm")
_MOST_EPS = 7  # the index of eps among the arguments of `F.batch_norm` and `F.instance_norm`


@dataclass(frozen=True)
class Norm:
    """A call of a batch norm (or of an instance norm with running statistics) in eval mode.

    Attributes:
        node: the call.
        input: the node of its input, channels along axis 1.
        name: its module's path, or the node's name.
        scale, shift: float64 [channels].
        kept: why it cannot be folded; then it has neither.
    """

    node: fx.Node
    input: fx.Node
    name: str
    scale: Tensor | None
    shift: Tensor | None
    kept: str = ""


def norm_of(
    node: fx.Node, module_at: Callable[[str], nn.Module | None], tensor: Callable[[str], Tensor]
) -> Norm | None:
    """The norm that a node calls, or None where it calls none of these."""
    if node.op not in ("call_module", "call_function"):
        return None
    read = arguments(node, module_at)
    if read is None or read[0] not in _RULES or not isinstance(read[1]["input"], fx.Node):
        return None
    rule, given = read
    module = module_at(str(node.target)) if node.op == "call_module" else None
    name = str(node.target) if module is not None else node.name
    parts = [given.get(part) for part in ("running_mean", "running_var", "weight", "bias")]
    why = _kept(rule, given, parts, module, node)
    if why:
        return Norm(node, given["input"], name, None, None, why)
    mean, var, weight, bias = (tensor(p.name).detach().double() if isinstance(p, NamedTensor) else None for p in parts)
    assert mean is not None and var is not None
    scale = torch.rsqrt(var + _eps(node, module))
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    return Norm(node, given["input"], name, scale, shift if bias is None else shift + bias)


def _kept(rule: str, given: dict[str, Any], parts: list[Any], module: nn.Module | None, node: fx.Node) -> str:
    mean, var, *affine = parts
    if mean is None or var is None:
        return "it has no running statistics: it normalises each batch by its own"
    if given.get("training") is True or (rule == "instance_norm" and (module is None or not module.training) is False):
        return "it is in train mode, in which it normalises each batch by its own statistics: call eval() first"
    if rule == "instance_norm" and module is None and _at(node, 5, "use_input_stats", True):
        return "it normalises each input by its own statistics"
    if not all(isinstance(p, NamedTensor) for p in (mean, var)) or any(isinstance(p, fx.Node) for p in affine):
        return "its statistics or its gain are computed, no parameters or buffers"
    if given.get("training") not in (None, False):
        return "whether it is in train mode is computed"
    return ""


def _eps(node: fx.Node, module: nn.Module | None) -> float:
    return float(module.eps if module is not None else _at(node, _MOST_EPS, "eps", 1e-5))  # type: ignore[arg-type]


def _at(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
