"""Models: a MODEL argument -> a network and inputs for it.

MODEL is a timm name, `torchvision/NAME`, or `path/to/file.py:factory`. A factory's inputs come from an
`example_inputs()` of the network or of the file, else from the input size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxteleport.atomic_files import read_pickled, read_tensors
from fxteleport.io.checkpoint import MARK
from fxteleport.models import zoo
from fxteleport.models.meta_init import without_weights
from fxteleport.models.randomize import randomize
from fxteleport.passes.capture.capture import reject_unsupported
from fxteleport.passes.errors import CheckpointError, InputError, ModelError
from fxteleport.passes.graph.exported import evaluate
from fxteleport.tools.models import images
from fxteleport.tools.models.factory import from_factory

BATCH = 2
_PICTURES = 8


@dataclass(frozen=True)
class Request:
    """Which network is wanted, as the command line says it.

    Attributes:
        input_size: one input's shape without the batch axis, or None for the network's own.
        redraw: replace the parameters by generic random ones; None: where they would be a fresh initialisation.
        batch: how many inputs at once; None: two, or as many pictures as there are, up to eight.
        images: a folder of pictures to take as inputs, instead of random numbers.
        channels_last: give images and convolutions that memory format.
    """

    input_size: tuple[int, ...] | None = None
    pretrained: bool = False
    checkpoint: Path | None = None
    redraw: bool | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    batch: int | None = None
    images: Path | None = None
    channels_last: bool = False


@dataclass(frozen=True)
class Loaded:
    """A network in eval mode with inputs to run it on, and where its weights are from."""

    spec: str
    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    weights: str

    @property
    def parameters(self) -> int:
        """The number of parameter elements."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def device(self) -> torch.device:
        """Where its parameters are, else its inputs."""
        inputs = [x for x in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(x, Tensor)]
        return next((t.device for t in (*self.model.parameters(), *inputs)), torch.device("cpu"))

    @property
    def batch(self) -> int | None:
        """The length of the first input's first axis."""
        tensors = [x for x in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(x, Tensor) and x.ndim]
        return tensors[0].shape[0] if tensors else None


def check_spec(spec: str, request: Request) -> None:
    """Find what is wrong with a MODEL before anything is built.

    Raises:
        ModelError: no such name, file or factory.
        InputError: it goes not with the options.
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
        load_state(model, request.checkpoint)
        weights = f"from {request.checkpoint}"
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
    args, kwargs = pytree.tree_map(lambda x: _placed(x, request), (args, kwargs))
    return Loaded(spec, model, args, kwargs, weights)


def skeleton(spec: str, request: Request) -> Loaded:
    """Build a network without weights, and make inputs for it: to plan one that no memory holds.

    Raises:
        ModelError: it cannot be built, or is quantised or scripted.
        InputError: a factory's network needs an input size.
    """
    check_spec(spec, request)
    with without_weights():
        model, given = _built(spec, request)
    return Loaded(spec, evaluate(model), *_arguments(given), "not read")


def _built(spec: str, request: Request) -> tuple[nn.Module, Any]:
    """The network as its library or its factory makes it, and its inputs."""
    path, factory = split(spec)
    batch = request.batch or BATCH
    with seeded(request.seed):
        if path is not None:
            model, given = from_factory(spec, path, factory, request.input_size, batch)
        else:
            built = zoo.build(spec, request.input_size, request.pretrained)
            model, given = built.model, built.inputs(batch)
    reject_unsupported(model)
    return model, given


def load_state(model: nn.Module, path: Path) -> None:
    """Load a state dict (safetensors or a torch file), perhaps under "state_dict" or "model", strictly.

    Raises:
        CheckpointError: the file is missing, corrupt, or does not fit the model.
    """
    own = model.state_dict()
    state = _unwrapped(_read_state(path), own)
    missing, unexpected = [n for n in own if n not in state], [n for n in state if n not in own]
    wrong = [n for n in own if n in state and own[n].shape != state[n].shape]
    problems = [
        f"{len(names)} {what} (the first: '{names[0]}')"
        for names, what in ((missing, "missing"), (unexpected, "unknown"), (wrong, "of another shape"))
        if names
    ]
    if problems:
        raise CheckpointError(f"'{path}' is not a checkpoint of this model: tensors {', '.join(problems)}")
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"'{path}' does not fit this model: {error}") from None


def _unwrapped(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names that they had before DDP or `torch.compile` wrapped the model they were saved from."""
    while own.keys().isdisjoint(state):
        prefix = next((p for p in _WRAPPERS if state and all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


_WRAPPERS = ("module.", "_orig_mod.")


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"there is no file '{path}'")
    if path.suffix == ".safetensors":
        state, marks = read_tensors(path)
        if marks.get(MARK, "").startswith("full "):
            raise CheckpointError(f"'{path}' holds a network with teleported activations: use fxteleport.load")
        return state
    found = read_pickled(path)
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise CheckpointError(f"'{path}' holds no state dict")
    return dict(found)


# -- inputs ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's generator set to a seed, and as it was before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


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
