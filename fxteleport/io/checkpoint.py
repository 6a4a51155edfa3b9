"""Checkpoints: a teleported network on disk, as three files.

    X.safetensors       its state dict: the original's keys, and the CoBs of operations that are others
    X.cob.safetensors   its change of basis
    X.json              what it was made from: model, inputs, mode, versions

Loading plans the original again and rewrites it with the change of basis, so no code is ever read from a file.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxteleport.atomic_files import read_json, read_tensors, write_tensors, write_text
from fxteleport.passes.errors import CheckpointError, InputError, ModelError
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.rewrite.rewrite import TeleportedModule
from fxteleport.passes.rules.call import carries
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.plan import MODES, NORM_STATS, Plan, plan

_KIND = "fxteleport network"
_FORMAT = 2  # in 1, the state dict did not hold the CoBs of operations
MARK = "teleported"  # the one key of X.safetensors' metadata: "MODE ID" (their order in a file is random)
_SUFFIXES = (".cob.safetensors", ".safetensors", ".json")


def save(
    path: str | Path, module: fx.GraphModule, model_spec: str, input_size: Sequence[int] | None = None
) -> list[Path]:
    """Write a teleported network, as emitted by `plan.rewrite`; returns the three files.

    Args:
        path: X, with or without `.safetensors`.
        module: the network, perhaps trained since.
        model_spec: what it was made from: a timm name, "torchvision/NAME", or anything else, which `load` is then
            to be given a model for.
        input_size: (C, H, W) that the model was built for, where that is not its own.

    Raises:
        InputError: the module was not emitted by `plan.rewrite`.
        CheckpointError: a path cannot be written; no file is left half written.
    """
    made = getattr(module, "meta", {}).get("teleportation")
    if made is None:
        raise InputError(
            "save takes a network that plan.rewrite emitted: this module knows no plan (any more: it has the state"
            " dict of one with another change of basis?)"
        )
    cob = ChangeOfBasis(made.cob.values.detach().cpu(), made.cob.fingerprint)
    tensors, extra = _parted(module.state_dict())
    description = {
        "kind": _KIND,
        "format": _FORMAT,
        "id": _identity(cob),
        "model": model_spec,
        "mode": made.plan.mode,
        "norm_stats": made.plan.norm_stats,
        "input_size": None if input_size is None else list(input_size),
        "inputs": _inputs(made.plan),
        "dtype": _dtype(module),
        "extra_state": extra,
        "fingerprint": made.plan.fingerprint,
        "settings": made.plan.planned.hash_of_settings(),
        "versions": _versions(),
    }
    files = paths(path)
    fresh = [file for file in files if not file.exists()]
    try:
        write_tensors(files[0], _unshared(tensors), {MARK: f"{made.plan.mode} {description['id']}"})
        cob.save(files[1])
        write_text(files[2], json.dumps(description, indent=2) + "\n")
    except CheckpointError:
        for file in fresh:
            file.unlink(missing_ok=True)
        raise
    return files


def load(path: str | Path, model: nn.Module | None = None) -> TeleportedModule:
    """Rebuild a network that `save` wrote, on the CPU and in eval mode.

    Args:
        path: X, or any of its three files.
        model: the original model (its weights do not matter); needed unless it was a timm or torchvision name.

    Raises:
        CheckpointError: a file is missing, corrupt, or does not belong to the others or to the model.
        ModelError: the named model cannot be built.
    """
    weights, basis, description = paths(path)
    facts = _description(description)
    tensors, marks = read_tensors(weights)
    cob = ChangeOfBasis.load(basis)
    if marks.get(MARK) != f"{facts['mode']} {facts['id']}" or _identity(cob) != facts["id"]:
        raise CheckpointError(f"'{weights}', '{basis}' and '{description.name}' belong to different networks")
    built = _build(facts) if model is None else _converted(model, _torch_dtype(facts["dtype"]))
    _put_indices(built, tensors)
    found = _planned(built, facts)
    if found.fingerprint != facts["fingerprint"] or not _is_set_alike(found, facts):
        raise CheckpointError(
            f"'{weights}' was made from another model than this '{facts['model']}' (or one of other settings), or with"
            " other versions"
            f" ({_said(facts['versions'])}; here {_said(_versions())})"
        )
    result = found.rewrite(cob)
    own = result.state_dict()
    if facts["format"] == 1:
        added = {place.key for place in result.places}
        tensors = {name: tensor for name, tensor in own.items() if name in added} | tensors
    try:
        result.load_state_dict(tensors | _extra_state(facts, own), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"'{weights}' does not fit '{facts['model']}': {error}") from None
    return result


def paths(path: str | Path) -> list[Path]:
    """The three files of a checkpoint.

    Raises:
        CheckpointError: the path has no name, or its folder does not exist.
    """
    text = str(path)
    stem = Path(next((text.removesuffix(s) for s in _SUFFIXES if text.endswith(s)), text))
    if not stem.name:
        raise CheckpointError(f"'{path}' names no file")
    if not stem.parent.is_dir():
        raise CheckpointError(f"there is no folder '{stem.parent}' for '{path}'")
    files = [stem.with_name(stem.name + suffix) for suffix in (".safetensors", ".cob.safetensors", ".json")]
    folder = next((f for f in files if f.is_dir()), None)
    if folder is not None:
        raise CheckpointError(f"'{folder}' is a folder, not a file")
    return files


# -- what is written -------------------------------------------------------------------------------------


def _parted(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a state dict, and the extra state of modules that is text and numbers, as JSON has it."""
    tensors: dict[str, Tensor] = {}
    extra: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            tensors[name] = value
            continue
        try:
            extra[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            raise CheckpointError(
                f"'{name}' of the state dict is a {type(value).__name__}: only tensors, text and numbers can be saved"
            ) from None
    return tensors, extra


def _extra_state(facts: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The extra state of a network that was built again; it must be what was saved.

    Raises:
        CheckpointError: it is not.
    """
    found = _parted(own)[1]
    wrong = next((name for name, saved in facts["extra_state"].items() if found.get(name) != saved), None)
    if wrong is not None:
        raise CheckpointError(f"'{wrong}' is not what it was when '{facts['model']}' was saved: pass that model")
    return {name: own[name] for name in found}


def _unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor in memory of its own, as safetensors wants it: tied weights appear under each name."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if tensor.layout is not torch.strided:
            raise CheckpointError(f"'{name}' of the state dict is sparse: safetensors keeps dense tensors only")
        memory = tensor.untyped_storage().data_ptr()
        own = memory not in seen and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        seen.add(memory)
        found[name] = tensor if own else tensor.detach().clone(memory_format=torch.contiguous_format)
    return found


def _identity(cob: ChangeOfBasis) -> str:
    """What the three files of one network share."""
    sha = hashlib.sha256(cob.fingerprint.encode())
    sha.update(cob.values.contiguous().numpy().tobytes())
    return sha.hexdigest()[:32]


def _inputs(made: Plan) -> list[dict[str, Any]]:
    """The example inputs of a plan, without their values."""
    nodes = [n for n in made.captured.graph.nodes if n.op == "placeholder"]
    return [{"name": str(n.target), "value": _written(info(n).value, str(n.target))} for n in nodes]


def _written(value: Any, name: str) -> Any:
    if isinstance(value, Tensor):
        return {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_written(v, name) for v in value]}
    if isinstance(value, dict):
        return {"dict": {k: _written(v, name) for k, v in value.items()}}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"plain": value}
    raise CheckpointError(f"input '{name}' holds a {type(value).__name__}, which a checkpoint cannot describe")


def _dtype(module: nn.Module) -> str:
    found = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())
    return str(found).removeprefix("torch.")


@functools.cache
def _versions() -> dict[str, str]:
    installed = metadata.packages_distributions()
    names = ("fxteleport", "torch", "timm", "torchvision")
    return {name: metadata.version(name) if name in installed else "none" for name in names}


def _said(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


# -- what is read ----------------------------------------------------------------------------------------

_LARGEST_INPUT, _LARGEST_RANK = 2**28, 16
_FACTS: dict[str, type | tuple[type, ...]] = {
    "id": str, "model": str, "mode": str, "norm_stats": str, "input_size": (list, type(None)), "inputs": list,
    "dtype": str, "fingerprint": str, "versions": dict, "format": int, "extra_state": dict,
}  # fmt: skip
_BEFORE_FORMAT_2: dict[str, Any] = {"format": 1, "extra_state": {}}


def _description(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = _BEFORE_FORMAT_2 | read_json(path)
    if facts.get("kind") != _KIND or not all(isinstance(facts.get(k, 0), t) for k, t in _FACTS.items()):
        raise CheckpointError(f"'{path}' describes no teleported network: pass a file that fxteleport.save wrote")
    if facts["format"] not in (1, _FORMAT):
        raise CheckpointError(
            f"'{path}' has format {facts['format']}, which this version does not know: use a newer one"
        )
    if facts["mode"] not in MODES or facts["norm_stats"] not in NORM_STATS:
        raise CheckpointError(f"'{path}' names a mode or norm statistics that do not exist: it is corrupt")
    if facts["input_size"] is not None:
        _require_size(facts["input_size"])
    return facts


def _require_size(size: Any) -> None:
    """A file may not ask for more memory than an input takes."""
    if not isinstance(size, list) or not all(type(n) is int and n >= 0 for n in size):
        raise CheckpointError(f"the checkpoint describes an input of no possible size, {str(size)[:80]}")
    if len(size) > _LARGEST_RANK or math.prod(size) > _LARGEST_INPUT:
        raise CheckpointError(f"the checkpoint describes an input of size {str(size)[:80]}, which is out of all bounds")


def _torch_dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise CheckpointError(f"the checkpoint names an unknown number format '{name}'")
    return found


def _build(facts: dict[str, Any]) -> nn.Module:
    """The original, by its name: only what timm or torchvision builds; never code that a file points to."""
    from fxteleport.models import zoo

    try:
        zoo.check_name(facts["model"])
    except ModelError:
        raise CheckpointError(
            f"this network was made from '{facts['model']}', which is no timm or torchvision name: pass model= to load"
        ) from None
    size = facts["input_size"]
    model = zoo.build(facts["model"], tuple(size) if size else None).model
    return model.to(_torch_dtype(facts["dtype"]))


def _converted(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The caller's model as it was when saved: on the CPU, in the file's number format; the caller's is not touched."""
    return copy.deepcopy(model).to("cpu", dtype).eval()


def _put_indices(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give a model the saved index buffers, whose values a plan looks into; what does not fit is found later."""
    for name, held in model.state_dict().items():
        given = tensors.get(name)
        if isinstance(held, Tensor) and given is not None and given.shape == held.shape and not carries(held):
            held.copy_(given)


def _is_set_alike(found: Plan, facts: dict[str, Any]) -> bool:
    """False where a module's settings are not those that were saved; other versions may have others."""
    said = facts.get("settings")  # earlier versions wrote none
    return said is None or facts["versions"] != _versions() or said == found.planned.hash_of_settings()


def _planned(model: nn.Module, facts: dict[str, Any]) -> Plan:
    try:
        values = {item["name"]: _read(item["value"]) for item in facts["inputs"]}
        if not all(isinstance(name, str) for name in values):
            raise TypeError("an argument's name is no text")
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, StopIteration):
        raise CheckpointError("the checkpoint's description of the inputs is corrupt") from None
    kinds = {p.kind for p in inspect.signature(model.forward).parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return plan(model, *values.values(), mode=facts["mode"], norm_stats=facts["norm_stats"])
    return plan(model, **values, mode=facts["mode"], norm_stats=facts["norm_stats"])


def _read(item: dict[str, Any]) -> Any:
    if "tensor" in item:
        _require_size(item["tensor"])
        return torch.zeros(item["tensor"], dtype=_torch_dtype(item["dtype"]))
    kind, value = next(iter(item.items()))
    if kind == "plain":
        return value
    if kind == "dict":
        return {k: _read(v) for k, v in value.items()}
    return {"list": list, "tuple": tuple}[kind](_read(v) for v in value)
