"""The networks of timm and torchvision in a survey."""

from __future__ import annotations

import fnmatch

from fxteleport.models import zoo
from fxteleport.passes.errors import InputError
from fxteleport.tools.options import common


def chosen(pattern: str, family: str | None, library: str) -> list[str]:
    """The networks that the options name.

    Raises:
        InputError: there are none.
    """
    common.one_of("--library", library, (*zoo.LIBRARIES, common.ALL))
    libraries = zoo.LIBRARIES if library == common.ALL else (library,)
    known = [n for each in libraries for n in zoo.names(each)]
    selected = [
        n for n in known if fnmatch.fnmatch(n.removeprefix("torchvision/"), pattern) or fnmatch.fnmatch(n, pattern)
    ]
    if family is not None:
        selected = [n for n in selected if zoo.family(n) == family]
    if not selected:
        hint = zoo.suggestion(family, {zoo.family(n) for n in known}) if family else ""
        raise InputError(f"no network is called '{pattern}'{f' in the family {family!r}' if family else ''}{hint}")
    return selected
