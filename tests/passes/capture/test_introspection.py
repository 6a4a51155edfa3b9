"""What Python asks of a tensor, a size or a result while it decides: the answers are those of a run on real tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxteleport as ft


class Asks(nn.Module):
    """Linear -> a program -> Linear."""

    def __init__(self, program: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.program = nn.Linear(6, 8), nn.Linear(8, 4), program

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.program(self.first(x)))


def tensors(x: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(x) if isinstance(leaf, Tensor)]


# The right answer is True: it doubles, a wrong one triples.
ANSWERS: dict[str, Callable[[Tensor], bool]] = {
    "isinstance": lambda h: isinstance(h, Tensor) and not isinstance(h, nn.Parameter),
    "is_tensor": lambda h: torch.is_tensor(h) and torch.is_floating_point(h) and not callable(h),
    "hasattr": lambda h: hasattr(h, "shape") and not hasattr(h, "nothing"),
    "device": lambda h: h.device.type == "cpu" and not h.is_meta and not h.is_cuda and h.is_cpu,
    "device as text": lambda h: str(h.device) == "cpu" and f"{h.device}" == "cpu",
    "type": lambda h: h.type() == "torch.FloatTensor",
    "dtype": lambda h: h.dtype in (torch.float32, torch.float64) and str(h.dtype) == "torch.float32",
    "promotion": lambda h: torch.result_type(h, 1) == torch.float32 and torch.can_cast(h.dtype, torch.float16),
    "layout": lambda h: h.is_contiguous() and h.stride()[0] == 8 and h.layout == torch.strided,
    "shape": lambda h: tuple(h.shape) == (3, 8) and h.shape == (3, 8) and 8 in h.shape,
    "shape as text": lambda h: str(h.shape) == "torch.Size([3, 8])" and f"{h.shape[0]}x{h.shape[1]:03d}" == "3x008",
    "size as a key": lambda h: {8: True}.get(h.shape[1], False) and h.shape[1] in {8},
    "tensors as keys": lambda h: len({h: 1, h + 1: 2}) == 2,
    "unpacked": lambda h: len((*h.chunk(2, 1),)) == 2 and len(list(h.unbind(1))) == 8,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name: str, assert_exact: Callable[..., ft.Plan]) -> None:
    plan = assert_exact(Asks(lambda h: h * 2 if ANSWERS[name](h) else h * 3), torch.randn(3, 6))
    assert plan.num_free == 8
    assert not plan.opaque


PROGRAMS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "leaves of parts": (lambda h: torch.cat(tensors(h.chunk(2, 1)), 1), 8),
    "leaves of a structure": (lambda h: torch.cat(tensors({"a": h.split(4, 1), "b": [h[:, :1]]}), 1)[:, :8], 8),
    "leaves of a named tuple": (lambda h: h + tensors(h.max(1, keepdim=True))[0], 1),
    "a map over parts": (lambda h: torch.cat(pytree.tree_map(lambda t: t * 2, h.chunk(2, 1)), 1), 8),
    "reversed": (lambda h: torch.cat(tuple(reversed(h.chunk(2, 1))), 1), 8),
    "rows": (lambda h: torch.stack([row * 2 for row in h]), 8),
    "columns by number": (lambda h: torch.cat([h[:, i : i + 1] for i in range(h.shape[1])], 1), 8),
    "from the end": (lambda h: h[:, -h.shape[1] :], 8),
    "arithmetic": (lambda h: h * divmod(h.shape[1], 3)[1] * round(h.shape[1] / 3) * (h.shape[1] >> 1), 8),
    "functions of numpy": (lambda h: h / np.sqrt(h.shape[1]) * float(np.array(h.shape).sum() * np.prod(h.shape)), 8),
    "functions of numbers": (lambda h: h * math.sqrt(h.shape[1]) * max(h.shape) / sum(h.shape), 8),
    "cast by the name of a type": (lambda h: h.double().type(h.type()), 8),
    "cast by a written name": (lambda h: h.double().type("torch.FloatTensor"), 8),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str, assert_exact: Callable[..., ft.Plan]) -> None:
    program, free = PROGRAMS[name]
    plan = assert_exact(Asks(program), torch.randn(3, 6))
    assert plan.num_free == free
    assert not plan.opaque


def test_text_of_a_size_fixes_nothing() -> None:
    """Messages hold sizes: the emitted network still takes another batch."""

    def checked(h: Tensor) -> Tensor:
        torch._assert(h.dim() == 2, f"two axes are needed, not {h.shape}")
        return h.relu()

    model = Asks(checked).eval()
    network = ft.teleport(model, torch.randn(3, 6), exact=True, seed=0)
    x = torch.randn(5, 6)
    assert torch.equal(network(x), model(x))
