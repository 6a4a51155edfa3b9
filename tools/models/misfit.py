"""Why a state dict does not fit a network: which tensors, with their shapes, and which option helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn


def misfit(model: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Why a state dict does not fit a network; "" where it fits."""
    missing, unexpected = [n for n in own if n not in state], [n for n in state if n not in own]
    wrong = [n for n in own if n in state and own[n].shape != state[n].shape]
    shapes = "" if not wrong else f" {tuple(state[wrong[0]].shape)}, here {tuple(own[wrong[0]].shape)}"
    integers = [n for n in own if n in state and _has_fractions(own[n]) and not _has_fractions(state[n])]
    kinds = (
        (missing, "missing", ""), (unexpected, "unknown", ""), (wrong, "of another shape", shapes),
        (integers, "of integers that are fractions here", ""),
    )  # fmt: skip
    problems = [f"{len(n)} {what} (the first: '{n[0]}'{more})" for n, what, more in kinds if n]
    if not problems:
        return ""
    hints = [] if missing or unexpected else list(filter(None, (_hint(model, n, own[n], state[n]) for n in wrong)))
    if integers or len(hints) < len(wrong) or not hints:
        return f"tensors {', '.join(problems)}"
    return f"tensors {', '.join(problems)}: pass {' '.join(dict.fromkeys(hints))}"


def _has_fractions(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _hint(model: nn.Module, name: str, own: Tensor, held: Tensor) -> str:
    """The option with which the network would have a tensor of the saved shape; "" if none is known."""
    layer = name.rpartition(".")[0]
    if layer in _named(model, "classifier") or (not _config(model) and own.shape[1:] == held.shape[1:]):
        return f"--model-kwargs num_classes={held.shape[0]}" if own.shape[1:] == held.shape[1:] else ""
    if layer in _named(model, "first_conv") and held.ndim == 4:
        return f"--model-kwargs in_chans={held.shape[1]}"
    if "pos_embed" in name or "relative_position" in name:
        return "--input-size with the size that it was trained on"
    return ""


def _named(model: nn.Module, key: str) -> Sequence[str]:
    """The layers that timm's configuration of a network names."""
    layers = _config(model).get(key) or ()
    return (layers,) if isinstance(layers, str) else tuple(layers)


def _config(model: nn.Module) -> Mapping[str, str | Sequence[str] | None]:
    config = getattr(model, "pretrained_cfg", None)
    return config if isinstance(config, Mapping) else {}
