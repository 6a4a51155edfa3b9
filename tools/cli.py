"""The command line: `fxteleport COMMAND ...`. Every command is a function in a file of its own.

A command imports torch only when it runs, so that help and errors in a call are shown at once.

Exit status: 0 done or passed, 1 a check failed, 2 the call or the input is wrong (with one line on standard error), 130
interrupted, 141 the reader of the output has closed it (`check ... | head -1`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from fxteleport import __version__
from fxteleport.passes.errors import TeleportError
from fxteleport.tools.commands.bench import bench
from fxteleport.tools.commands.check import check
from fxteleport.tools.commands.coverage import coverage
from fxteleport.tools.commands.equalize import equalize
from fxteleport.tools.commands.fit_range import fit_range
from fxteleport.tools.commands.inspect import inspect
from fxteleport.tools.commands.paper import paper
from fxteleport.tools.commands.teleport import teleport
from fxteleport.tools.console import one_line
from fxteleport.tools.options.dataclass_options import register, without_types

_INTERRUPTED, _NOT_READ = 130, 141  # 128 + SIGINT and 128 + SIGPIPE, as shells have it
UsageError: Any = typer.BadParameter.__mro__[1]  # typer has its own copy of click


class Commands(TyperGroup):
    """Runs a command and turns every expected error into one line and an exit status."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        try:
            status = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra) or 0
        except typer.Abort:
            status = _INTERRUPTED
        except (TeleportError, OSError) as error:
            status = _report(one_line(error))
        except UsageError as error:
            status = _usage(error)
        if standalone_mode:
            sys.exit(status)
        return status

    def get_params(self, ctx: Any) -> Any:
        return without_types(super().get_params(ctx))

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _ended_from_outside():  # it prints the help
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _ended_from_outside():
            return super().invoke(ctx)


@contextlib.contextmanager
def _ended_from_outside() -> Iterator[None]:
    """Turn an interrupt, or a closed output, into its exit status; the command has ended its workers by now."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("fxteleport: interrupted\n")
        raise typer.Exit(_INTERRUPTED) from None
    except (BrokenPipeError, SystemExit) as end:  # the reader has closed the output, as `head` does
        if isinstance(end, SystemExit) and not isinstance(end.__context__, BrokenPipeError):
            raise  # rich turns it into an exit
        _discard_output()
        raise typer.Exit(_NOT_READ) from None


def _discard_output() -> None:
    """Write nothing more to a closed standard output, also when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(error: Any) -> int:
    """Report a wrong call; for a call without arguments, show the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
    return _report(one_line(Exception(error.format_message())) + hint)


def _report(message: str) -> int:
    sys.stderr.write(f"fxteleport: error: {message}\n")
    return 2


app = typer.Typer(
    cls=Commands,
    name="fxteleport",
    help="Neural teleportation of any PyTorch network: another place in weight space, the same function.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for command in (teleport, check, inspect, equalize, fit_range, coverage, paper, bench):
    register(app, command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Print the version and leave."
    ),
) -> None:
    """Print the version before a command is missed."""


def main() -> None:
    """The entry point: quiet libraries, characters that any terminal can show, and no workers left after a kill."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app()


if __name__ == "__main__":
    main()
