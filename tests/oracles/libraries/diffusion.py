"""diffusers."""

from __future__ import annotations

import torch
from survey import call

from libraries.called import Called, noise, of

STEPS = torch.tensor([5, 9])


@of("diffusers", "UNet2DModel")
def unet() -> Called:
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=16,
        block_out_channels=(16, 32),
        norm_num_groups=4,
        layers_per_block=1,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return Called(network, call(noise(2, 3, 16, 16), STEPS), (call(noise(1, 3, 32, 32), 7),))


CONDITIONED = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "attention_head_dim": 8,
    "cross_attention_dim": 12,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
}


@of("diffusers", "UNet2DConditionModel")
def conditioned() -> Called:
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(**CONDITIONED, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    given = call(noise(2, 4, 16, 16), STEPS, noise(2, 7, 12), encoder_attention_mask=mask)
    other = call(noise(3, 4, 32, 32), 7, noise(3, 9, 12), encoder_attention_mask=torch.ones(3, 9, dtype=torch.long))
    return Called(network, given, (other,))


@of("diffusers", "UNet2DConditionModel, with ControlNet residuals")
def controlled() -> Called:
    from diffusers import ControlNetModel, UNet2DConditionModel

    network = UNet2DConditionModel(**CONDITIONED, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    control = ControlNetModel(**{k: v for k, v in CONDITIONED.items() if k != "sample_size"})
    with torch.no_grad():
        given = control(noise(2, 4, 16, 16), STEPS, noise(2, 7, 12), noise(2, 3, 128, 128), return_dict=False)
    residuals = {"down_block_additional_residuals": given[0], "mid_block_additional_residual": given[1]}
    return Called(network, call(noise(2, 4, 16, 16), STEPS, noise(2, 7, 12), **residuals))


@of("diffusers", "ControlNetModel")
def control_net() -> Called:
    from diffusers import ControlNetModel

    network = ControlNetModel(**{k: v for k, v in CONDITIONED.items() if k != "sample_size"})
    given = call(noise(2, 4, 16, 16), STEPS, noise(2, 7, 12), noise(2, 3, 128, 128))
    return Called(network, given, (call(noise(1, 4, 8, 8), 3, noise(1, 5, 12), noise(1, 3, 64, 64)),))


@of("diffusers", "AutoencoderKL")
def autoencoder() -> Called:
    from diffusers import AutoencoderKL

    network = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
    )
    return Called(network, call(noise(2, 3, 16, 16)), (call(noise(1, 3, 32, 32)),))


@of("diffusers", "AutoencoderTiny")
def tiny_autoencoder() -> Called:
    from diffusers import AutoencoderTiny

    network = AutoencoderTiny(
        encoder_block_out_channels=(16, 16),
        decoder_block_out_channels=(16, 16),
        num_encoder_blocks=(1, 2),
        num_decoder_blocks=(2, 1),
    )
    return Called(network, call(noise(2, 3, 16, 16)), (call(noise(1, 3, 32, 32)),))


@of("diffusers", "VQModel")
def quantising() -> Called:
    from diffusers import VQModel

    network = VQModel(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        num_vq_embeddings=16,
    )
    return Called(network, call(noise(2, 3, 16, 16)))


@of("diffusers", "DiTTransformer2DModel")
def dit() -> Called:
    from diffusers import DiTTransformer2DModel

    network = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
    )
    labels = torch.tensor([1, 4])
    return Called(network, call(noise(2, 4, 8, 8), timestep=STEPS, class_labels=labels))


@of("diffusers", "PixArtTransformer2DModel")
def pixart() -> Called:
    from diffusers import PixArtTransformer2DModel

    network = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        cross_attention_dim=16,
        caption_channels=12,
        use_additional_conditions=False,
    )
    given = call(
        noise(2, 4, 8, 8),
        encoder_hidden_states=noise(2, 7, 12),
        timestep=STEPS,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        encoder_attention_mask=torch.tensor([[1] * 7, [1] * 4 + [0] * 3]),
    )
    return Called(network, given)


@of("diffusers", "SD3Transformer2DModel")
def sd3() -> Called:
    from diffusers import SD3Transformer2DModel

    network = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        out_channels=4,
        pos_embed_max_size=8,
    )
    given = call(noise(2, 4, 8, 8), noise(2, 7, 12), noise(2, 10), STEPS)
    return Called(network, given, (call(noise(1, 4, 16, 16), noise(1, 5, 12), noise(1, 10), STEPS[:1]),))


@of("diffusers", "FluxTransformer2DModel")
def flux() -> Called:
    from diffusers import FluxTransformer2DModel

    network = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )

    def of_size(batch: int, image: int, text: int) -> dict[str, torch.Tensor]:
        return {
            "hidden_states": noise(batch, image, 16),
            "encoder_hidden_states": noise(batch, text, 12),
            "pooled_projections": noise(batch, 10),
            "timestep": torch.full((batch,), 0.5),
            "guidance": torch.ones(batch),
            "img_ids": torch.arange(image * 3).view(image, 3).float(),
            "txt_ids": torch.zeros(text, 3),
        }

    return Called(network, call(**of_size(2, 8, 5)), (call(**of_size(1, 12, 4)),))


@of("diffusers", "UNet1DModel")
def unet_1d() -> Called:
    from diffusers import UNet1DModel

    network = UNet1DModel(
        block_out_channels=(16, 32),
        in_channels=3,
        out_channels=3,
        sample_size=32,
        norm_num_groups=4,
        time_embedding_type="positional",
        use_timestep_embedding=True,
        act_fn="silu",
        out_block_type="OutConv1DBlock",
        down_block_types=("DownResnetBlock1D",) * 2,
        up_block_types=("UpResnetBlock1D",),
        layers_per_block=1,
        mid_block_type="MidResTemporalBlock1D",
        flip_sin_to_cos=False,
        downsample_each_block=False,
    )
    return Called(network, call(noise(2, 3, 32), STEPS))


@of("diffusers", "UNetSpatioTemporalConditionModel")
def video() -> Called:
    from diffusers import UNetSpatioTemporalConditionModel

    network = UNetSpatioTemporalConditionModel(
        sample_size=16,
        in_channels=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        num_attention_heads=(2, 4),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        cross_attention_dim=12,
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=48,
    )
    return Called(network, call(noise(1, 2, 8, 16, 16), 5, noise(1, 1, 12), noise(1, 3)))


@of("diffusers", "PriorTransformer")
def prior() -> Called:
    from diffusers import PriorTransformer

    network = PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        embedding_dim=12,
        num_embeddings=7,
        additional_embeddings=4,
    )
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    return Called(network, call(noise(2, 12), STEPS, noise(2, 12), noise(2, 7, 12), mask))


@of("diffusers", "T2IAdapter")
def adapter() -> Called:
    from diffusers import T2IAdapter

    network = T2IAdapter(channels=(16, 32), num_res_blocks=1, downscale_factor=8, in_channels=3)
    return Called(network, call(noise(2, 3, 64, 64)), (call(noise(1, 3, 32, 32)),))


@of("diffusers", "AutoencoderDC")
def deep_compression() -> Called:
    from diffusers import AutoencoderDC

    network = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_out_channels=(16, 16),
        decoder_block_out_channels=(16, 16),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        decoder_act_fns=("silu", "silu"),
        decoder_norm_types=("rms_norm", "rms_norm"),
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
    )
    return Called(network, call(noise(2, 3, 16, 16)), (call(noise(1, 3, 32, 32)),))


@of("diffusers", "LTXVideoTransformer3DModel")
def ltx() -> Called:
    from diffusers import LTXVideoTransformer3DModel

    network = LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=2,
        caption_channels=12,
    )
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    given = call(noise(2, 8, 4), noise(2, 7, 12), STEPS, mask, num_frames=2, height=2, width=2)
    return Called(network, given)


@of("diffusers", "CogVideoXTransformer3DModel")
def cogvideo() -> Called:
    from diffusers import CogVideoXTransformer3DModel

    network = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=16,
        text_embed_dim=12,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        max_text_seq_length=7,
    )
    return Called(network, call(noise(2, 2, 4, 8, 8), noise(2, 7, 12), STEPS))


@of("diffusers", "SanaTransformer2DModel")
def sana() -> Called:
    from diffusers import SanaTransformer2DModel

    network = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        caption_channels=12,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        sample_size=8,
        patch_size=1,
    )
    return Called(network, call(noise(2, 4, 8, 8), noise(2, 7, 12), STEPS))


@of("diffusers", "WanTransformer3DModel")
def wan() -> Called:
    from diffusers import WanTransformer3DModel

    network = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=12,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
    )
    return Called(network, call(noise(2, 4, 2, 8, 8), STEPS, noise(2, 7, 12)))
