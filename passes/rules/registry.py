"""The registry of rules, one for each operation: the constraint that keeps the network's function.

A rule is a function `rule(call, ...)` whose parameters are named and ordered as those of the function in
`torch.nn.functional` or torch, so one rule serves every spelling: a module's attributes fill in the parameters that its
call does not give. It returns the CobMap of the output, or raises `Decline`. It must use every operand that may carry a
CoB (`Rule.apply` checks that), so that a call with arguments that its author did not foresee is declined.

    @rule(*named("gelu"), nn.GELU, shape=same)
    def gelu(call, input, approximate="none"): ...
"""

from __future__ import annotations

import functools
import inspect
import itertools
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxteleport.passes.errors import Decline, RuleError
from fxteleport.passes.rules.axes import Axes
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.operand import Operand
from fxteleport.passes.rules.uses import Uses


@dataclass(frozen=True, slots=True)
class Rule:
    """A registered rule: its function, its parameters with their defaults, the operation's shape, axes and form."""

    name: str
    fn: Callable[..., Any]
    parameters: tuple[tuple[str, Any], ...]
    open: bool
    shape: Callable[..., Any] | None = None
    along: Callable[..., Any] | None = None
    form: Callable[..., Any] | None = None
    axes: Axes = Axes.NUMBERED

    REQUIRED: ClassVar[Any] = inspect.Parameter.empty

    def apply(
        self, call: Call, operands: Sequence[Operand], positional: Sequence[Any], named: Mapping[str, Any]
    ) -> Any:
        """The maps of the results of a call, and its constraints.

        Args:
            operands: all tensors among the arguments of the call.
            positional, named: the arguments as `bound` gives them.

        Raises:
            Decline: the rule does not cover this call, or does not use each operand that may carry a CoB. To use one
                is to read its `map`, to decide it (`call.require`), or to say that only its shape matters
                (`call.shape_only`).
        """
        uses = Uses()
        for operand in operands:
            operand.note_uses(uses)
        result = self.fn(call, *positional, **named)
        if any(operand not in uses and operand.moves for operand in operands):
            raise Decline("its rule does not look at one of its tensors")
        return result


RULES: dict[Any, Rule] = {}


def rule(
    *targets: Any,
    shape: Callable[..., Any] | None = None,
    along: Callable[..., Any] | None = None,
    form: Callable[..., Any] | None = None,
    axes: Axes = Axes.NUMBERED,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a rule for functions, module classes and method names (strings).

    Args:
        shape: the shape function of these operations (`shape_functions/`); without one they are run on other sizes.
        along: which axes they leave as they are, position by position (`folds.py`); without it, none is assumed to be.
        form: how the result depends on one tensor (`forms.py`); without it, no region has these operations.
        axes: how they count axes (`axes.py`), which decides whether the graph holds for inputs of other ranks.

    Raises:
        RuleError: a target already has a rule, or is none of these.
    """

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        parameters = list(inspect.signature(fn).parameters.values())[1:]
        entry = Rule(
            fn.__name__,
            fn,
            tuple(
                (("*" if p.kind is p.VAR_POSITIONAL else "") + p.name, p.default)
                for p in parameters
                if p.kind is not p.VAR_KEYWORD
            ),
            any(p.kind is p.VAR_KEYWORD for p in parameters),
            shape,
            along,
            form,
            axes,
        )
        for target in dict.fromkeys(targets):
            if not (callable(target) or isinstance(target, str)):
                raise RuleError(f"a rule's target is a function, a module class or a method name, not {target!r}")
            if target in RULES:
                raise RuleError(f"{target!r} already has the rule '{RULES[target].name}'")
            RULES[target] = entry
        return fn

    return register


def named(names: str) -> list[Any]:
    """Every spelling of operations: method, `torch.x`, `F.x`, `operator.x`, their aliases and in-place forms."""
    spellings: list[Any] = []
    for name in itertools.chain.from_iterable((word, *_aliases().get(word, ())) for word in names.split()):
        for spelling in (name, name + "_"):
            if hasattr(torch.Tensor, spelling):
                spellings.append(spelling)
            spellings += [
                getattr(space, spelling)
                for space in (torch, F, operator, torch.special, torch.Tensor)
                if callable(getattr(space, spelling, None)) and space is not torch.Tensor
            ]
        for magic in (f"__{name}__", f"__r{name}__", f"__i{name}__"):
            if hasattr(torch.Tensor, magic):
                spellings.append(magic)
        if hasattr(operator, f"i{name}"):
            spellings.append(getattr(operator, f"i{name}"))
    return list(dict.fromkeys(spellings))


@functools.cache
def _aliases() -> dict[str, list[str]]:
    """For each operation the other names that torch has for it, as its documentation says ("Alias for ...")."""
    twins: dict[str, set[str]] = {}
    for space in (torch, torch.special, torch.linalg, torch.Tensor, F):
        for alias, value in vars(space).items():
            text = getattr(value, "__doc__", None)
            if isinstance(text, str) and "Alias " in text and callable(value) and (twin := _ALIAS.search(text)):
                both = {alias, twin.group(1)}
                both = both.union(*(twins.get(name, ()) for name in both))
                twins.update(dict.fromkeys(both, both))
    return {name: sorted(both - {name}) for name, both in twins.items()}


_ALIAS = re.compile(r"\bAlias (?:for|of) :(?:func|meth):`~?(?:\w+\.)*(\w+)`")


def lookup(op: str, target: Any) -> Rule | None:
    """The rule of a node's target: a function, a method name, or (for a module) the nearest class."""
    if op == "call_module":
        for cls in type(target).__mro__:
            if cls in RULES and cls is not nn.Module:
                return RULES[cls]
        return None
    return RULES.get(getattr(target, "_qualified_op_name", target))  # "namespace::name" of a library's own


def bound(
    rule: Rule,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    module: nn.Module | None,
    tensor: Callable[[str], Any],
) -> tuple[list[Any], dict[str, Any]]:
    """Bind a call's arguments to the rule's parameters; a module's settings are bound by name.

    Keyword arguments that the rule does not name are passed on, where it takes any. `tensor` gives a parameter or
    buffer of the module as an argument.

    Returns:
        the positional arguments for the rule, and the other keyword arguments.

    Raises:
        Decline: the rule does not cover this call.
    """
    rest, out = dict(kwargs), []
    given = list(args)
    for i, (name, default) in enumerate(rule.parameters):
        if name[0] == "*":
            out += given[i:]
            given = given[:i]
        elif i < len(given):
            out.append(given[i])
        elif rest and (alias := next((n for n in (name, *_ALIASES.get(name, ())) if n in rest), None)):
            out.append(rest.pop(alias))
        elif module is not None and (value := _setting(module, name)) is not _ABSENT:
            out.append(tensor(name) if isinstance(value, Tensor) else value)
        elif default is not rule.REQUIRED:
            out.append(default)
        else:
            raise Decline(f"its argument '{name}' is missing")
    unnamed = {}
    if rest:
        known = {name for name, _ in rule.parameters}
        unnamed = {k: v for k, v in rest.items() if k not in known}
    if len(given) > len(rule.parameters) or (unnamed and not rule.open):
        raise Decline(f"its rule does not know the arguments {[*unnamed, *given[len(rule.parameters) :]]}")
    return out, unnamed


_ABSENT = object()


def _setting(module: nn.Module, name: str) -> Any:
    """`getattr(module, name, _ABSENT)`; torch's own asks the tables of tensors last, and in Python."""
    for table in (module.__dict__, module._parameters, module._buffers):
        if name in table:
            return table[name]
    return getattr(module, name, _ABSENT)


# Other names of arguments: numpy's, which torch takes beside its own, and those of operations that share a rule.
_ALIASES = {
    "dim": ("axis",), "keepdim": ("keepdims",), "input": ("x", "a", "x1", "A"), "other": ("x2", "B"),
    "mat1": ("batch1",), "mat2": ("batch2", "other", "vec", "tensor"), "index": ("indices",), "value": ("values",),
}  # fmt: skip
