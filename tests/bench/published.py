"""Sizes of the usual published weights of every class that has a row, as their settings state them.

What equals a class's default in diffusers or transformers is left out. No weights, no vocabularies.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Part = tuple[str, str, Mapping[str, Any]]
"""Library, class and settings."""


def _diffusers(kind: str, **settings: Any) -> Part:
    return "diffusers", kind, settings


def _transformers(kind: str, **settings: Any) -> Part:
    return "transformers", kind, settings


FLOW = _diffusers("FlowMatchEulerDiscreteScheduler", shift=3.0)
DYNAMIC = _diffusers("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True, shift=3.0)
NOISE = _diffusers(
    "DDIMScheduler",
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
)
CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "projection_dim": 768,
}
CLIP_H = CLIP_L | {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
}
CLIP_G = CLIP_L | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
LONG = {"max_position_embeddings": 248}
T5_XXL = _transformers(
    "T5EncoderModel",
    vocab_size=32128,
    d_model=4096,
    d_kv=64,
    d_ff=10240,
    num_layers=24,
    num_heads=64,
    feed_forward_proj="gated-gelu",
)
QWEN3_4B = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
GEMMA2_2B = _transformers(
    "Gemma2Model",
    hidden_size=2304,
    intermediate_size=9216,
    num_hidden_layers=26,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=256,
    vocab_size=256000,
)
LLAMA_8B = _transformers(
    "LlamaForCausalLM",
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128256,
)
QWEN25_VL_7B = _transformers(
    "Qwen2_5_VLForConditionalGeneration",
    text_config={
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
    vision_config={
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
    },
)
QWEN3_VL_4B = _transformers(
    "Qwen3VLModel",
    text_config={name: value for name, value in QWEN3_4B.items() if name != "tie_word_embeddings"},
    vision_config={
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 2560,
        "deepstack_visual_indexes": [5, 11, 17],
    },
)
MISTRAL_24B = _transformers(
    "Mistral3ForConditionalGeneration",
    text_config={
        "model_type": "mistral",
        "hidden_size": 5120,
        "intermediate_size": 32768,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 131072,
    },
    vision_config={
        "model_type": "pixtral",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "head_dim": 64,
        "image_size": 1540,
        "patch_size": 14,
    },
)
PILE_T5_XL = _transformers(
    "UMT5EncoderModel",
    vocab_size=32128,
    d_model=2048,
    d_kv=64,
    d_ff=5120,
    num_layers=24,
    num_heads=32,
    feed_forward_proj="gated-gelu",
)


def _kl(channels: int, scale: float, shift: float | None = None) -> Part:
    """The autoencoder of Stable Diffusion and FLUX.1; the latter has no convolution around its latents."""
    blocks: dict[str, Any] = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": channels,
        "sample_size": 1024,
        "scaling_factor": scale,
        "shift_factor": shift,
    }
    plain = {"use_quant_conv": False, "use_post_quant_conv": False} if channels == 16 else {}
    return _diffusers("AutoencoderKL", **blocks, **plain)


FLUX_VAE, SD3_VAE = _kl(16, 0.3611, 0.1159), _kl(16, 1.5305, 0.0609)
SD_VAE, SDXL_VAE = _kl(4, 0.18215), _kl(4, 0.13025)
QWEN_VAE = _diffusers("AutoencoderKLQwenImage")
CLIP = _transformers("CLIPTextModel", **CLIP_L)
CLIP_WITH_PROJECTION = _transformers("CLIPTextModelWithProjection", **CLIP_L)
CLIP_G_WITH_PROJECTION = _transformers("CLIPTextModelWithProjection", **CLIP_G)

PUBLISHED: dict[str, tuple[str, dict[str, Part]]] = {
    "FluxPipeline": (
        "FLUX.1 dev",
        {
            "scheduler": DYNAMIC,
            "transformer": _diffusers("FluxTransformer2DModel", guidance_embeds=True),
            "vae": FLUX_VAE,
            "text_encoder": CLIP,
            "text_encoder_2": T5_XXL,
        },
    ),
    "Flux2Pipeline": (
        "FLUX.2 dev",
        {
            "scheduler": DYNAMIC,
            "transformer": _diffusers("Flux2Transformer2DModel"),
            "vae": _diffusers("AutoencoderKLFlux2"),
            "text_encoder": MISTRAL_24B,
        },
    ),
    "Flux2KleinPipeline": (
        "FLUX.2 klein 4B",
        {
            "scheduler": DYNAMIC,
            "transformer": _diffusers(
                "Flux2Transformer2DModel",
                num_layers=5,
                num_single_layers=20,
                num_attention_heads=24,
                joint_attention_dim=7680,
                guidance_embeds=False,
            ),
            "vae": _diffusers("AutoencoderKLFlux2"),
            "text_encoder": _transformers("Qwen3ForCausalLM", **QWEN3_4B),
        },
    ),
    "QwenImagePipeline": (
        "Qwen-Image",
        {
            "scheduler": DYNAMIC,
            "transformer": _diffusers("QwenImageTransformer2DModel"),
            "vae": QWEN_VAE,
            "text_encoder": QWEN25_VL_7B,
        },
    ),
    "ZImagePipeline": (
        "Z-Image Turbo",
        {
            "scheduler": FLOW,
            "transformer": _diffusers("ZImageTransformer2DModel"),
            "vae": FLUX_VAE,
            "text_encoder": _transformers("Qwen3Model", **QWEN3_4B),
        },
    ),
    "StableDiffusionPipeline": (
        "Stable Diffusion 1.5",
        {
            "scheduler": NOISE,
            "unet": _diffusers("UNet2DConditionModel", sample_size=64, cross_attention_dim=768),
            "vae": SD_VAE,
            "text_encoder": CLIP,
        },
    ),
    "StableDiffusionPipeline-2": (
        "Stable Diffusion 2.1",
        {
            "scheduler": (*NOISE[:2], {**NOISE[2], "prediction_type": "v_prediction"}),
            "unet": _diffusers(
                "UNet2DConditionModel",
                sample_size=96,
                cross_attention_dim=1024,
                attention_head_dim=(5, 10, 20, 20),
                use_linear_projection=True,
            ),
            "vae": SD_VAE,
            "text_encoder": _transformers("CLIPTextModel", **CLIP_H),
        },
    ),
    "StableDiffusionXLPipeline": (
        "Stable Diffusion XL",
        {
            "scheduler": NOISE,
            "unet": _diffusers(
                "UNet2DConditionModel",
                sample_size=128,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                block_out_channels=(320, 640, 1280),
                transformer_layers_per_block=(1, 2, 10),
                attention_head_dim=(5, 10, 20),
                cross_attention_dim=2048,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            ),
            "vae": SDXL_VAE,
            "text_encoder": CLIP,
            "text_encoder_2": CLIP_G_WITH_PROJECTION,
        },
    ),
    "StableDiffusion3Pipeline": (
        "Stable Diffusion 3.5 Large",
        {
            "scheduler": FLOW,
            "transformer": _diffusers(
                "SD3Transformer2DModel",
                num_layers=38,
                num_attention_heads=38,
                caption_projection_dim=2432,
                pos_embed_max_size=192,
                qk_norm="rms_norm",
            ),
            "vae": SD3_VAE,
            "text_encoder": CLIP_WITH_PROJECTION,
            "text_encoder_2": CLIP_G_WITH_PROJECTION,
            "text_encoder_3": T5_XXL,
        },
    ),
    "SanaPipeline": (
        "Sana 1.6B",
        {
            "scheduler": FLOW,
            "transformer": _diffusers("SanaTransformer2DModel"),
            "vae": _diffusers(
                "AutoencoderDC",
                encoder_block_types=("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
                decoder_block_types=("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
                upsample_block_type="interpolate",
                downsample_block_type="Conv",
                scaling_factor=0.41407,
            ),
            "text_encoder": GEMMA2_2B,
        },
    ),
    "PixArtSigmaPipeline": (
        "PixArt-Σ XL 2 1024",
        {
            "scheduler": _diffusers("DDIMScheduler", beta_schedule="linear", clip_sample=False),
            "transformer": _diffusers(
                "PixArtTransformer2DModel", caption_channels=4096, use_additional_conditions=False
            ),
            "vae": SDXL_VAE,
            "text_encoder": T5_XXL,
        },
    ),
    "ChromaPipeline": (
        "Chroma1",
        {
            "scheduler": DYNAMIC,
            "transformer": _diffusers("ChromaTransformer2DModel"),
            "vae": FLUX_VAE,
            "text_encoder": T5_XXL,
        },
    ),
    "Lumina2Pipeline": (
        "Lumina Image 2.0",
        {
            "scheduler": FLOW,
            "transformer": _diffusers("Lumina2Transformer2DModel", cap_feat_dim=2304),
            "vae": FLUX_VAE,
            "text_encoder": GEMMA2_2B,
        },
    ),
    "HiDreamImagePipeline": (
        "HiDream-I1",
        {
            "scheduler": FLOW,
            "transformer": _diffusers(
                "HiDreamImageTransformer2DModel",
                patch_size=2,
                in_channels=16,
                out_channels=16,
                caption_channels=(4096, 4096),
                axes_dims_rope=(64, 32, 32),
                llama_layers=(*range(32), *(31,) * 16),
            ),
            "vae": FLUX_VAE,
            "text_encoder": _transformers("CLIPTextModelWithProjection", **CLIP_L | LONG),
            "text_encoder_2": _transformers("CLIPTextModelWithProjection", **CLIP_G | LONG),
            "text_encoder_3": T5_XXL,
            "text_encoder_4": LLAMA_8B,
        },
    ),
    "Krea2Pipeline": (
        "Krea 2",
        {
            "scheduler": DYNAMIC,
            "transformer": _diffusers("Krea2Transformer2DModel"),
            "vae": QWEN_VAE,
            "text_encoder": QWEN3_VL_4B,
        },
    ),
    "AuraFlowPipeline": (
        "AuraFlow",
        {
            "scheduler": _diffusers("FlowMatchEulerDiscreteScheduler", shift=1.73),
            "transformer": _diffusers("AuraFlowTransformer2DModel"),
            "vae": SDXL_VAE,
            "text_encoder": PILE_T5_XL,
        },
    ),
}
"""Name of the model and its parts, by the keys of `tiny_pipelines.TINY`."""


def write_configs(kind: str, folder: Path) -> Path:
    """The settings of that model as files, as its folder on the hub has them; returns the folder."""
    import transformers

    for name, (library, part, settings) in PUBLISHED[kind][1].items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        if library == "diffusers":
            file = "scheduler_config.json" if name == "scheduler" else "config.json"
            (place / file).write_text(json.dumps({"_class_name": part, **settings}))
            continue
        config = getattr(transformers, part).config_class(**settings)
        config.architectures = [part]
        config.save_pretrained(place)
    return folder
