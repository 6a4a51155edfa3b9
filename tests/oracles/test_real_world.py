"""Networks of other libraries, built from a configuration: exact to the last bit, or pinned for a reason that is named.

`python tests/oracles/test_real_world.py` prints the table of docs/reliability.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection, segmentation

import fxteleport as ft

TOKENS = torch.arange(14).view(2, 7) % 50 + 1
MASK = torch.ones(2, 7, dtype=torch.long).index_fill(1, torch.tensor([6]), 0)
SMALL: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
}  # fmt: skip
PATCHES = {k: v for k, v in SMALL.items() if k != "vocab_size"} | {"image_size": 32, "patch_size": 8}


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


IMAGES = noise(2, 3, 32, 32)


@dataclass(frozen=True)
class Case:
    """A network of a library, its inputs, the share of its parameters that moves, and what is opaque (words of why)."""

    library: str
    build: Callable[[Any], nn.Module]
    inputs: dict[str, Any] | tuple[Any, ...]
    moved: float
    opaque: tuple[str, ...] = ()


def transformer(name: str, settings: dict[str, Any]) -> Callable[[Any], nn.Module]:
    """A model class and its configuration class, by the model's name."""

    def build(library: Any) -> nn.Module:
        model = getattr(library, name)
        made: nn.Module = model(model.config_class(**settings))
        return made

    return build


def clip(library: Any) -> nn.Module:
    config = library.CLIPConfig(text_config=SMALL, vision_config=PATCHES, projection_dim=12)
    made: nn.Module = library.CLIPModel(config)
    return made


NO_CACHE = {"use_cache": False}
T5 = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
GPT2 = {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}
MAMBA = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "intermediate_size": 24}
WHISPER = {
    "vocab_size": 60, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "num_mel_bins": 8,
    "max_source_positions": 8, "max_target_positions": 16, "pad_token_id": 0,
}  # fmt: skip
WAV2VEC2 = SMALL | {
    "conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
CONVNEXT = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
MIXTRAL = SMALL | {"num_key_value_heads": 1, "num_local_experts": 4, "use_cache": False}
LLAMA = SMALL | {"num_key_value_heads": 1}

CASES: dict[str, Case] = {
    "BERT": Case("transformers", transformer("BertModel", SMALL), {"input_ids": TOKENS}, 0.95),
    "BERT, padded batch": Case(
        "transformers",
        transformer("BertForMaskedLM", SMALL),
        {"input_ids": TOKENS, "attention_mask": MASK},
        0.95,
    ),
    "ViT": Case("transformers", transformer("ViTForImageClassification", PATCHES), (IMAGES,), 0.99),
    "GPT-2": Case("transformers", transformer("GPT2LMHeadModel", GPT2 | NO_CACHE), (TOKENS,), 0.95),
    "GPT-2, returns its cache": Case("transformers", transformer("GPT2LMHeadModel", GPT2), (TOKENS,), 0.95),
    "Llama": Case("transformers", transformer("LlamaForCausalLM", LLAMA | NO_CACHE), (TOKENS,), 0.99),
    "Llama, returns its cache": Case("transformers", transformer("LlamaForCausalLM", LLAMA), (TOKENS,), 0.99),
    "Mixtral": Case("transformers", transformer("MixtralForCausalLM", MIXTRAL), (TOKENS,), 0.99),
    "CLIP": Case("transformers", clip, {"input_ids": TOKENS, "pixel_values": IMAGES}, 0.95),
    "Swin": Case("transformers", transformer("SwinModel", SWIN), (IMAGES,), 0.95),
    "ConvNeXt": Case("transformers", transformer("ConvNextForImageClassification", CONVNEXT), (IMAGES,), 0.99),
    "T5": Case(
        "transformers", transformer("T5Model", T5), {"input_ids": TOKENS, "decoder_input_ids": TOKENS}, 0.85
    ),
    "FNet": Case("transformers", transformer("FNetModel", SMALL), (TOKENS,), 0.95),
    "Whisper": Case(
        "transformers",
        transformer("WhisperModel", WHISPER),
        {"input_features": noise(2, 8, 16), "decoder_input_ids": TOKENS},
        0.85,
    ),
    "wav2vec 2.0": Case("transformers", transformer("Wav2Vec2Model", WAV2VEC2), (noise(2, 800),), 0.85),
    "Mamba": Case("transformers", transformer("MambaForCausalLM", MAMBA | NO_CACHE), (TOKENS,), 0.99),
    "Mamba, with its cache": Case("transformers", transformer("MambaForCausalLM", MAMBA), (TOKENS,), 0.99),
    "DeepLabV3, MobileNetV3": Case(
        "torchvision",
        lambda _: segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5),
        (noise(2, 3, 64, 64),),
        0.99,
    ),
    "LR-ASPP": Case(
        "torchvision",
        lambda _: segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5),
        (noise(2, 3, 64, 64),),
        0.99,
    ),
    "SSDlite": Case(
        "torchvision",
        lambda _: detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5),
        ([noise(3, 64, 64), noise(3, 48, 80)],),
        0.99,
        ("function_batched_nms", "picked by a mask that is not known"),
    ),
    "Faster R-CNN": Case(
        "torchvision",
        lambda _: detection.fasterrcnn_mobilenet_v3_large_320_fpn(
            weights=None, weights_backbone=None, num_classes=5, min_size=64, max_size=80, box_score_thresh=0.0
        ),
        ([noise(3, 64, 64), noise(3, 48, 80)],),
        0.99,
        ("function_batched_nms", "box_roi_pool", "function_decode"),
    ),
    "Conv-TasNet": Case(
        "torchaudio",
        lambda library: library.models.ConvTasNet(2, 4, 8, 3, 8, 12, 2, 1),
        (noise(2, 1, 64),),
        0.99,
    ),
    "Hybrid Demucs": Case(
        "torchaudio",
        lambda library: library.models.HDemucs(["a", "b"], channels=8, nfft=256, depth=3),
        (noise(1, 2, 2048),),
        0.99,
    ),
    "DeepSpeech": Case(
        "torchaudio",
        lambda library: library.models.DeepSpeech(8, n_hidden=12, n_class=5),
        (noise(2, 1, 6, 8),),
        0.65,
    ),
    "Emformer": Case(
        "torchaudio",
        lambda library: library.models.Emformer(16, 2, 24, 1, 4, right_context_length=1),
        (noise(2, 9, 16), torch.tensor([8, 8])),
        0.4,
        ("depends on the data",),
    ),
}  # fmt: skip


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, with the time embedding added between."""

    def __init__(self, into: int, out: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, into), nn.Conv2d(into, out, 3, padding=1)
        self.time = nn.Linear(time, out)
        self.norm2, self.conv2 = nn.GroupNorm(4, out), nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Identity() if into == out else nn.Conv2d(into, out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        h = h + self.time(nn.functional.silu(time))[:, :, None, None]
        result: Tensor = self.skip(x) + self.conv2(nn.functional.silu(self.norm2(h)))
        return result


class CrossAttention(nn.Module):
    """Pixels attend to a text."""

    def __init__(self, width: int, text: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(text, width), nn.Linear(text, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in (self.q(pixels), self.k(text), self.v(text)))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(mixed).transpose(1, 2).reshape(x.shape)


class DiffusionUNet(nn.Module):
    """Down, middle, up with skips; sinusoidal time; text by cross-attention: as in latent diffusion."""

    def __init__(self, width: int = 8, text: int = 6) -> None:
        super().__init__()
        time = 4 * width
        self.embed = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.width, self.stem = width, nn.Conv2d(4, width, 3, padding=1)
        self.down1, self.shrink = ResidualBlock(width, width, time), nn.Conv2d(width, width, 3, 2, 1)
        self.down2, self.attend = ResidualBlock(width, 2 * width, time), CrossAttention(2 * width, text)
        self.up1, self.up2 = ResidualBlock(3 * width, width, time), ResidualBlock(2 * width, width, time)
        self.norm, self.head = nn.GroupNorm(4, width), nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, x: Tensor, step: Tensor, text: Tensor) -> Tensor:
        half = self.width // 2
        angles = step[:, None] * torch.exp(-torch.arange(half) / half * 6.0)[None]
        time = self.embed(torch.cat([angles.sin(), angles.cos()], 1))
        stem = self.stem(x)
        first = self.down1(stem, time)
        middle = self.attend(self.down2(self.shrink(first), time), text)
        middle = nn.functional.interpolate(middle, scale_factor=2.0, mode="nearest")
        x = self.up1(torch.cat([middle, first], 1), time)
        x = self.up2(torch.cat([x, stem], 1), time)
        result: Tensor = self.head(nn.functional.silu(self.norm(x)))
        return result


CASES["diffusion UNet"] = Case(
    "torch", lambda _: DiffusionUNet(), (noise(2, 4, 8, 8), torch.tensor([3.0, 70.0]), noise(2, 5, 6)), 0.99
)


def library_of(case: Case) -> Any:
    try:
        return importlib.import_module(case.library)
    except (ImportError, OSError) as error:  # OSError: built for another torch
        pytest.skip(f"{case.library} is not installed: {error}")


def teleported(case: Case, library: Any) -> tuple[ft.Plan, ft.EquivalenceReport]:
    """The plan and the comparison under powers of two, on re-drawn weights."""
    torch.manual_seed(0)
    model = ft.randomize(case.build(library)).eval()
    args, kwargs = ((), case.inputs) if isinstance(case.inputs, dict) else (case.inputs, {})
    plan = ft.plan(model, *args, **kwargs)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    return plan, ft.verify(model, network, *args, **kwargs)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the libraries, and of what is kept whole
@pytest.mark.parametrize("name", CASES)
def test_exact(name: str) -> None:
    case = CASES[name]
    plan, report = teleported(case, library_of(case))
    assert report.passed, report
    assert report.bitwise_equal
    assert plan.moved >= case.moved
    for words in case.opaque:
        assert any(words in o.why for o in plan.opaque), plan.opaque
    for opaque in plan.opaque:
        assert any(words in opaque.why for words in case.opaque), opaque


def main() -> None:
    """Print the table of the documentation."""
    import warnings

    warnings.simplefilter("ignore")
    print("| library | model | free values | moved | opaque, and why | exact |\n|---|---|---:|---:|---|---|")
    for name, case in CASES.items():
        plan, report = teleported(case, importlib.import_module(case.library))
        why = "; ".join(dict.fromkeys(o.why.replace("|", "/") for o in plan.opaque)) or "nothing"
        exact = "bitwise" if report.passed and report.bitwise_equal else "NO"
        print(f"| {case.library} | {name} | {plan.num_free:,} | {plan.moved:.1%} | {why} | {exact} |")


if __name__ == "__main__":
    main()
