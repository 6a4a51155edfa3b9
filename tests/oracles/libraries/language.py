"""open_clip, peft and accelerate: models of texts and images, adapted, and given out to devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from survey import Call, call
from torch import nn

from libraries.called import Called, Method, noise, of, tokens

VISION: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 16, "patch_size": 8, "head_width": 8}
TEXT: dict[str, Any] = {"context_length": 7, "vocab_size": 60, "width": 16, "heads": 2, "layers": 2}
PAIR = call(noise(2, 3, 32, 32), tokens(2, 7))
OTHER_PAIR = call(noise(3, 3, 32, 32), tokens(3, 7))


def clip(vision: dict[str, Any], text: dict[str, Any], **settings: Any) -> Callable[[], Called]:
    def make() -> Called:
        import open_clip

        return Called(open_clip.CLIP(12, vision, text, **settings), PAIR, (OTHER_PAIR,))

    return make


RESNET = VISION | {"layers": [1, 1, 1, 1], "head_width": 16, "patch_size": None}
of("open_clip", "CLIP, ViT")(clip(VISION, TEXT))
of("open_clip", "CLIP, ViT, quick_gelu")(clip(VISION, TEXT, quick_gelu=True))
of("open_clip", "CLIP, ModifiedResNet")(clip(RESNET, TEXT))
of("open_clip", "CLIP, ViT with attentional pooling")(
    clip(VISION | {"attentional_pool": True, "attn_pooler_heads": 2}, TEXT)
)
of("open_clip", "CLIP, timm image tower")(
    clip({"timm_model_name": "resnet18", "timm_model_pretrained": False, "image_size": 32}, TEXT)
)


@of("open_clip", "CLIP, encode_image")
def images() -> Called:
    import open_clip

    network = Method(open_clip.CLIP(12, VISION, TEXT), "encode_image")
    return Called(network, call(noise(2, 3, 32, 32)), (call(noise(3, 3, 32, 32)),))


@of("open_clip", "CustomTextCLIP (SigLIP-like)")
def custom_text() -> Called:
    import open_clip

    network = open_clip.CustomTextCLIP(
        12, VISION, TEXT | {"no_causal_mask": True, "pool_type": "last"}, init_logit_bias=-10
    )
    return Called(network, PAIR, (OTHER_PAIR,))


@of("open_clip", "CoCa")
def coca() -> Called:
    import open_clip

    network = open_clip.CoCa(
        16,
        multimodal_cfg=TEXT | {"mlp_ratio": 2},
        text_cfg=TEXT | {"embed_cls": True, "output_tokens": True},
        vision_cfg=VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    )
    return Called(network, PAIR, (OTHER_PAIR,))


LLAMA = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_key_value_heads": 1,
    "use_cache": False,
}


def llama(**settings: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    network: nn.Module = LlamaForCausalLM(LlamaConfig(**LLAMA | settings))
    return network


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    settings = {k: v for k, v in LLAMA.items() if k not in ("num_key_value_heads", "use_cache")}
    network: nn.Module = BertForSequenceClassification(BertConfig(**settings))
    return network


def text(batch: int, length: int) -> Call:
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[-1, length - 2 :] = 0
    return call(input_ids=tokens(batch, length), attention_mask=mask)


TEXTS, OTHER_TEXTS = text(2, 7), (text(3, 9),)
LINEAR = ["q_proj", "v_proj", "down_proj"]


def adapted(base: Callable[[], nn.Module], kind: str, **settings: Any) -> Callable[[], Called]:
    def make() -> Called:
        import peft

        return Called(peft.get_peft_model(base(), getattr(peft, kind)(**settings)), TEXTS, OTHER_TEXTS)

    return make


for name, base, kind, settings in (
    ("LoRA, Llama", llama, "LoraConfig", {"r": 4, "target_modules": LINEAR, "task_type": "CAUSAL_LM"}),
    (
        "DoRA, Llama",
        llama,
        "LoraConfig",
        {"r": 4, "target_modules": LINEAR, "use_dora": True, "task_type": "CAUSAL_LM"},
    ),
    ("LoRA, BERT", bert, "LoraConfig", {"r": 4, "target_modules": ["query", "value"], "task_type": "SEQ_CLS"}),
    ("AdaLoRA, Llama", llama, "AdaLoraConfig", {"target_modules": LINEAR, "total_step": 10, "task_type": "CAUSAL_LM"}),
    (
        "IA3, Llama",
        llama,
        "IA3Config",
        {"target_modules": LINEAR, "feedforward_modules": ["down_proj"], "task_type": "CAUSAL_LM"},
    ),
    ("LoHa, Llama", llama, "LoHaConfig", {"r": 4, "target_modules": LINEAR, "task_type": "CAUSAL_LM"}),
    ("VeRA, Llama", llama, "VeraConfig", {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}),
    ("OFT, Llama", llama, "OFTConfig", {"oft_block_size": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}),
    ("prompt tuning, Llama", llama, "PromptTuningConfig", {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}),
    (
        "prefix tuning, Llama",
        lambda: llama(use_cache=True),
        "PrefixTuningConfig",
        {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"},
    ),
    (
        "P-tuning, BERT",
        bert,
        "PromptEncoderConfig",
        {"num_virtual_tokens": 3, "encoder_hidden_size": 12, "task_type": "SEQ_CLS"},
    ),
):
    of("peft", name)(adapted(base, kind, **settings))


@of("peft", "LoRA, merged into its Llama")
def merged() -> Called:
    import peft

    network = peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules=LINEAR, task_type="CAUSAL_LM"))
    return Called(network.merge_and_unload(), TEXTS, OTHER_TEXTS)


@of("peft", "LoRA, a timm ViT")
def lora_vit() -> Called:
    import peft
    import timm

    network = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
    network = peft.get_peft_model(network, peft.LoraConfig(r=4, target_modules=["qkv", "fc1"]))
    return Called(network, call(noise(2, 3, 32, 32)), (call(noise(3, 3, 32, 32)),))


@of("accelerate", "Accelerator().prepare, Llama")
def prepared() -> Called:
    import accelerate

    return Called(accelerate.Accelerator(cpu=True).prepare(llama()), TEXTS, OTHER_TEXTS)


@of("accelerate", "dispatch_model, Llama")
def dispatched() -> Called:
    import accelerate

    return Called(accelerate.dispatch_model(llama(), {"": "cpu"}, force_hooks=True), TEXTS, OTHER_TEXTS)


@of("accelerate", "dispatch_model with a map of layers, Llama")
def dispatched_by_layer() -> Called:
    import accelerate

    network = llama()
    where = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "cpu", "model.norm": "cpu"}
    where |= {"model.rotary_emb": "cpu", "lm_head": "cpu"}
    return Called(accelerate.dispatch_model(network, where, force_hooks=True), TEXTS, OTHER_TEXTS)


@of("accelerate", "cpu_offload, Llama")
def offloaded() -> Called:
    import accelerate

    return Called(accelerate.cpu_offload(llama(), execution_device=torch.device("cpu")), TEXTS, OTHER_TEXTS)
