"""The paper's networks for small images, and any MODEL of the command line.

| name | network |
|---|---|
| `mlp` | 5 hidden layers of 500 (Figs. 5 to 13) |
| `mlp128` | one hidden layer of 128 (Fig. 4) |
| `vgg16_bn`, `resnet18`, `densenet121` | torchvision's, with a stem and a head for images of 32 x 32 |
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import nn

from fxteleport.passes.errors import InputError
from fxteleport.tools.experiments import custom_model
from fxteleport.tools.models.determinism import seeded
from fxteleport.tools.models.load import check_spec
from fxteleport.tools.models.request import Request

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "leakyrelu": lambda: nn.LeakyReLU(0.1), "tanh": nn.Tanh, "elu": nn.ELU,
}  # fmt: skip
INITS = ("default", "gaussian", "xavier")
_GAUSSIAN = 0.05  # the deviation; the paper does not state its own
CONVOLUTIONAL = ("vgg16_bn", "resnet18", "densenet121")
MLPS = {"mlp": (500,) * 5, "mlp128": (128,)}


def build(
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    activation: str = "relu",
    init: str = "default",
    seed: int = 0,
) -> nn.Module:
    """A freshly initialised network; the same seed gives the same weights.

    Args:
        name: one of the table's, or a MODEL (timm name, torchvision/NAME, FILE.py:FACTORY).
        shape: channels, height and width of an image.
        classes: outputs; a MODEL keeps its own, if there are at least as many.
        activation: one of `ACTIVATIONS`, which replaces every ReLU; "relu" and "own" change nothing.
        init: torch's own ("default"), normal with deviation 0.05, or Xavier's uniform one; biases are then zero.

    Raises:
        InputError: an unknown activation or init, or images too small for the network.
        ModelError: an unknown network.
    """
    check(activation, init)
    with seeded(seed):
        network = _build(name, shape, classes)
        if activation not in ("relu", custom_model.OWN) and not _replace(network, activation):
            raise InputError(f"'{name}' has no ReLU module to replace by {activation}")
        if init != "default":
            _initialise(network, init)
    return network


def check(activation: str, init: str) -> None:
    """Raise InputError for an unknown activation or initialisation."""
    if activation not in (*ACTIVATIONS, custom_model.OWN):
        raise InputError(f"there is no activation '{activation}': choose one of {', '.join(ACTIVATIONS)}")
    if init not in INITS:
        raise InputError(f"there is no initialisation '{init}': choose one of {', '.join(INITS)}")


def check_name(name: str) -> None:
    """Raise ModelError for an unknown network."""
    if name not in MLPS and name not in CONVOLUTIONAL:
        check_spec(name, Request())


def image_size(name: str, size: int | None = None) -> int | None:
    """The size to which images are resized: None for an MLP, `size` (32) for the paper's others, a MODEL's own."""
    if name in MLPS:
        return None
    return size or 32 if name in CONVOLUTIONAL else custom_model.image_size(name)


def activations(name: str, asked: Sequence[str], usual: Sequence[str] = ("relu",)) -> Sequence[str]:
    """The activations asked for; else the usual ones for a network of the paper, and a MODEL's own."""
    return asked or (usual if name in MLPS or name in CONVOLUTIONAL else (custom_model.OWN,))


def _build(name: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    channels, height, width = shape
    if name in MLPS:
        sizes = [channels * height * width, *MLPS[name]]
        layers: list[nn.Module] = [nn.Flatten()]
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))
    if name in CONVOLUTIONAL:
        return _convolutional(name, channels, classes)
    check_spec(name, Request())
    return custom_model.build(name, shape)


def _convolutional(name: str, channels: int, classes: int) -> nn.Module:
    """A 3 x 3 stem without pooling in place of the 7 x 7 one, one linear layer as the head."""
    from torchvision import models

    network: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    if isinstance(network, models.ResNet):
        network.conv1, network.maxpool = nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.Identity()  # type: ignore[assignment]
    elif isinstance(network, models.DenseNet):
        network.features.conv0 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        network.features.pool0 = nn.Identity()
    elif isinstance(network, models.VGG):
        network.features[0] = nn.Conv2d(channels, 64, 3, padding=1)
        network.avgpool, network.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Linear(512, classes))
    return network


def _replace(network: nn.Module, activation: str) -> int:
    count = 0
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, ACTIVATIONS[activation]())
                count += 1
    return count


@torch.no_grad()
def _initialise(network: nn.Module, init: str) -> None:
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            if init == "gaussian":
                nn.init.normal_(module.weight, std=_GAUSSIAN)
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
