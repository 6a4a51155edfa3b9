"""State dicts from files, by whomever they were saved, into a network: timm's and Lightning's scripts, DDP, compile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from fxteleport.io.checkpoint import MARK
from fxteleport.passes.errors import CheckpointError
from fxteleport.tensor_files import read_pickled, read_tensors
from fxteleport.tools.models.misfit import misfit

# Where training scripts keep the weights, the averaged ones first, as timm loads them.
_HELD_UNDER = ("state_dict_ema", "model_ema", "state_dict", "model_state", "model")
_COMPILED = "_orig_mod."  # what torch.compile puts into names


def load_state(model: nn.Module, path: Path) -> str:
    """Load a state dict (safetensors or a torch file), strictly; returns what it was held under in the file, or "".

    Names may have a prefix, as those of a model that DDP, `torch.compile` or a Lightning module held.

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
    """The tensors by the names that they had before the model was held by something else.

    Beside a model's own tensors under a prefix, a training script keeps others (of a loss, of metrics): they are left
    out where all of the model's are there.
    """
    state = {name.replace(_COMPILED, ""): tensor for name, tensor in state.items()}
    if not own or not own.keys().isdisjoint(state):
        return state
    prefixes = list(dict.fromkeys(_prefixes(state, own)))
    whole = [p for p in prefixes if all(p + name in state for name in own)]
    if len(whole) > 1:
        under = " and ".join(f"'{p}'" for p in whole)
        raise CheckpointError(f"'{path}' holds several such networks, under {under}: save the state dict of one")
    if whole:
        return {name: state[whole[0] + name] for name in own}
    if not prefixes:
        return state
    nearest = max(prefixes, key=lambda p: sum(p + name in state for name in own))
    return {name.removeprefix(nearest): tensor for name, tensor in state.items()}


def _prefixes(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Iterator[str]:
    """What may stand before the names of the model: by the first of them that occurs behind anything."""
    for name in own:
        found = [held.removesuffix(name) for held in state if held.endswith(f".{name}")]
        if found:
            yield from found
            return


def _read_state(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file, and what they were held under."""
    if not path.is_file():
        raise CheckpointError(f"there is no file '{path}'")
    if path.suffix == ".safetensors":
        state, marks = read_tensors(path)
        if marks.get(MARK, "").startswith("full "):
            raise CheckpointError(f"'{path}' holds a network with teleported activations: use fxteleport.load")
        return state, ""
    found, under = read_pickled(path), ""
    while isinstance(found, dict):
        key = next((k for k in _HELD_UNDER if isinstance(found.get(k), dict)), None)
        if key is None:
            break
        found, under = found[key], key
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise CheckpointError(f"'{path}' holds no state dict")
    return dict(found), under
