"""Architectures of the clinic's models, all of them stock diffusers and transformers classes."""

from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel

LATENT_CHANNELS = 8


def autoencoder() -> AutoencoderKL:
    """Four times smaller latents of 8 channels. With 4 channels the reconstructions themselves look like artifacts."""
    return AutoencoderKL(
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(24, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
        force_upcast=False,
    )
