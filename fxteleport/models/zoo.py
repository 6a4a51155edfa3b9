"""Zoo: networks by name, from timm and (as `torchvision/NAME`) from torchvision.

Neither library, nor torch, is imported before a name is looked up.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fxteleport.passes.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = ("timm", "torchvision")
_TORCHVISION = "torchvision/"
_SUGGESTED = 3


@dataclass(frozen=True)
class Built:
    """A network by name, in eval mode.

    Attributes:
        shapes: each input's shape without the batch axis.
        listed: it takes a list of images, not a batch (torchvision's detection models).
    """

    model: nn.Module
    shapes: tuple[tuple[int, ...], ...]
    listed: bool = False

    def inputs(self, batch: int, device: str | None = None) -> tuple[Any, ...]:
        """Random arguments for `forward`: standard normal, or uniform on [0, 1] for images in a list."""
        import torch

        if self.listed:
            return ([torch.rand(*shape, device=device) for shape in self.shapes * batch],)
        return tuple(torch.randn(batch, *shape, device=device) for shape in self.shapes)

    def sized(self, input_size: tuple[int, ...]) -> Built:
        """The same network, to be run on inputs of another size."""
        return Built(self.model, (input_size,) * len(self.shapes), self.listed)


def names(library: str) -> list[str]:
    """Every float network of "timm" or "torchvision", as MODEL arguments."""
    if library == "timm":
        import timm

        return list(timm.list_models())
    from torchvision import models

    return [_TORCHVISION + n for n in models.list_models() if not n.startswith("quantized_")]


def family(name: str) -> str:
    """The file of its library in which a network is defined: "resnet", "detection.ssd"."""
    if name.startswith(_TORCHVISION):
        return _torchvision_module(name.removeprefix(_TORCHVISION))
    import timm

    return str(timm.model_entrypoint(name).__module__.rpartition(".")[2])


def check_name(name: str) -> None:
    """Raise ModelError, with close matches, unless timm or torchvision has a network of this name."""
    if name.startswith(_TORCHVISION):
        if name.removeprefix(_TORCHVISION).startswith("quantized_"):
            raise ModelError(f"'{name}' is quantised: teleport the float model, '{name.replace('quantized_', '')}'")
        known = names("torchvision")
        if name not in known:
            raise _unknown(name, known)
    else:
        import timm

        if not timm.is_model(name.partition(".")[0]):
            raise _unknown(name, [*names("timm"), *names("torchvision")])


def build(
    name: str,
    input_size: tuple[int, ...] | None = None,
    pretrained: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Built:
    """Build a network by name.

    A detector that is not pretrained gets a score threshold of 0: its random scores would pass no other.

    Args:
        name: a timm name, or "torchvision/NAME".
        input_size: (C, H, W) instead of the network's default; passed to its constructor if that takes it.
        pretrained: with its published weights (downloaded unless cached).
        settings: further arguments of its constructor, such as num_classes.

    Raises:
        ModelError: the name is unknown or the network cannot be built.
    """
    check_name(name)
    make = _torchvision if name.startswith(_TORCHVISION) else _timm
    try:
        built = make(name, input_size, pretrained, dict(settings or {}))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"'{name}' cannot be built: {type(error).__name__}: {error}") from error
    built.model.eval()
    return built


def _timm(name: str, input_size: tuple[int, ...] | None, pretrained: bool, given: dict[str, Any]) -> Built:
    import timm

    def make(**settings: Any) -> nn.Module:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **(settings | given))
        return model

    if input_size is None:
        model = make()
        return Built(model, (tuple(getattr(model, "pretrained_cfg", {}).get("input_size", (3, 224, 224))),))
    channels = {"in_chans": input_size[0]} if len(input_size) == 3 and input_size[0] != 3 else {}
    return Built(_first(make, [{"img_size": input_size[1:], **channels}, channels]), (input_size,))


def _torchvision(name: str, input_size: tuple[int, ...] | None, pretrained: bool, given: dict[str, Any]) -> Built:
    from torchvision import models

    short = name.removeprefix(_TORCHVISION)
    kind = _torchvision_module(short)
    if pretrained and not list(models.get_model_weights(short)):
        raise ModelError(f"torchvision has no pretrained weights for '{name}'")
    settings: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    if "weights_backbone" in inspect.signature(models.get_model_builder(short)).parameters:
        settings["weights_backbone"] = None
    shape = input_size or _torchvision_size(short)

    def make(**more: Any) -> nn.Module:
        model: nn.Module = models.get_model(short, **(settings | more | given))
        return model

    if kind.startswith("detection."):
        resized = {} if input_size is None else {"min_size": min(shape[1:]), "max_size": max(shape[1:])}
        low: list[dict[str, Any]] = [{}] if pretrained else [{"box_score_thresh": 0.0}, {"score_thresh": 0.0}]
        model = _first(make, [{**resized, **some} for some in low] + low)
        return Built(model, (input_size or (3, *_detector_size(model)),), listed=True)
    count = 2 if kind.startswith("optical_flow.") else 1
    attempts: list[dict[str, Any]] = (
        [] if input_size is None else [{"image_size": shape[-1]}, {"input_size": shape[-2:]}]
    )
    model = _first(make, [*attempts, {}])
    edge = getattr(model, "image_size", None)  # a vision transformer's default may differ from its weights' crop
    if input_size is None and isinstance(edge, int):
        shape = (*shape[:-2], edge, edge)
    return Built(model, (shape,) * count)


def _torchvision_module(short: str) -> str:
    from torchvision import models

    return str(models.get_model_builder(short).__module__.removeprefix("torchvision.models."))


def _torchvision_size(short: str) -> tuple[int, ...]:
    """The crop with which its published weights were tested, or else a common size for this kind of network."""
    from torchvision import models

    kind = _torchvision_module(short)
    if kind.startswith("optical_flow."):
        return (3, 128, 128)
    weights = next(iter(models.get_model_weights(short)), None)
    crop = getattr(getattr(weights, "transforms", None), "keywords", {}).get("crop_size", 224)
    height, width = (crop, crop) if isinstance(crop, int) else tuple(crop)
    return (3, 16, height, width) if kind.startswith("video.") else (3, height, width)


def _detector_size(model: nn.Module) -> tuple[int, int]:
    """The size that a detector resizes its images to."""
    transform: Any = model.transform
    edge = transform.min_size[-1]
    return transform.fixed_size or (edge, edge)


def _first(make: Callable[..., nn.Module], attempts: Iterable[dict[str, Any]]) -> nn.Module:
    """The model from the first settings that its constructor takes."""
    *others, last = attempts
    for settings in others:
        with contextlib.suppress(TypeError):
            return make(**settings)
    return make(**last)


def suggestion(name: str, known: Iterable[str]) -> str:
    """The names closest to a wrong one, as the end of an error message; "" if none is close.

    Names that begin with it come first, the shortest before the others.
    """
    known = list(known)
    begun = sorted((k for k in known if name and k.startswith(name)), key=len)[:_SUGGESTED]
    close = difflib.get_close_matches(name, known, n=_SUGGESTED, cutoff=0.5)
    suggested = list(dict.fromkeys([*begun, *close]))[:_SUGGESTED]
    return f": did you mean {' or '.join(suggested)}?" if suggested else ""


def _unknown(name: str, known: list[str]) -> ModelError:
    hint = suggestion(name, known) or ": pass a timm name, torchvision/NAME or FILE.py:FACTORY"
    return ModelError(f"there is no model '{name}'{hint}")
