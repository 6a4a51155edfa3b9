"""Models: a MODEL argument -> a network and inputs for it.

MODEL is a timm name, `torchvision/NAME`, or `path/to/file.py:factory`. A factory's inputs come from an
`example_inputs()` of the network or of the file, else from the input size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.models import zoo
from fxteleport.models.meta_init import without_weights
from fxteleport.models.randomize import randomize
from fxteleport.passes.capture.capture import reject_unsupported
from fxteleport.passes.capture.meta_values import tree_map
from fxteleport.passes.errors import InputError, ModelError
from fxteleport.passes.graph.exported import evaluate
from fxteleport.tools.models import images
from fxteleport.tools.models.determinism import seeded
from fxteleport.tools.models.factory import from_factory
from fxteleport.tools.models.request import Loaded, Request
from fxteleport.tools.models.state_dict import load_state

BATCH = 2
_PICTURES = 8


def check_spec(spec: str, request: Request) -> None:
    """Check a MODEL before anything is built.

    Raises:
        ModelError: no such name, file or factory.
        InputError: it does not go with the options.
    """
    path, factory = split(spec)
    if path is None:
        zoo.check_name(spec)
        return
    if not factory:
        raise ModelError(f"'{spec}' names no factory: write {path}:FACTORY, a function that returns an nn.Module")
    if not path.is_file():
        raise ModelError(f"there is no file '{path}'")
    if request.pretrained:
        raise InputError(f"--pretrained is for timm and torchvision names: let the factory of '{spec}' load weights")


def split(spec: str) -> tuple[Path | None, str]:
    """The file and the factory of a `file.py:factory` spec; (None, spec) for a name."""
    path, colon, factory = spec.rpartition(":")
    if colon and path.endswith(".py"):
        return Path(path), factory
    return (Path(spec.rstrip(":")), "") if spec.rstrip(":").endswith(".py") else (None, spec)


def load(spec: str, request: Request) -> Loaded:
    """Build a network, give it its weights, and make inputs for it.

    Raises:
        ModelError: it cannot be built, or is quantised or scripted.
        CheckpointError: the checkpoint is missing, corrupt, or of another network.
        InputError: a factory's network needs an input size, or the pictures do not suit the network.
    """
    check_spec(spec, request)
    path, _ = split(spec)
    pictures = [] if request.images is None else images.files(request.images, request.batch or _PICTURES)
    model, given = _built(spec, request)
    weights = "pretrained" if request.pretrained else "a fresh initialisation"
    if path is not None:
        weights = "as the factory made them"
    if request.checkpoint is not None:
        under = load_state(model, request.checkpoint)
        weights = f"from {request.checkpoint}" + (f" ({under})" if under else "")
    fresh = path is None and not request.pretrained and request.checkpoint is None
    if fresh if request.redraw is None else request.redraw:
        randomize(model, request.seed)
        weights = "re-drawn at random, so that the check means something"
    args, kwargs = _arguments(given)
    if pictures:
        if len(args) != 1 or not isinstance(args[0], Tensor) or kwargs:
            raise InputError(f"--images needs a network that takes one batch of pictures, which '{spec}' does not")
        args = (images.batch_of(pictures, model, spec, tuple(args[0].shape[1:])),)
    model = evaluate(model.to(request.device, request.dtype))
    if request.channels_last:
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = _channels_last(tensor.data)
    args, kwargs = tree_map(lambda x: _placed(x, request), (args, kwargs))
    return Loaded(request.named(spec), model, args, kwargs, weights)


def skeleton(spec: str, request: Request) -> Loaded:
    """Build a network without weights, and make inputs for it, to plan one that is larger than memory.

    Raises:
        ModelError: it cannot be built, or is quantised or scripted.
        InputError: a factory's network needs an input size.
    """
    check_spec(spec, request)
    with without_weights():
        model, given = _built(spec, request)
    return Loaded(request.named(spec), evaluate(model), *_arguments(given), "not read")


def _built(spec: str, request: Request) -> tuple[nn.Module, Any]:
    """The network as its library or its factory makes it, and its inputs."""
    path, factory = split(spec)
    batch = request.batch or BATCH
    with seeded(request.seed):
        if path is not None:
            model, given = from_factory(spec, path, factory, request.input_size, batch, request.settings)
        else:
            built = zoo.build(spec, request.input_size, request.pretrained, request.settings)
            model, given = built.model, built.inputs(batch)
    reject_unsupported(model)
    return model, given


def _arguments(given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A tensor is one argument, a list or a tuple are several, a dict is keyword arguments."""
    if isinstance(given, dict):
        return (), given
    return (tuple(given), {}) if isinstance(given, (list, tuple)) else ((given,), {})


def _placed(value: Any, request: Request) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.to(request.device, request.dtype if value.is_floating_point() else None)
    return _channels_last(value) if request.channels_last else value


def _channels_last(x: Tensor) -> Tensor:
    """An image, a volume or a convolution's weight with its channels innermost; anything else as it is."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.ndim]) if x.ndim in formats else x
