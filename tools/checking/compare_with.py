"""Comparison with another network (`--against`): other weights for the same model, or another model."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

from torch import nn

from fxteleport.io import checkpoint as saved
from fxteleport.io.checkpoint import MARK
from fxteleport.passes.errors import ModelError
from fxteleport.tensor_files import read_tensors
from fxteleport.tools.checking.alternate_backends import Executed
from fxteleport.tools.checking.session import compare
from fxteleport.tools.models.load import check_spec, load, split
from fxteleport.tools.models.request import Loaded, Request
from fxteleport.tools.models.state_dict import load_state
from fxteleport.tools.options.check import Execution
from fxteleport.verify import EquivalenceReport


def check_against(other: str, wanted: Request) -> None:
    """Check a PATH or MODEL to compare with before anything is built.

    Raises:
        ModelError: there is no such file or model.
    """
    if not _is_weights(other):
        check_spec(other, replace(wanted, pretrained=wanted.pretrained and split(other)[0] is None))
    elif not Path(other).is_file():
        raise ModelError(f"there is no file '{other}'")


def against(
    loaded: Loaded, other: str, wanted: Request, execution: Execution | None = None
) -> tuple[EquivalenceReport, Executed | None]:
    """Compare the outputs of two networks; their nodes cannot be matched.

    Raises:
        TeleportError: the other one cannot be built, or does not run on these inputs.
        InputError: their outputs differ in shape.
    """
    return compare(loaded, second(loaded, other, wanted), execution)


def second(loaded: Loaded, other: str, wanted: Request) -> nn.Module:
    """The network behind a file of weights for `loaded`, or behind a MODEL.

    Raises:
        TeleportError: it cannot be built, or the weights do not fit.
    """
    if not _is_weights(other):
        size = wanted.input_size
        if size is None and split(other)[0] is not None and loaded.args:
            size = tuple(loaded.args[0].shape[1:])  # a factory needs no inputs of its own here
        more = replace(
            wanted, checkpoint=None, images=None, input_size=size, pretrained=wanted.pretrained and size is None
        )
        return load(other, more).model
    if other.endswith(".safetensors") and read_tensors(other)[1].get(MARK, "").startswith("full "):
        network = saved.load(other, copy.deepcopy(loaded.model).cpu())
        network.release()  # it was planned with weights of another origin
        dtype = next((p.dtype for p in loaded.model.parameters() if p.is_floating_point()), None)
        return network.to(loaded.device, dtype)
    copied = copy.deepcopy(loaded.model)
    load_state(copied, Path(other))
    return copied


def _is_weights(other: str) -> bool:
    return Path(other).suffix in (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
