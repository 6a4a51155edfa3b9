"""Selection: which models a call means, where it names them by pattern or by family."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from fxteleport.errors import InputError, ModelError
from fxteleport.tools.models import split
from fxteleport.zoo import suggestion

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
    names = _torchvision() if pattern.startswith(_TORCHVISION) else _timm()
    found = [n for n in names if fnmatch.fnmatchcase(n, pattern)]
    if not found:
        raise ModelError(f"no model matches '{pattern}'")
    return found


def members(family: str) -> list[str]:
    """The names in a family.

    Raises:
        ModelError: there is no such family.
    """
    if family.startswith(_TORCHVISION):
        from torchvision.models import get_model_builder

        modules = {n: get_model_builder(n.removeprefix(_TORCHVISION)).__module__ for n in _torchvision()}
        known = {_TORCHVISION + m.rpartition(".")[2] for m in modules.values()}
        found = [n for n, m in modules.items() if _TORCHVISION + m.rpartition(".")[2] == family]
    else:
        import timm

        known = set(timm.list_modules())
        found = _timm(family) if family in known else []
    if not found:
        hint = suggestion(family, known) or ": a family is a module of timm.models, for example resnet"
        raise ModelError(f"there is no family '{family}'{hint}")
    return found


def _timm(module: str = "") -> list[str]:
    import timm

    return [str(n) for n in timm.list_models(module=module)]


def _torchvision() -> list[str]:
    """torchvision's networks, without the quantised ones and those that take lists of images."""
    from torchvision.models import get_model_builder, list_models

    kept = [n for n in list_models() if not n.startswith("quantized_")]
    return [_TORCHVISION + n for n in kept if ".detection." not in get_model_builder(n).__module__]
