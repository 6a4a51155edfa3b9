"""Command: a function on the command line; a dataclass among its parameters stands for one option a field.

So options that belong together are declared, checked and passed on together, once for all commands that have them.

Why typer, which knows no dataclasses, and not a library that does: docs/cli.md, "How it is made".
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from fxteleport.tools.console import reserved_output
from fxteleport.tools.options import model_kwargs


def option(
    name: str, panel: str, text: str, metavar: str | None = None, values: Sequence[str] = (), **more: Any
) -> Any:
    """An option in a panel of the help; a shell completes its value, one of `values` or of a metavar "a|b"."""
    if values or (metavar is not None and "|" in metavar):
        more["autocompletion"] = _completion(list(values) or str(metavar).split("|"))
    return typer.Option(name, rich_help_panel=panel, help=text, metavar=metavar, **more)


def _completion(values: list[str]) -> Callable[[str], list[str]]:
    """The completion of an option's value: the values that begin with the typed text."""

    def begun(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return begun


class Command(TyperCommand):
    """A command whose help shows no type for an option without a value; `--model-kwargs` takes several values."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        return super().parse_args(ctx, list(model_kwargs.spread(args)))

    def get_params(self, ctx: Any) -> Any:
        return without_types(super().get_params(ctx))


def without_types(parameters: Any) -> Any:
    """Remove the type from the help of parameters without a value."""
    for each in parameters:
        if getattr(each, "is_flag", False) and each.metavar is None:
            each.metavar = ""
    return parameters


def register(app: typer.Typer, function: Callable[..., None]) -> None:
    """Register a function as a command."""
    app.command(cls=Command)(expanded(function))


def expanded(function: Callable[..., None]) -> Callable[..., None]:
    """The function with every dataclass among its parameters replaced by the fields that are options."""
    # Not by `get_type_hints`: before Python 3.11 it wraps what may be None once more, and typer sees no option there.
    parameters = inspect.signature(function, eval_str=True).parameters
    hints = {name: parameter.annotation for name, parameter in parameters.items()}
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    parts = {name: list(_options(kind)) for name, kind in groups.items()}

    @functools.wraps(function)
    def run(**given: Any) -> None:
        made = {n: kind(**{p.name: given.pop(p.name) for p in parts[n]}) for n, kind in groups.items()}
        with reserved_output():
            function(**given, **made)

    flat: list[inspect.Parameter] = []
    for name, parameter in parameters.items():
        flat += parts.get(name, [parameter.replace(kind=parameter.KEYWORD_ONLY)])
    run.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in flat}
    return run


def _options(kind: Any) -> Iterator[inspect.Parameter]:
    """The fields of a dataclass that are declared as options."""
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if get_origin(hints[field.name]) is Annotated:
            yield inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
            )
