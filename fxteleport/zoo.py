"""Zoo: networks by name, from timm and (as `torchvision/NAME`) from torchvision.

Neither library is imported before a name is looked up.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from fxteleport.errors import ModelError

_TORCHVISION = "torchvision/"
Shapes = tuple[tuple[int, ...], ...]


def check_name(name: str) -> None:
    """Raise ModelError, with close matches, unless timm or torchvision has a network of this name."""
    if name.startswith(_TORCHVISION):
        from torchvision import models

        short = name.removeprefix(_TORCHVISION)
        if short.startswith("quantized_"):
            raise ModelError(f"'{name}' is quantised: teleport the float model, '{name.replace('quantized_', '')}'")
        known = models.list_models()
        if short not in known:
            raise _unknown(name, [_TORCHVISION + n for n in known if not n.startswith("quantized_")])
        family = models.get_model_builder(short).__module__
        if ".detection." in family:
            raise ModelError(f"'{name}' takes lists of images, so it has no fixed graph: teleport its backbone")
    else:
        import timm

        if not timm.is_model(name.partition(".")[0]):
            raise _unknown(name, [*timm.list_models(), *(_TORCHVISION + n for n in _torchvision_names())])


def build(name: str, input_size: tuple[int, ...] | None = None, pretrained: bool = False) -> tuple[nn.Module, Shapes]:
    """Build a network by name, in eval mode, and say which input shapes (without the batch axis) it takes.

    Args:
        name: a timm name, or "torchvision/NAME".
        input_size: (C, H, W) instead of the network's own; given to its constructor where that wants to know.
        pretrained: with its published weights (downloaded unless cached).

    Raises:
        ModelError: the name is unknown or the network cannot be built.
    """
    check_name(name)
    make = _torchvision if name.startswith(_TORCHVISION) else _timm
    try:
        model, shapes = make(name, input_size, pretrained)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"'{name}' cannot be built: {type(error).__name__}: {error}") from error
    return model.eval(), shapes


def _timm(name: str, input_size: tuple[int, ...] | None, pretrained: bool) -> tuple[nn.Module, Shapes]:
    import timm

    def make(**settings: Any) -> nn.Module:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **settings)
        return model

    if input_size is None:
        model = make()
        return model, (tuple(getattr(model, "pretrained_cfg", {}).get("input_size", (3, 224, 224))),)
    channels = {"in_chans": input_size[0]} if len(input_size) == 3 and input_size[0] != 3 else {}
    return _first(make, [{"img_size": input_size[1:], **channels}, channels]), (input_size,)


def _torchvision(name: str, input_size: tuple[int, ...] | None, pretrained: bool) -> tuple[nn.Module, Shapes]:
    from torchvision import models

    short = name.removeprefix(_TORCHVISION)
    builder = models.get_model_builder(short)
    if pretrained and not list(models.get_model_weights(short)):
        raise ModelError(f"torchvision has no pretrained weights for '{name}'")
    settings: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    if "weights_backbone" in inspect.signature(builder).parameters:
        settings["weights_backbone"] = None

    def make(**more: Any) -> nn.Module:
        model: nn.Module = models.get_model(short, **settings, **more)
        return model

    if input_size is None:
        shape = _torchvision_size(short)
        return make(), (shape, shape) if ".optical_flow." in builder.__module__ else (shape,)
    return _first(make, [{"image_size": input_size[-1]}, {"input_size": input_size[-2:]}, {}]), (input_size,)


def _torchvision_size(short: str) -> tuple[int, ...]:
    """The crop that its published weights were tested with, else what its kind of network usually takes."""
    from torchvision import models

    family = models.get_model_builder(short).__module__
    if ".optical_flow." in family:
        return (3, 128, 128)
    weights = next(iter(models.get_model_weights(short)), None)
    crop = getattr(getattr(weights, "transforms", None), "keywords", {}).get("crop_size", 224)
    height, width = (crop, crop) if isinstance(crop, int) else tuple(crop)
    return (3, 16, height, width) if ".video." in family else (3, height, width)


def _first(make: Callable[..., nn.Module], attempts: Iterable[dict[str, Any]]) -> nn.Module:
    """The model from the first settings its constructor knows."""
    *others, last = attempts
    for settings in others:
        with contextlib.suppress(TypeError):
            return make(**settings)
    return make(**last)


def _torchvision_names() -> list[str]:
    from torchvision import models

    return [n for n in models.list_models() if not n.startswith("quantized_")]


def suggestion(name: str, known: Iterable[str]) -> str:
    """The names closest to a wrong one, as the end of an error message; "" if none is close."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f": did you mean {' or '.join(close)}?" if close else ""


def _unknown(name: str, known: list[str]) -> ModelError:
    hint = suggestion(name, known) or ": pass a timm name, torchvision/NAME or FILE.py:FACTORY"
    return ModelError(f"there is no model '{name}'{hint}")
