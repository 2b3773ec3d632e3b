"""Small pipelines of random weights of further classes, of which the contract holds, too.

As `tiny_pipelines`; `make test-generators` runs them, and `make bench-generators` with `FULL=1` counts them.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from tests.dataengine.treatment.families import tiny_text
from tests.dataengine.treatment.families.tiny_pipelines import (
    FLUX_SCHEDULE,
    PIXART,
    flow,
    flux2_autoencoder,
    kl,
)
from tests.dataengine.treatment.families.tiny_text import WIDTH
from tests.dataengine.treatment.tiny import (
    SIDE,
    autoencoder,
    flux_pipeline,
    t5_tokenizer,
)

DOUBLE_AND_SINGLE = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "axes_dims_rope": (4, 6, 6),
}
"""What those descended from FLUX.1 have in common."""
COGVIEW = {
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "text_embed_dim": WIDTH,
    "time_embed_dim": 16,
    "condition_dim": 8,
    "sample_size": SIDE // 4,
}
"""What both CogViews have in common."""


def trained(network: nn.Module) -> nn.Module:
    """The same with values where weights begin at zero."""
    for name, weight in network.named_parameters():
        if not weight.any() and not name.endswith("bias"):
            nn.init.normal_(weight, std=0.2)
    return network


def bria() -> Any:
    """Its scale factor counts the packing, too; padding is zeros."""
    from diffusers import BriaPipeline, BriaTransformer2DModel

    words = t5_tokenizer()
    return BriaPipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=kl(),
        text_encoder=tiny_text.t5(words),
        tokenizer=words,
        transformer=BriaTransformer2DModel(**DOUBLE_AND_SINGLE),
    )


def ovis_image() -> Any:
    """The tokens of its instruction are cut off."""
    from diffusers import OvisImagePipeline, OvisImageTransformer2DModel

    tokenizer = tiny_text.qwen_tokenizer()
    return OvisImagePipeline(
        scheduler=flow(**FLUX_SCHEDULE),
        vae=kl(),
        text_encoder=tiny_text.qwen3(tokenizer, layers=2),
        tokenizer=tokenizer,
        transformer=OvisImageTransformer2DModel(**DOUBLE_AND_SINGLE, out_channels=16),
    )


def longcat_image() -> Any:
    """Guided by a renormalised difference; its rewriting of prompts is off."""
    from diffusers import LongCatImagePipeline, LongCatImageTransformer2DModel

    tokenizer = tiny_text.qwen_tokenizer()
    return LongCatImagePipeline(
        scheduler=flow(**FLUX_SCHEDULE),
        vae=autoencoder(latent_channels=16, scaling_factor=0.7, shift_factor=0.1),
        text_encoder=tiny_text.qwen2_vl(tokenizer),
        tokenizer=tokenizer,
        text_processor=tiny_text.qwen2_vl_processor(tokenizer),
        transformer=LongCatImageTransformer2DModel(
            **{**DOUBLE_AND_SINGLE, "in_channels": 64}, pooled_projection_dim=WIDTH
        ),
    )


def pixart_alpha() -> Any:
    """Told the size of the image beside the time."""
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    words = t5_tokenizer()
    return PixArtAlphaPipeline(
        tokenizer=words,
        text_encoder=tiny_text.t5(words),
        vae=autoencoder(scaling_factor=0.7),
        transformer=PixArtTransformer2DModel(**PIXART, use_additional_conditions=False),
        scheduler=DPMSolverMultistepScheduler(),
    )


def cogview4() -> Any:
    """Prompts of unequal lengths, padded without a mask: what its own call draws depends on the batch, unless
    prompts are equally long."""
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel

    tokenizer = tiny_text.word_tokenizer()
    return CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=tiny_text.glm(tokenizer),
        vae=kl(),
        transformer=CogView4Transformer2DModel(**COGVIEW, pos_embed_max_size=16, rope_axes_dim=(8, 8)),
        scheduler=flow(use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"),
    )


def hunyuan_dit() -> Any:
    """Two text encoders, v-prediction beside a variance, long skips between its blocks."""
    from diffusers import DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline

    words = t5_tokenizer()
    return HunyuanDiTPipeline(
        vae=autoencoder((8, 8, 16, 16), scaling_factor=0.7),
        text_encoder=tiny_text.bert(tiny_text.bert_tokenizer()),
        tokenizer=tiny_text.bert_tokenizer(),
        text_encoder_2=tiny_text.t5(words),
        tokenizer_2=words,
        transformer=HunyuanDiT2DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            patch_size=2,
            sample_size=SIDE // 8,
            hidden_size=32,
            num_layers=2,
            cross_attention_dim=WIDTH,
            cross_attention_dim_t5=WIDTH,
            pooled_projection_dim=WIDTH,
        ),
        scheduler=DDPMScheduler(
            beta_start=0.00085,
            beta_end=0.03,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            clip_sample=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def lumina() -> Any:
    """An eighth of the side, and a variance beside the velocity, which is turned around."""
    from diffusers import LuminaNextDiT2DModel, LuminaPipeline

    tokenizer = tiny_text.gemma_tokenizer()
    return LuminaPipeline(
        scheduler=flow(),
        vae=autoencoder((8, 8, 16, 16), scaling_factor=0.7),
        text_encoder=tiny_text.gemma(tokenizer),
        tokenizer=tokenizer,
        transformer=trained(
            LuminaNextDiT2DModel(
                sample_size=SIDE // 8,
                hidden_size=32,
                num_layers=2,
                num_attention_heads=2,
                num_kv_heads=1,
                multiple_of=16,
                cross_attention_dim=WIDTH,
            )
        ),
    )


def ernie_image() -> Any:
    """Prompts of unequal lengths, as a list, and latents that are noise in place."""
    from diffusers import ErnieImagePipeline, ErnieImageTransformer2DModel

    tokenizer = tiny_text.plain_tokenizer()
    return ErnieImagePipeline(
        scheduler=flow(shift=3.0),
        vae=flux2_autoencoder(),
        text_encoder=tiny_text.mistral3(tokenizer, layers=2).model,
        tokenizer=tokenizer,
        transformer=trained(
            ErnieImageTransformer2DModel(
                hidden_size=32,
                num_attention_heads=2,
                num_layers=2,
                ffn_hidden_size=32,
                in_channels=16,
                out_channels=16,
                text_in_dim=WIDTH,
                rope_axes_dim=(4, 6, 6),
            )
        ),
    )


def flux_kontext() -> Any:
    """FLUX.1 that may be given an image, and is given none."""
    from diffusers import FluxKontextPipeline

    parts = flux_pipeline(guidance_embeds=True, dynamic_shift=True).components
    return FluxKontextPipeline(**parts)


def bria_fibo2() -> Any:
    """Three layers of the text encoder for each of six places, resampled."""
    from diffusers import BriaFibo2Pipeline, BriaFibo2Transformer2DModel

    processor = tiny_text.qwen3_vl_processor()
    return BriaFibo2Pipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=flux2_autoencoder(),
        text_encoder=tiny_text.qwen3_vl(processor.tokenizer, layers=36, head=True),
        processor=processor,
        transformer=trained(
            BriaFibo2Transformer2DModel(
                in_channels=4,
                dim=32,
                n_layers=5,
                n_refiner_layers=1,
                n_heads=2,
                cap_feat_dim=3 * WIDTH,
                injection_layer_ids=(0, 1, 2, 3, 4),
                perceiver_num_layers=1,
                min_num_gist_tokens=8,
                max_num_gist_tokens=16,
                gist_step=8,
                gist_min_text_len=8,
                gist_max_text_len=64,
                axes_dims=(4, 6, 6),
                axes_lens=(512, 32, 32),
            )
        ),
    )


MORE: dict[str, Callable[[], Any]] = {
    "BriaPipeline": bria,
    "OvisImagePipeline": ovis_image,
    "LongCatImagePipeline": longcat_image,
    "PixArtAlphaPipeline": pixart_alpha,
    "CogView4Pipeline": cogview4,
    "HunyuanDiTPipeline": hunyuan_dit,
    "LuminaPipeline": lumina,
    "ErnieImagePipeline": ernie_image,
    "FluxKontextPipeline": flux_kontext,
    "BriaFibo2Pipeline": bria_fibo2,
}
"""The builder of every class, as in `TINY`."""
