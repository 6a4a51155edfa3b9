"""Selection: which models a call means, where it names them by pattern or by family."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from fxteleport.models import zoo
from fxteleport.passes.errors import InputError, ModelError
from fxteleport.tools.models.load import split

_TORCHVISION = "torchvision/"


def select(specs: Iterable[str], families: Sequence[str] = ()) -> list[str]:
    """The models meant, each once, in the order of the call.

    A spec with `*`, `?` or `[` is a pattern of timm names, or after `torchvision/` of torchvision's. A family is the
    module of timm (or, after `torchvision/`, of torchvision) that its models are defined in.

    Raises:
        ModelError: a pattern or a family matches nothing.
        InputError: the call names no model at all.
    """
    found: list[str] = []
    for spec in specs:
        found += matching(spec) if split(spec)[0] is None and any(c in spec for c in "*?[") else [spec]
    for family in families:
        found += members(family)
    if not found:
        raise InputError("there is nothing to check: name a MODEL, a pattern such as 'resnet*', or a --family")
    return list(dict.fromkeys(found))


def matching(pattern: str) -> list[str]:
    """The names that match a pattern.

    Raises:
        ModelError: there are none.
    """
    library = zoo.LIBRARIES[pattern.startswith(_TORCHVISION)]
    found = [n for n in zoo.names(library) if fnmatch.fnmatchcase(n, pattern)]
    if not found:
        raise ModelError(f"no model matches '{pattern}'")
    return found


def members(family: str) -> list[str]:
    """The names in a family.

    Raises:
        ModelError: there is no such family.
    """
    ours = family.startswith(_TORCHVISION)
    families = {n: _TORCHVISION * ours + zoo.family(n) for n in zoo.names(zoo.LIBRARIES[ours])}
    found = [n for n, of in families.items() if of == family]
    if not found:
        hint = zoo.suggestion(family, set(families.values())) or ": a family is a module of timm.models, as resnet"
        raise ModelError(f"there is no family '{family}'{hint}")
    return found
