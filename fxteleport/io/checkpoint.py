"""Checkpoints: a teleported network on disk, as three files.

    X.safetensors       its state dict: the original's keys, and the CoBs of wrapped operations
    X.cob.safetensors   its change of basis
    X.json              how to build it again: model, inputs, mode, versions (`description.py`)

Loading plans the original again and rewrites it with the change of basis, so no code is ever read from a file.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxteleport.arguments import kind, require_module
from fxteleport.atomic_files import require_writable
from fxteleport.checked import checked
from fxteleport.io.description import FORMAT, Description, installed_versions, versions_text
from fxteleport.io.example_inputs import described_inputs, inputs_from, number_format
from fxteleport.io.state_tensors import extra_state, parted, unshared
from fxteleport.passes.errors import CheckpointError, InputError, ModelError
from fxteleport.passes.graph.exported import evaluate
from fxteleport.passes.rewrite.network_wraps import places
from fxteleport.passes.rewrite.teleported_network import TeleportedModule
from fxteleport.passes.rules.operand import carries
from fxteleport.plan.analysis import Analysis
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.plan import Plan, plan
from fxteleport.plan.teleportation import teleportation_of
from fxteleport.tensor_files import read_tensors, write_tensors

MARK = "teleported"  # the one key of X.safetensors' metadata: "MODE ID" (their order in a file is random)
_SUFFIXES = (".cob.safetensors", ".safetensors", ".json")


@checked
def save(
    path: str | Path, module: fx.GraphModule, model_spec: str, input_size: Sequence[int] | None = None
) -> list[Path]:
    """Write a teleported network, as emitted by `plan.rewrite`; returns the three files.

    Args:
        path: X, with or without `.safetensors`.
        module: the network, perhaps trained since.
        model_spec: the model: a timm name, "torchvision/NAME", or any other text; `load` then needs the model itself.
        input_size: (C, H, W) that the model was built for, where that is not its default.

    Raises:
        InputError: the module was not emitted by `plan.rewrite`, or has no plan any more; or `model_spec` is no text.
        ModelError: it is no module.
        CheckpointError: a path cannot be written; no file is left half written.
    """
    require_module(module, "what is to be saved")
    if not isinstance(model_spec, str):
        raise InputError(f"model_spec is {kind(model_spec)}: pass a text, such as a timm name")
    teleportation = teleportation_of(module)
    if teleportation is None:
        raise InputError(
            "save takes a network that plan.rewrite emitted: this module knows no plan (any more: it has the state"
            " dict of one with another change of basis?)"
        )
    cob = ChangeOfBasis(teleportation.cob.values.detach().cpu(), teleportation.cob.fingerprint)
    tensors, extra = parted(module.state_dict())
    size = None if input_size is None else [int(n) for n in input_size]
    description = _description(module, teleportation.plan, _identity(cob), model_spec, size, extra)
    files = paths(path)
    for file in files:
        require_writable(file)
    fresh = [file for file in files if not file.exists()]
    try:
        write_tensors(files[0], unshared(tensors), {MARK: f"{description.mode} {description.id}"})
        cob.save(files[1])
        description.write(files[2])
    except CheckpointError:
        for file in fresh:
            file.unlink(missing_ok=True)
        raise
    return files


@checked
def load(path: str | Path, model: nn.Module | None = None) -> TeleportedModule:
    """Rebuild a network that `save` wrote, on the CPU and in eval mode.

    Args:
        path: X, or any of its three files.
        model: the original model (its weights do not matter); needed unless it was a timm or torchvision name.

    Raises:
        CheckpointError: a file is missing, corrupt, or does not belong to the others or to the model.
        ModelError: the named model cannot be built, or `model` is no `nn.Module`.
    """
    if model is not None:
        require_module(model)
    weights, basis, described = paths(path)
    saved = Description.read(described)
    tensors, marks = read_tensors(weights)
    cob = ChangeOfBasis.load(basis)
    if marks.get(MARK) != f"{saved.mode} {saved.id}" or _identity(cob) != saved.id:
        raise CheckpointError(f"'{weights}', '{basis}' and '{described.name}' belong to different networks")
    original = _built(saved) if model is None else _converted(model, number_format(saved.dtype))
    _put_indices(original, tensors)
    planned = _planned(original, saved)
    if planned.fingerprint != saved.fingerprint or not _has_saved_settings(planned, saved):
        raise CheckpointError(
            f"'{weights}' was made from another model than this '{saved.model}' (or one of other settings), or with"
            f" other versions ({versions_text(saved.versions)}; here {versions_text(installed_versions())})"
        )
    network = planned.rewrite(cob)
    own = network.state_dict()
    if saved.format == 1:
        added = {place.key for place in places(network)}
        tensors = {name: tensor for name, tensor in own.items() if name in added} | tensors
    try:
        network.load_state_dict(tensors | extra_state(own, saved.extra_state, saved.model), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"'{weights}' does not fit '{saved.model}': {error}") from None
    return network


def paths(path: str | Path) -> list[Path]:
    """The three files of a checkpoint.

    Raises:
        CheckpointError: the path has no name, its folder does not exist, or a folder is in a file's place.
    """
    text = str(path)
    stem = Path(next((text.removesuffix(s) for s in _SUFFIXES if text.endswith(s)), text))
    if not stem.name:
        raise CheckpointError(f"'{path}' names no file")
    if not stem.parent.is_dir():
        raise CheckpointError(f"there is no folder '{stem.parent}' for '{path}'")
    files = [stem.with_name(stem.name + suffix) for suffix in (".safetensors", ".cob.safetensors", ".json")]
    folder = next((f for f in files if os.path.isdir(f)), None)
    if folder is not None:
        raise CheckpointError(f"'{folder}' is a folder, not a file")
    return files


def _description(
    module: nn.Module, made: Analysis, identity: str, model: str, size: list[int] | None, extra: dict[str, object]
) -> Description:
    first = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())
    return Description(
        format=FORMAT,
        id=identity,
        model=model,
        mode=made.mode,
        norm_stats=made.norm_stats,
        input_size=size,
        inputs=described_inputs(made),
        dtype=str(first).removeprefix("torch."),
        extra_state=extra,
        fingerprint=made.fingerprint,
        settings=made.planned.hash_of_settings(),
        versions=installed_versions(),
        data_guards=made.data_guards,
        norms=made.norms,
    )


def _identity(cob: ChangeOfBasis) -> str:
    """A hash of a change of basis, which identifies the three files of one network."""
    sha = hashlib.sha256(cob.fingerprint.encode())
    sha.update(cob.values.contiguous().numpy().tobytes())
    return sha.hexdigest()[:32]


def _built(saved: Description) -> nn.Module:
    """Build the original by its name, with timm or torchvision alone; a file cannot name other code."""
    from fxteleport.models import zoo

    try:
        zoo.check_name(saved.model)
    except ModelError:
        raise CheckpointError(
            f"this network was made from '{saved.model}', which is no timm or torchvision name: pass model= to load"
        ) from None
    size = saved.input_size
    model = zoo.build(saved.model, tuple(size) if size else None).model
    return model.to(number_format(saved.dtype))


def _converted(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of the caller's model as it was when saved: on the CPU, in the file's number format, in eval mode."""
    return evaluate(copy.deepcopy(model).to("cpu", dtype))


def _put_indices(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give a model the saved index buffers, whose values a plan reads; `load_state_dict` checks them later."""
    for name, own in model.state_dict().items():
        saved = tensors.get(name)
        if isinstance(own, Tensor) and saved is not None and saved.shape == own.shape and not carries(own):
            own.copy_(saved)


def _planned(model: nn.Module, saved: Description) -> Plan:
    inputs = inputs_from(saved.inputs)
    settings: Any = {"mode": saved.mode, "norm_stats": saved.norm_stats, "data_guards": saved.data_guards}
    settings["norms"] = saved.norms
    kinds = {p.kind for p in inspect.signature(model.forward).parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return plan(model, *inputs.values(), **settings)
    return plan(model, **inputs, **settings)


def _has_saved_settings(made: Analysis, saved: Description) -> bool:
    """False where a module's settings are not those that were saved; other versions may have others."""
    if saved.settings is None or saved.versions != installed_versions():
        return True
    return saved.settings == made.planned.hash_of_settings()
