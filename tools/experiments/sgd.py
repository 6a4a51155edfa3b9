"""Training as in the paper: plain SGD on mini-batches, the same batches for every run of one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from fxteleport.plan.teleported_point import Network
from fxteleport.tools.experiments.data import Data
from fxteleport.tools.experiments.experiment import Row

_BATCH = 512  # of an evaluation


def batches(data: Data, size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The training images in an order that seed and epoch decide; the last batch may be short, but not a single one."""
    order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))
    for part in order.split(size):
        if len(part) > 1 or size == 1:
            yield data.x[part], data.y[part]


def train(
    network: nn.Module,
    optimizer: Optimizer,
    data: Data,
    epochs: int,
    batch: int,
    seed: int,
    before_epoch: Callable[[int], object] = lambda epoch: None,
) -> list[Row]:
    """Train, and measure before the first epoch and after each: epoch, train_loss, test_loss, test_accuracy.

    `before_epoch` is called with the number of epochs done, before each of them.
    """
    rows = [{"epoch": 0, "train_loss": evaluate(network, data.x, data.y)[0], **tested(network, data)}]
    for epoch in range(epochs):
        before_epoch(epoch)
        network.train()
        total, count = 0.0, 0
        for x, y in batches(data, batch, seed, epoch):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            total, count = total + float(loss.detach()) * len(x), count + len(x)
        rows.append({"epoch": epoch + 1, "train_loss": total / count, **tested(network, data)})
    return rows


def tested(network: nn.Module, data: Data) -> Row:
    """Loss and accuracy on the test images."""
    loss, accuracy = evaluate(network, data.test_x, data.test_y)
    return {"test_loss": loss, "test_accuracy": accuracy}


@torch.no_grad()
def evaluate(network: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy in eval mode."""
    network.eval()
    loss = right = 0.0
    for part_x, part_y in zip(x.split(_BATCH), y.split(_BATCH), strict=True):
        out = network(part_x)
        loss += float(F.cross_entropy(out, part_y, reduction="sum"))
        right += float((out.argmax(1) == part_y).sum())
    return loss / len(x), right / len(x)


def cross_entropy(x: Tensor, y: Tensor) -> Callable[[Network], Tensor]:
    """The loss on a batch, as the library takes it."""
    return lambda network: F.cross_entropy(network(x), y)
