"""Load a state dict from a file into a network, also as saved by timm, Lightning, DDP or torch.compile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from fxteleport.io.checkpoint import MARK
from fxteleport.passes.errors import CheckpointError
from fxteleport.tensor_files import read_pickled, read_tensors
from fxteleport.tools.models.misfit import misfit

# The keys under which training scripts save weights, averaged ones first, as timm loads them.
_HELD_UNDER = ("state_dict_ema", "model_ema", "state_dict", "model_state", "model")
_COMPILED = "_orig_mod."  # torch.compile inserts this into names


def load_state(model: nn.Module, path: Path) -> str:
    """Load a state dict (safetensors or a torch file), strictly; returns its key in the file, or "".

    Names may have a prefix, as from a model inside DDP, `torch.compile` or a Lightning module.

    Raises:
        CheckpointError: the file is missing, corrupt, holds several networks, or does not fit the model.
    """
    own = model.state_dict()
    state, under = _read_state(path)
    state = _unwrapped(state, own, path)
    problem = misfit(model, own, state)
    if problem:
        raise CheckpointError(f"'{path}' is not a checkpoint of this model: {problem}")
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"'{path}' does not fit this model: {error}") from None
    return under


def _unwrapped(state: dict[str, Tensor], own: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors by their names without a wrapper's prefix.

    Tensors without the prefix (of a loss, of metrics) are left out if all of the model's are under it.
    """
    state = {name.replace(_COMPILED, ""): tensor for name, tensor in state.items()}
    if not own or not own.keys().isdisjoint(state):
        return state
    prefixes = list(dict.fromkeys(_prefixes(state, own)))
    complete = [p for p in prefixes if all(p + name in state for name in own)]
    if len(complete) > 1:
        under = " and ".join(f"'{p}'" for p in complete)
        raise CheckpointError(f"'{path}' holds several such networks, under {under}: save the state dict of one")
    if complete:
        return {name: state[complete[0] + name] for name in own}
    if not prefixes:
        return state
    nearest = max(prefixes, key=lambda p: sum(p + name in state for name in own))
    return {name.removeprefix(nearest): tensor for name, tensor in state.items()}


def _prefixes(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Iterator[str]:
    """The possible prefixes of the model's names, from the first name that occurs with one."""
    for name in own:
        prefixes = [held.removesuffix(name) for held in state if held.endswith(f".{name}")]
        if prefixes:
            yield from prefixes
            return


def _read_state(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file, and their key in it."""
    if not path.is_file():
        raise CheckpointError(f"there is no file '{path}'")
    if path.suffix == ".safetensors":
        state, marks = read_tensors(path)
        if marks.get(MARK, "").startswith("full "):
            raise CheckpointError(f"'{path}' holds a network with teleported activations: use fxteleport.load")
        return state, ""
    content, under = read_pickled(path), ""
    while isinstance(content, dict):
        key = next((k for k in _HELD_UNDER if isinstance(content.get(k), dict)), None)
        if key is None:
            break
        content, under = content[key], key
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise CheckpointError(f"'{path}' holds no state dict")
    return dict(content), under
