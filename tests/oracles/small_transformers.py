"""Small random networks of Hugging Face's transformers: a configuration with small sizes, and inputs for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

import fxteleport as ft

LARGEST = 40_000_000  # parameters of a network that is tried
# Settings by name, with a small value for each.
SMALL: dict[str, int] = {
    "vocab_size": 60, "num_labels": 3, "num_mel_bins": 16, "image_size": 32, "patch_size": 8,
    "num_experts_per_tok": 2, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "num_key_value_heads": 2, "head_dim": 8, "num_attention_heads": 4, "num_heads": 4, "n_head": 4,
    "attention_heads": 4, "encoder_layers": 2, "decoder_layers": 2, "num_hidden_layers": 2, "n_layer": 2,
    "num_layers": 2, "n_layers": 2, "depth": 2, "intermediate_size": 48, "ffn_dim": 48, "d_ff": 48, "mlp_dim": 48,
    "n_inner": 48, "hidden_size": 32, "d_model": 32, "n_embd": 32, "embed_dim": 32, "embedding_size": 32,
    "projection_dim": 32, "dim": 32, "num_queries": 5, "max_position_embeddings": 64, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "q_lora_rank": 16, "kv_lora_rank": 16,
}  # fmt: skip
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class Shrinking(NamedTuple):
    """How a configuration is made small.

    Attributes:
        names: the settings that get their small value.
        part: other whole numbers from `_LARGE` on are divided by this, so that their ratios stay.
    """

    names: frozenset[str]
    part: int = 1


_LAYERS = frozenset(
    "vocab_size encoder_layers decoder_layers num_hidden_layers n_layer num_layers n_layers num_queries".split()
)
_HEADS = frozenset("num_attention_heads num_heads n_head attention_heads num_key_value_heads head_dim".split())
_LARGE = 128
_OF_IMAGES = ("image_size", "patch_size", "num_channels", "sampling_rate", "num_mel_bins")
# Architectures differ in which sizes must fit each other: what is shrunk, from the most to the least.
SHRINKINGS: tuple[Shrinking, ...] = (
    Shrinking(frozenset(SMALL)),
    Shrinking(frozenset(SMALL) - {"head_dim", "num_key_value_heads"}),
    Shrinking(frozenset(SMALL) - _HEADS),
    Shrinking(_LAYERS, 16),
    Shrinking(_LAYERS, 8),
    Shrinking(_LAYERS),
)


def shrunk(kind: type, by: Shrinking) -> Any:
    """A configuration with small values of some settings, and its parts' alike."""
    takes, names = inspect.signature(kind.__init__).parameters, by.names
    given: dict[str, Any] = {}
    default = vars(kind())
    layers = {value for name, value in default.items() if name in _LAYERS and type(value) is int}
    for name, value in default.items():
        if name not in takes:
            continue
        if getattr(value, "model_type", None) == "timm_backbone":  # it names weights to download
            given[name] = _backbone()
        elif isinstance(getattr(value, "model_type", None), str):
            given[name] = shrunk(type(value), by)
        elif type(value) is int and name in names:
            given[name] = min(value, SMALL[name])
        elif name in _TOKENS and "vocab_size" in names and (type(value) is int or name == "pad_token_id"):
            given[name] = _TOKENS[name]
        elif name.endswith("_token_id") and isinstance(value, int) and "vocab_size" in names:
            given[name] = min(value, 1)
        elif isinstance(value, list) and len(value) in layers:  # what each layer is
            given[name] = value[:2]
        elif type(value) is int and value >= _LARGE and name not in _OF_IMAGES:
            given[name] = value // by.part
    made = kind(**given, **({"use_cache": False} if "use_cache" in takes else {}))
    if getattr(made, "is_encoder_decoder", False) and getattr(made, "decoder_start_token_id", None) is None:
        made.decoder_start_token_id = 0
    return made


def _backbone() -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 16, 32, 32], depths=[1] * 4, out_features=["stage2", "stage3", "stage4"]
    )


def inputs_for(model: nn.Module, config: Any) -> Iterator[dict[str, Any]]:
    """Inputs that the model may run on, the likeliest first."""
    takes = inspect.signature(model.forward).parameters
    side = setting(config, "image_size", 32)
    side = side if isinstance(side, int) else 32
    channels = setting(config, "num_channels", 3)
    mels = setting(config, "num_mel_bins", 16)
    tokens = torch.arange(14).view(2, 7) % 50 + 3
    draw = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    texts: dict[str, Any] = {"input_ids": tokens, "decoder_input_ids": tokens}
    images = {"pixel_values": noise(2, channels if isinstance(channels, int) else 3, side, side)}
    sounds = [
        {"input_values": noise(2, 2000)}, {"input_values": noise(2, 1, 2000)}, {"input_features": noise(2, mels, 64)},
        {"input_features": noise(2, 64, mels)}, {"input_features": noise(2, mels, 3000)},
    ]  # fmt: skip
    clips = {"pixel_values_videos": noise(1, 4, 3, side, side), "pixel_values": noise(1, 4, 3, side, side)}
    pairs = {"pixel_values": noise(1, 2, 3, side, side)}
    for given in (texts | images, texts, images, *sounds, *(texts | s for s in sounds), clips, pairs):
        fitting = {k: v for k, v in given.items() if k in takes}
        if fitting:
            yield fitting
    main = getattr(model, "main_input_name", "")
    if isinstance(main, str) and main in takes:
        for shape in ((2, 7, 32), (2, 64, 16), (2, 3, side, side), (2, 500)):
            yield {main: noise(*shape)}


def setting(config: Any, name: str, default: Any) -> Any:
    """A setting of a configuration, or of the first of its parts that has it."""
    for held in (config, *(v for v in vars(config).values() if hasattr(v, "model_type"))):
        if (value := getattr(held, name, None)) is not None:
            return value
    return default


class Unfit(Exception):
    """A network that cannot be tried: why."""


def built(
    config_name: str, model_name: str, inputs: Callable[[nn.Module, Any], Iterable[dict[str, Any]]] = inputs_for
) -> tuple[nn.Module, Any, dict[str, Any]]:
    """A small network, its configuration, and inputs that it runs on: by the first shrinking that its sizes allow.

    Raises:
        Unfit: by none.
    """
    why: list[str] = []
    for by in SHRINKINGS:
        try:
            return _attempt(config_name, model_name, by, inputs)
        except Unfit as error:
            why.append(str(error))
    raise Unfit(next((w for w in why if w.startswith("does not run")), why[0]))


def _attempt(
    config_name: str, model_name: str, by: Shrinking, inputs: Callable[..., Iterable[dict[str, Any]]]
) -> tuple[nn.Module, Any, dict[str, Any]]:
    import transformers

    try:
        config, kind = shrunk(getattr(transformers, config_name), by), getattr(transformers, model_name)
        with torch.device("meta"):
            size = sum(p.numel() for p in kind(config).parameters())
        if size > LARGEST:
            raise Unfit(f"{size:,} parameters")
        model = ft.randomize(kind(config)).eval()
    except Unfit:
        raise
    except Exception as error:
        raise Unfit(f"not built: {type(error).__name__}: {str(error)[:100]}") from error
    first = "no inputs are known for it"
    for given in inputs(model, config):
        try:
            with torch.no_grad():
                model(**given)
        except Exception as error:
            first = f"{type(error).__name__}: {str(error)[:100]}" if first.startswith("no inputs") else first
            continue
        return model, config, given
    raise Unfit(f"does not run: {first}")
