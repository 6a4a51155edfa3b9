"""Messages: which texts of a size fix it."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fxteleport.passes.capture.size_texts import is_message

LOG = logging.getLogger(__name__)


class Size:
    """A number that notes whether its text is part of a message only."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def __format__(self, spec: str) -> str:
        frame = sys._getframe(1)
        self.seen.append(is_message(frame if frame.f_code.co_name != "__str__" else sys._getframe(2)))
        return format(3, spec)

    def __str__(self) -> str:
        return format(self)


def asserted(n: Any) -> None:
    torch._assert(True, f"{n} is odd")


def asserted_with_more(n: Any) -> None:
    torch._assert(len("x") == 1, f"of {2!s}: {n:03d}, not {len('x')}")


def printed(n: Any) -> None:
    print(n)


def printed_as_text(n: Any) -> None:
    print("n", str(n))


def warned(n: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.warn(f"{n} is much", stacklevel=1)


def logged(n: Any) -> None:
    LOG.error("%s is much", n)


def looked_up(n: Any) -> Any:
    return {"3": 1}[f"{n}"]


def asked_for(n: Any) -> Any:
    return getattr(LOG, f"table_{n}", None)


def kept(n: Any) -> None:
    name = f"table_{n}"
    print(name)


def compared(n: Any) -> bool:
    return f"{n}" == "3"


def branched(n: Any) -> int:
    return 1 if str(n) == "3" else 2


def contained(n: Any) -> None:
    print(f"{n}" in ("3", "4"))


def asked(n: Any) -> None:
    print(f"{n}".startswith("3"))


def measured(n: Any) -> None:
    print(len(f"{n}"))


def indexing(n: Any) -> None:
    print({"3": 1}[f"{n}"])


@pytest.mark.parametrize("use", [asserted, asserted_with_more, printed, printed_as_text, warned, logged])
def test_a_message(use: Callable[[Any], Any], capsys: Any) -> None:
    size = Size()
    use(size)
    assert size.seen
    assert all(size.seen)


@pytest.mark.parametrize(
    "use",
    [looked_up, asked_for, kept, compared, branched, contained, asked, measured, indexing],
    ids=lambda f: f.__name__,
)
def test_more_than_a_message(use: Callable[[Any], Any], capsys: Any) -> None:
    size = Size()
    use(size)
    assert size.seen
    assert not any(size.seen)
