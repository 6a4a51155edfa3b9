"""Published: the cost of planning models at their published sizes, without their weights.

The configurations are in this file, as transformers' classes take them: nothing is downloaded, and all weights are on
the meta device. Each model is planned in a new process, whose rise of peak memory is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import fxteleport as ft
from fxteleport.tools.models.memory import peak_bytes
from fxteleport.tools.worker_pool import Failure, Limits, WorkerPool

TOKENS = 8


@dataclass(frozen=True)
class Published:
    """Planning one model, once.

    Attributes:
        megabytes: how far the process's memory rose at its peak.
        error: why there are no figures.
    """

    model: str
    parameters: int | None = None
    nodes: int | None = None
    num_free: int | None = None
    moved: float | None = None
    capture_s: float | None = None
    constrain_s: float | None = None
    solve_s: float | None = None
    megabytes: int | None = None
    error: str | None = None


# name -> architecture, configuration, settings other than its defaults (which for many are the published ones)
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mamba-130m": ("MambaForCausalLM", "MambaConfig", {"hidden_size": 768, "num_hidden_layers": 24}),
    "mamba2-2.7b": (
        "Mamba2ForCausalLM", "Mamba2Config",
        {"hidden_size": 2560, "num_hidden_layers": 64, "num_heads": 80, "head_dim": 64, "n_groups": 1,
         "vocab_size": 50288},
    ),
    "llama-3-70b": (
        "LlamaForCausalLM", "LlamaConfig",
        {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
         "num_key_value_heads": 8, "vocab_size": 128256},
    ),
    "mixtral-8x7b": ("MixtralForCausalLM", "MixtralConfig", {}),
    "deepseek-v3": ("DeepseekV3ForCausalLM", "DeepseekV3Config", {}),
    "gpt-oss-120b": ("GptOssForCausalLM", "GptOssConfig", {}),
    "sam-vit-h": (
        "SamVisionModel", "SamVisionConfig",
        {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16,
         "global_attn_indexes": [7, 15, 23, 31]},
    ),
    "mask2former-swin-t": ("Mask2FormerForUniversalSegmentation", "Mask2FormerConfig", {}),
}  # fmt: skip


def published(name: str) -> Published:
    """Plan one of `MODELS` in a process of its own."""
    with WorkerPool(1, Limits(calls=1)) as pool:
        ((_, result),) = pool.run(measure, [(name,)])
    return Published(name, error=str(result)) if isinstance(result, Failure) else result


def measure(name: str) -> Published:
    """Plan one of `MODELS` here."""
    model, inputs = build(*MODELS[name])
    plan, peak = peak_bytes(lambda: ft.plan(model, **inputs))
    parameters = sum(p.numel() for p in model.parameters())
    nodes = len(plan.captured.graph.nodes)
    capture, constrain, solve = (plan.seconds[each] for each in ("capture", "constrain", "solve"))
    return Published(name, parameters, nodes, plan.num_free, plan.moved, capture, constrain, solve, peak >> 20)


def build(architecture: str, configuration: str, settings: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """A model on meta, and what it takes: pictures of its size, or tokens."""
    import transformers

    classes: Callable[[str], Any] = transformers.__getattr__
    config = classes(configuration)(**settings)
    with torch.device("meta"):
        model = classes(architecture)(config).eval()
    if model.main_input_name == "pixel_values":
        size = getattr(config, "image_size", None) or 384
        return model, {"pixel_values": torch.zeros(1, 3, size, size)}
    return model, {"input_ids": torch.zeros(1, TOKENS, dtype=torch.long)}
