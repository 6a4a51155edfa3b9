"""Evaluation on meta: where it is not torch that says what comes out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxteleport.passes.capture.control_flow import CannotRun
from fxteleport.passes.capture.meta_eval import Evaluator
from fxteleport.passes.graph.node_info import Trust


def strided(dtype: torch.dtype) -> dict[str, Tensor]:
    x = torch.empty(4, 6, 8, 10, dtype=dtype, device="meta")
    return {
        "contiguous": x,
        "channels last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3),
        "with gaps": x[:, :, ::2],
        "cut": x[..., 1:],
        "expanded": x[:1, :, :1].expand(4, 6, 8, 10),
        "of one position": x[:, :, :1, :1],
        "empty": x[:0],
    }


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", strided(torch.float32))
def test_a_batch_norm_gives_what_torch_gives(layout: str, dtype: torch.dtype, affine: bool) -> None:
    x, norm = strided(dtype)[layout], nn.BatchNorm2d(6, affine=affine).eval().to("meta")
    with torch.no_grad():
        mine, torchs = Evaluator().run("call_module", norm, (x,), {})[0], norm(x)
    assert (mine.shape, mine.stride(), mine.dtype) == (torchs.shape, torchs.stride(), torchs.dtype)


@pytest.mark.parametrize("shape", [(4, 5, 8, 10), (4, 6, 8)])
def test_a_batch_norm_refuses_what_torch_refuses(shape: tuple[int, ...]) -> None:
    with pytest.raises(CannotRun):
        Evaluator().run(
            "call_module", nn.BatchNorm2d(6).eval().to("meta"), (torch.empty(shape, device="meta"),), {}, refuse
        )


def refuse(*args: Any) -> Any:
    raise ValueError("nor do real tensors fit")


def test_code_that_takes_no_zeros_may_take_ones() -> None:
    lengths = torch.empty(3, dtype=torch.long, device="meta")

    def positive(x: Tensor, lengths: Tensor) -> Tensor:
        if not (lengths > 0).all():
            raise ValueError("a length is not positive")
        return x[: int(lengths[0])]

    out, trust = Evaluator().run("call_function", positive, (torch.empty(4, 2, device="meta"), lengths), {})
    assert out.shape == (1, 2)
    assert trust is not Trust.KNOWN
