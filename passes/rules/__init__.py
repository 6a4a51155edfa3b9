"""The rules: for each operation, the constraint that keeps the network's function, in one place.

A rule is a function `rule(call, ...)` whose parameters are named and ordered as in the operation's functional
form (`torch.nn.functional`'s or torch's), so one rule serves every spelling: a module's attributes fill in the
parameters that its call does not give. It returns the CobMap of the output, or raises `Decline`.

    @rule(*named("gelu"), nn.GELU)
    def gelu(call, input, approximate="none"): ...
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from fxteleport.errors import RuleError


@dataclass(frozen=True, slots=True)
class Rule:
    """A registered rule: its function, and its parameters with their defaults."""

    name: str
    fn: Callable[..., Any]
    parameters: tuple[tuple[str, Any], ...]
    open: bool

    REQUIRED: ClassVar[Any] = inspect.Parameter.empty


RULES: dict[Any, Rule] = {}


def rule(*targets: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a rule for functions, module classes and method names (strings).

    Raises:
        RuleError: a target already has a rule, or is none of these.
    """

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        parameters = list(inspect.signature(fn).parameters.values())[1:]
        made = Rule(
            fn.__name__,
            fn,
            tuple(
                (("*" if p.kind is p.VAR_POSITIONAL else "") + p.name, p.default)
                for p in parameters
                if p.kind is not p.VAR_KEYWORD
            ),
            any(p.kind is p.VAR_KEYWORD for p in parameters),
        )
        for target in dict.fromkeys(targets):
            if not (callable(target) or isinstance(target, str)):
                raise RuleError(f"a rule's target is a function, a module class or a method name, not {target!r}")
            if target in RULES:
                raise RuleError(f"{target!r} already has the rule '{RULES[target].name}'")
            RULES[target] = made
        return fn

    return register


def named(names: str) -> list[Any]:
    """Every spelling of operations: method, `torch.x`, `F.x`, `operator.x`, and their in-place forms."""
    found: list[Any] = []
    for name in names.split():
        for spelling in (name, name + "_"):
            if hasattr(torch.Tensor, spelling):
                found.append(spelling)
            found += [
                getattr(space, spelling)
                for space in (torch, F, operator, torch.special, torch.Tensor)
                if callable(getattr(space, spelling, None)) and space is not torch.Tensor
            ]
        for magic in (f"__{name}__", f"__r{name}__", f"__i{name}__"):
            if hasattr(torch.Tensor, magic):
                found.append(magic)
        if hasattr(operator, f"i{name}"):
            found.append(getattr(operator, f"i{name}"))
    return list(dict.fromkeys(found))


def lookup(op: str, target: Any) -> Rule | None:
    """The rule of a node's target: a function, a method name, or (for a module) the nearest class."""
    if op == "call_module":
        return next((RULES[c] for c in type(target).__mro__ if c in RULES and c is not nn.Module), None)
    return RULES.get(getattr(target, "_qualified_op_name", target))  # "namespace::name" of a library's own


from fxteleport.passes.rules import (  # noqa: E402  the registry fills itself
    bilinear,
    equivariant,
    fourier,
    homogeneous,
    joining,
    movement,
    norm,
    odd,
    opaque,
    ordering,
    packed,
    parameter,
    pointwise,
    regions,
    scattering,
    weighted,
)

__all__ = [
    "RULES",
    "Rule",
    "bilinear",
    "equivariant",
    "fourier",
    "homogeneous",
    "joining",
    "lookup",
    "movement",
    "named",
    "norm",
    "odd",
    "opaque",
    "ordering",
    "packed",
    "parameter",
    "pointwise",
    "regions",
    "rule",
    "scattering",
    "weighted",
]  # fmt: skip
