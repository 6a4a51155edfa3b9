"""`--model-kwargs`, in timm's spelling: one or more NAME=VALUE, each value a Python literal or a text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import Any

from fxteleport.passes.errors import InputError

NAME = "--model-kwargs"
_PAIR = re.compile(r"[A-Za-z_]\w*=")


def spread(arguments: Iterable[str]) -> Iterator[str]:
    """`--model-kwargs a=1 b=2` as options that take one value each: `--model-kwargs a=1 --model-kwargs b=2`."""
    pairs: int | None = None  # that followed the option so far
    for argument in arguments:
        if pairs is not None and _PAIR.match(argument):
            if pairs:
                yield NAME
            pairs += 1
        else:
            pairs = 0 if argument == NAME else None
        yield argument


def parsed(pairs: Iterable[str]) -> dict[str, Any]:
    """The arguments by name.

    Raises:
        InputError: a pair is no NAME=VALUE, or a name is given twice.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"{NAME} takes NAME=VALUE such as num_classes=10; got '{pair}'")
        if name in values:
            raise InputError(f"{NAME} gives '{name}' twice")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values
