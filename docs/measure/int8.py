"""A real int8 run: ONNX Runtime's static quantisation beside the fake-quantised figure, on Fashion-MNIST.

    python docs/measure/fashion.py DATA FOLDER && python docs/measure/int8.py DATA FOLDER [NAME]

Weights and activations 8 bits; the same 256 training pictures calibrate both; top-1 on the 10,000 test pictures, and
on how many both give the same answer. Needs the extra `quantise`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from fashion import network, pictures
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from torch import Tensor, fx

import fxteleport as ft


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """Gives batches once."""

    def __init__(self, data: list[Tensor]) -> None:
        self.batches = iter([{"x": x.numpy()} for x in data])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None."""
        return next(self.batches, None)


def in_int8(net: fx.GraphModule, data: list[Tensor], per_channel: bool, images: Tensor) -> Tensor:
    """The answers of ONNX Runtime's int8 network."""
    with tempfile.TemporaryDirectory() as folder:
        whole, small = f"{folder}/net.onnx", f"{folder}/net.int8.onnx"
        torch.onnx.export(
            net, (data[0],), whole, input_names=["x"], dynamo=True, external_data=False, verbose=False
        )  # the batch has its size
        quantize_static(
            whole, small, Batches(data), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            per_channel=per_channel, op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        )  # fmt: skip
        session = onnxruntime.InferenceSession(small, providers=["CPUExecutionProvider"])
        size = len(data[0])
        count = len(images) // size * size
        found = [session.run(None, {"x": x.numpy()})[0].argmax(1) for x in images[:count].split(size)]
    return torch.from_numpy(np.concatenate(found))


@torch.no_grad()
def main(data: Path, folder: Path, name: str) -> None:
    """Print the table."""
    x = pictures(data, "train")[0][:256]
    images, classes = pictures(data, "t10k")
    model, batches = network(folder, name), list(x.split(64))
    folded = ft.fold_norms(model, x[:64])
    plan = ft.plan(folded, x[:64])
    print(f"{name:10} {'scale':8} {'method':8} {'fake':>6} {'int8':>6} {'same':>6}")
    for per_channel in (False, True):
        for method in ("none", "noise"):
            cob = plan.identity()
            if method != "none":
                with torch.enable_grad():
                    cob = ft.equalize(plan, method, batches, per_channel=per_channel, activation_bits=8, least_gain=1.0)
            net = plan.rewrite(cob)
            answers = in_int8(net, batches, per_channel, images)
            rounded = ft.fake_quantize(net, 8, per_channel, 8, batches)
            fake = torch.cat([rounded(i).argmax(1) for i in images.split(500)])[: len(answers)]
            right = [100 * float((a == classes[: len(a)]).float().mean()) for a in (fake, answers)]
            same = 100 * float((fake == answers).float().mean())
            scale = "channel" if per_channel else "tensor"
            print(f"{name:10} {scale:8} {method:8} {right[0]:6.2f} {right[1]:6.2f} {same:6.2f}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "mobilenet")
