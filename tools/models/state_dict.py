"""State dicts from files, by whomever they were saved, into a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from fxteleport.io.checkpoint import MARK
from fxteleport.passes.errors import CheckpointError
from fxteleport.tensor_files import read_pickled, read_tensors

_WRAPPERS = ("module.", "_orig_mod.")


def load_state(model: nn.Module, path: Path) -> None:
    """Load a state dict (safetensors or a torch file), perhaps under "state_dict" or "model", strictly.

    Raises:
        CheckpointError: the file is missing, corrupt, or does not fit the model.
    """
    own = model.state_dict()
    state = _unwrapped(_read_state(path), own)
    missing, unexpected = [n for n in own if n not in state], [n for n in state if n not in own]
    wrong = [n for n in own if n in state and own[n].shape != state[n].shape]
    problems = [
        f"{len(names)} {what} (the first: '{names[0]}')"
        for names, what in ((missing, "missing"), (unexpected, "unknown"), (wrong, "of another shape"))
        if names
    ]
    if problems:
        raise CheckpointError(f"'{path}' is not a checkpoint of this model: tensors {', '.join(problems)}")
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"'{path}' does not fit this model: {error}") from None


def _unwrapped(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names that they had before DDP or `torch.compile` wrapped the model they were saved from."""
    while own.keys().isdisjoint(state):
        prefix = next((p for p in _WRAPPERS if state and all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"there is no file '{path}'")
    if path.suffix == ".safetensors":
        state, marks = read_tensors(path)
        if marks.get(MARK, "").startswith("full "):
            raise CheckpointError(f"'{path}' holds a network with teleported activations: use fxteleport.load")
        return state
    found = read_pickled(path)
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise CheckpointError(f"'{path}' holds no state dict")
    return dict(found)
