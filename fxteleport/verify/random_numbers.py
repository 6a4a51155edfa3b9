"""Random numbers: two networks that draw random numbers (a random depth) are compared on the same ones."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxteleport.passes.capture.model_tensors import named_tensors


class Draws:
    """The random number generators that a network may use, so that two networks draw the same numbers.

    Attributes:
        drawn: a network has drawn random numbers.
    """

    def __init__(self, network: nn.Module) -> None:
        on_gpus = {t.get_device() for _, t in named_tensors(dict(network.named_modules())) if t.is_cuda}
        self.devices = sorted(on_gpus)
        self.drawn = False

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Restore the states of torch's, Python's and numpy's generators afterwards."""
        python, numpy = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng(devices=self.devices):
                yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)

    def same(self, first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
        """The results of two functions, which draw the same random numbers."""
        before = self._state()
        python, numpy = random.getstate(), np.random.get_state()
        one = first()
        if python != random.getstate() or not _equal(numpy, np.random.get_state()):
            self.drawn = True
            random.setstate(python)
            np.random.set_state(numpy)
        if not all(map(torch.equal, before, self._state())):
            self.drawn = True
            torch.set_rng_state(before[0])
            for device, state in zip(self.devices, before[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
        return one, second()

    def _state(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self.devices)]


def _equal(numpy: Any, now: Any) -> bool:
    """True for the same state of numpy's generator; its position in the table is compared first."""
    return bool(numpy[2] == now[2]) and np.array_equal(numpy[1], now[1])
