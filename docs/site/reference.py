"""Pages that are generated from the code: the Python API, the command line, the rules, the errors."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

# Every public name, where its docstring is. A test compares this with `fxteleport.api.__all__`.
PLAN = ("sample", "identity", "cob", "scales", "rewrite", "apply_", "at")  # its methods: functions of other modules
API = {
    "Plan and teleport": ("plan", "teleport", "Plan", "ChangeOfBasis", "Point", "Condition", "without_weights"),
    "What a plan does": PLAN,
    "Verify": ("verify", "EquivalenceReport", "Difference", "randomize"),
    "Optimise and align": ("optimize", "Optimized", "objectives", "align", "Alignment"),
    "Train": ("Teleportable", "Teleport", "transport", "lightning_callback"),
    "Landscapes": ("landscapes", "curvature", "controls"),
    "Fit into a format": (
        "equalize", "equalized", "Equalized", "fold_norms", "folded_norms", "Folded", "fake_quantize", "fit_range",
        "range_report", "Range", "RangeRow", "checkpoint_tensors",
    ),
    "Files": ("save", "load", "stream"),
    "Modules": ("TeleportedActivation", "Rescale", "Operation"),
}  # fmt: skip


_ERRORS = """# Errors

::: fxteleport.passes.errors
    options:
      show_root_heading: false
"""


def pages() -> dict[str, str]:
    """Path on the site -> text of each generated page."""
    return {
        "reference/python.md": python(),
        "reference/command-line.md": command_line(),
        "reference/rules.md": rules(),
        "reference/errors.md": _ERRORS,
    }


def python() -> str:
    """One mkdocstrings block for each public name."""
    import fxteleport as ft

    lines = ["# Python", "", "`import fxteleport as ft`. Generated from the docstrings; [by task](../api.md).", ""]
    for head, names in API.items():
        lines += [f"## {head}", ""]
        for name in names:
            place = _place(getattr(ft.Plan if names is PLAN else ft, name))
            lines += [f"::: {place}", "    options:", "      heading_level: 3", ""]
    return "\n".join(lines)


def _place(value: Any) -> str:
    return str(value.__name__) if hasattr(value, "__path__") or hasattr(value, "__file__") else _defined(value)


def _defined(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def command_line() -> str:
    """Every command with its arguments and options, from the typer application."""
    import typer

    from fxteleport.tools.cli import app

    group: Any = typer.main.get_command(app)
    context = group.context_class(group, info_name="fxteleport")
    lines = ["# fxteleport", "", "Generated from the application; [with examples](../cli.md).", ""]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = command.context_class(command, parent=context, info_name=name)
        lines += [f"## {name}", "", *_paragraphs(command.help or ""), ""]
        lines += ["```console", f"$ fxteleport {name} {' '.join(command.collect_usage_pieces(inner))}", "```", ""]
        lines += ["| option | what |", "|---|---|"]
        lines += [f"| {_cell(first)} | {_cell(rest)} |" for first, rest in _options(command, inner)]
        lines.append("")
    return "\n".join(lines)


def _options(command: Any, context: Any) -> Iterator[tuple[str, str]]:
    for parameter in command.get_params(context):
        name = ", ".join(f"`{o}`" for o in (*parameter.opts, *parameter.secondary_opts))
        if parameter.param_type_name == "argument":
            name = f"`{parameter.metavar or parameter.name.upper()}`"
        said = _plain(getattr(parameter, "help", "") or "")
        default = getattr(parameter, "default", None)
        shown = isinstance(default, str | int | float) and not isinstance(default, bool) and default != ""
        yield name, said + (f" [default: {default}]" if shown and "default" not in said else "")


def _paragraphs(text: str) -> Iterator[str]:
    """A help text; its examples as code."""
    for line in inspect.cleandoc(text).splitlines():
        before, call, rest = line.partition("fxteleport ")
        yield f"{before}`{call}{rest}`\n" if call and " " in rest else line


def _plain(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    """Text in a table; square brackets and `<` are none of Markdown's."""
    return text.replace("|", r"\|").replace("<", "&lt;")


def rules() -> str:
    """Every registered rule with its operations, by family: what a family's file says of it, then a row a rule."""
    from fxteleport.passes.rules.registry import RULES

    families: dict[str, dict[str, set[str]]] = {}
    for target, rule in RULES.items():
        if rule.fn.__module__.startswith("fxteleport.passes.rules."):
            names = families.setdefault(rule.fn.__module__, {}).setdefault(rule.name, set())
            names.add(operation(target))
    lines = ["# Rules", "", f"{len(RULES)} targets, generated from the registry; [what they say](../rules.md).", ""]
    for module, found in sorted(families.items()):
        lines += [f"## {module.rpartition('.')[2]}", "", (sys.modules[module].__doc__ or "").strip(), ""]
        lines += ["| rule | operations |", "|---|---|"]
        lines += [
            f"| `{name}` | {', '.join(f'`{o}`' for o in sorted(names))} |" for name, names in sorted(found.items())
        ]
        lines.append("")
    return "\n".join(lines)


def operation(target: Any) -> str:
    """The name of a rule's target, without what tells its spellings apart: `add` of `torch.add`, `+` and `add_`."""
    if isinstance(target, type):
        return target.__name__
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    return name if "::" in name or name.strip("_") == "" else name.strip("_")
