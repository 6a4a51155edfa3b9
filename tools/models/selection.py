"""Selection: the models that a call names, also by pattern or by family."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from fxteleport.models import zoo
from fxteleport.passes.errors import InputError, ModelError
from fxteleport.tools.models.load import split

_TORCHVISION = "torchvision/"


def select(specs: Iterable[str], families: Sequence[str] = ()) -> list[str]:
    """The models of a call, each once, in its order.

    A spec with `*`, `?` or `[` is a pattern of timm names, or after `torchvision/` of torchvision's. A family is the
    module of timm (or, after `torchvision/`, of torchvision) that its models are defined in.

    Raises:
        ModelError: a pattern or a family matches nothing.
        InputError: the call names no model at all.
    """
    models: list[str] = []
    for spec in specs:
        models += matching(spec) if split(spec)[0] is None and any(c in spec for c in "*?[") else [spec]
    for family in families:
        models += members(family)
    if not models:
        raise InputError("there is nothing to check: name a MODEL, a pattern such as 'resnet*', or a --family")
    return list(dict.fromkeys(models))


def matching(pattern: str) -> list[str]:
    """The names that match a pattern.

    Raises:
        ModelError: there are none.
    """
    library = zoo.LIBRARIES[pattern.startswith(_TORCHVISION)]
    matches = [n for n in zoo.names(library) if fnmatch.fnmatchcase(n, pattern)]
    if not matches:
        raise ModelError(f"no model matches '{pattern}'")
    return matches


def members(family: str) -> list[str]:
    """The names in a family.

    Raises:
        ModelError: there is no such family.
    """
    ours = family.startswith(_TORCHVISION)
    families = {n: _TORCHVISION * ours + zoo.family(n) for n in zoo.names(zoo.LIBRARIES[ours])}
    matches = [n for n, of in families.items() if of == family]
    if not matches:
        hint = zoo.suggestion(family, set(families.values())) or ": a family is a module of timm.models, as resnet"
        raise ModelError(f"there is no family '{family}'{hint}")
    return matches
