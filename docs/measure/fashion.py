"""Fashion-MNIST (Debian's dataset-fashion-mnist, MIT), and the networks trained on it, once.

    python docs/measure/fashion.py DATA FOLDER [EPOCHS]

DATA is /usr/share/datasets/fashion-mnist. Writes FOLDER/NAME.pt and prints the accuracies on the 10,000 test pictures.
"""

from __future__ import annotations

import gzip
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from fashion_networks import NETWORKS, deployed
from torch import Tensor, nn


def pictures(data: Path, part: str) -> tuple[Tensor, Tensor]:
    """Normalised pictures [n, 1, 28, 28] and classes [n] of a part, "train" or "t10k"."""
    images, classes = (
        torch.frombuffer(bytearray(gzip.decompress((data / f"{part}-{name}-ubyte.gz").read_bytes())), dtype=torch.uint8)
        for name in ("images-idx3", "labels-idx1")
    )
    return (images[16:].view(-1, 1, 28, 28).float() / 255 - 0.286) / 0.353, classes[8:].long()


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, classes: Tensor) -> float:
    """Top-1 in percent."""
    right = sum(
        int((network(x).argmax(1) == y).sum()) for x, y in zip(images.split(500), classes.split(500), strict=True)
    )
    return 100 * right / len(classes)


def trained(name: str, images: Tensor, classes: Tensor, epochs: int, batch: int = 128) -> nn.Module:
    """A network trained with AdamW and one cycle of the rate."""
    torch.manual_seed(0)
    model = NETWORKS[name]()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003 if name == "vit" else 0.01, steps)
    for _ in range(epochs):
        for at in torch.randperm(len(images)).split(batch)[: len(images) // batch]:
            optimizer.zero_grad()
            F.cross_entropy(model(images[at]), classes[at]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def network(folder: Path, name: str) -> nn.Module:
    """A trained network, as it is run."""
    model = NETWORKS[name]()
    model.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
    return deployed(model.eval())


def main(data: Path, folder: Path, epochs: int) -> None:
    """Train what is not there yet."""
    folder.mkdir(exist_ok=True)
    images, classes = pictures(data, "train")
    for name in NETWORKS:
        start = time.perf_counter()
        if not (folder / f"{name}.pt").exists():
            torch.save(trained(name, images, classes, epochs).state_dict(), folder / f"{name}.pt")
        right = accuracy(network(folder, name), *pictures(data, "t10k"))
        print(f"{name:10} {right:5.1f} {time.perf_counter() - start:6.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 3)
