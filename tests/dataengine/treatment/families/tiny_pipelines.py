"""One small pipeline of random weights for every class that has a row.

Each keeps what makes its class special: two blocks, several heads, an autoencoder that really scales and
shifts, and the scheduler that its usual weights come with. Images are 32 pixels wide by default.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.dataengine.treatment.families import tiny_text
from tests.dataengine.treatment.families.tiny_text import WIDTH
from tests.dataengine.treatment.tiny import (
    SIDE,
    autoencoder,
    clip_tokenizer,
    flux_pipeline,
    stable_diffusion_pipeline,
    stable_diffusion_xl_pipeline,
    t5_tokenizer,
)

Builders = Mapping[str, Callable[[], Any]]

FLUX_SCHEDULE = {"shift": 3.0, "use_dynamic_shifting": True}


def tiny_pipeline(name: str, builders: Builders | None = None) -> Any:
    """The tiny pipeline of a class, e.g. "SanaPipeline", the same whenever it is called; by default from
    `TINY`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = (builders or TINY)[name]()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # as an opened one is
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_tiny(name: str, folder: Path, builders: Builders | None = None) -> Path:
    """Save the tiny pipeline of a class, and return the folder."""
    tiny_pipeline(name, builders).save_pretrained(folder)
    return folder


def flow(**settings: Any) -> Any:
    """The Euler scheduler of flow matching."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**settings)


def kl() -> Any:
    """Four channels, a quarter of the side, scaled and shifted."""
    return autoencoder(scaling_factor=0.7, shift_factor=0.1)


def flux2_autoencoder() -> Any:
    """Its batch norm holds the scale and shift of packed latents."""
    from diffusers import AutoencoderKLFlux2

    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIDE,
    )
    vae.bn.running_mean.uniform_(-0.3, 0.3)
    vae.bn.running_var.uniform_(0.5, 1.5)
    return vae


def qwen_autoencoder() -> Any:
    """Frames as a third axis, and a mean and deviation for each channel."""
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[-0.3, 0.2, 0.1, 0.0],
        latents_std=[1.2, 0.9, 1.1, 0.8],
    )


def flux2_transformer(text: int, guidance: bool) -> Any:
    """Two double and two single blocks."""
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=text,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )


def flux2_klein() -> Any:
    """The base model; its text features are the 9th, 18th and 27th layer's."""
    from diffusers import Flux2KleinPipeline

    tokenizer = tiny_text.qwen_tokenizer()
    return Flux2KleinPipeline(
        scheduler=flow(**FLUX_SCHEDULE),
        vae=flux2_autoencoder(),
        text_encoder=tiny_text.qwen3(tokenizer, layers=27, head=True),
        tokenizer=tokenizer,
        transformer=flux2_transformer(3 * WIDTH, guidance=False),
    )


def qwen_image() -> Any:
    """Guided by a negative prompt only."""
    from diffusers import QwenImagePipeline, QwenImageTransformer2DModel

    tokenizer = tiny_text.qwen_tokenizer()
    return QwenImagePipeline(
        scheduler=flow(use_dynamic_shifting=True, max_shift=0.9, shift_terminal=0.02),
        vae=qwen_autoencoder(),
        text_encoder=tiny_text.qwen2_vl(tokenizer),
        tokenizer=tokenizer,
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
        ),
    )


def z_image() -> Any:
    """Prompts of unequal lengths, as a list."""
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    tokenizer = tiny_text.qwen_tokenizer()
    return ZImagePipeline(
        scheduler=flow(shift=3.0),
        vae=kl(),
        text_encoder=tiny_text.qwen3(tokenizer, layers=2),
        tokenizer=tokenizer,
        transformer=ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=[4, 6, 6],
            axes_lens=[512, 32, 32],
        ),
    )


def stable_diffusion_3() -> Any:
    """Three text encoders; the first block attends twice, as in 3.5 medium."""
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    clip, words = clip_tokenizer(), t5_tokenizer()
    return StableDiffusion3Pipeline(
        scheduler=flow(shift=3.0),
        vae=kl(),
        text_encoder=tiny_text.clip_with_projection(clip),
        tokenizer=clip,
        text_encoder_2=tiny_text.clip_with_projection(clip),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=tiny_text.t5(words, width=2 * WIDTH),
        tokenizer_3=words,
        transformer=SD3Transformer2DModel(
            sample_size=SIDE // 4,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
    )


def sana() -> Any:
    """Linear attention over an autoencoder of its own; the usual solver keeps its last answers."""
    from diffusers import (
        AutoencoderDC,
        DPMSolverMultistepScheduler,
        SanaPipeline,
        SanaTransformer2DModel,
    )

    tokenizer = tiny_text.gemma_tokenizer()
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=tiny_text.gemma2(tokenizer),
        vae=AutoencoderDC(
            latent_channels=4,
            attention_head_dim=4,
            encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 16, 16),
            decoder_block_out_channels=(8, 16, 16),
            encoder_layers_per_block=(1, 1, 1),
            decoder_layers_per_block=(1, 1, 1),
            encoder_qkv_multiscales=((), (), (5,)),
            decoder_qkv_multiscales=((), (), (5,)),
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41,
        ),
        transformer=SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=16,
            cross_attention_dim=32,
            caption_channels=WIDTH,
            sample_size=SIDE // 4,
        ),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


PIXART = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "cross_attention_dim": 32,
    "sample_size": SIDE // 4,
    "caption_channels": WIDTH,
    "norm_num_groups": 4,
}


def pixart_sigma() -> Any:
    """Noise prediction beside a variance."""
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    words = t5_tokenizer()
    return PixArtSigmaPipeline(
        tokenizer=words,
        text_encoder=tiny_text.t5(words),
        vae=autoencoder(scaling_factor=0.7),
        transformer=PixArtTransformer2DModel(**PIXART),
        scheduler=DPMSolverMultistepScheduler(),
    )


def flux2() -> Any:
    """Guidance is embedded; its text features are the 10th, 20th and 30th layer's."""
    from diffusers import Flux2Pipeline

    processor = tiny_text.pixtral_processor()
    return Flux2Pipeline(
        scheduler=flow(**FLUX_SCHEDULE),
        vae=flux2_autoencoder(),
        text_encoder=tiny_text.mistral3(processor.tokenizer, layers=30),
        tokenizer=processor,
        transformer=flux2_transformer(3 * WIDTH, guidance=True),
    )


def chroma() -> Any:
    """Modulation comes from a network of its own, and padding is masked."""
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    words = t5_tokenizer()
    return ChromaPipeline(
        scheduler=flow(**FLUX_SCHEDULE),
        vae=kl(),
        text_encoder=tiny_text.t5(words),
        tokenizer=words,
        transformer=ChromaTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
            approximator_num_channels=16,
            approximator_hidden_dim=32,
            approximator_layers=2,
        ),
    )


def lumina2() -> Any:
    """An eighth of the side: the pipeline reads no factor from its autoencoder."""
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    tokenizer = tiny_text.gemma_tokenizer()
    return Lumina2Pipeline(
        scheduler=flow(shift=6.0),
        vae=autoencoder((8, 8, 16, 16), scaling_factor=0.7, shift_factor=0.1),
        text_encoder=tiny_text.gemma2(tokenizer),
        tokenizer=tokenizer,
        transformer=Lumina2Transformer2DModel(
            sample_size=SIDE // 8,
            in_channels=4,
            hidden_size=48,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(8, 8, 8),
            axes_lens=(300, 16, 16),
            cap_feat_dim=WIDTH,
        ),
    )


def hidream() -> Any:
    """Four text encoders, and experts of which each token visits two."""
    from diffusers import HiDreamImagePipeline, HiDreamImageTransformer2DModel

    clip, words, plain = clip_tokenizer(), t5_tokenizer(), tiny_text.plain_tokenizer()
    return HiDreamImagePipeline(
        scheduler=flow(shift=3.0),
        vae=kl(),
        text_encoder=tiny_text.clip_with_projection(clip, positions=128),
        tokenizer=clip,
        text_encoder_2=tiny_text.clip_with_projection(clip, positions=128),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=tiny_text.t5(words),
        tokenizer_3=words,
        text_encoder_4=tiny_text.llama(plain),
        tokenizer_4=plain,
        transformer=HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            caption_channels=[WIDTH, WIDTH],
            text_emb_dim=2 * WIDTH,
            axes_dims_rope=(8, 4, 4),
            max_resolution=(16, 16),
            llama_layers=[0, 1],
        ),
    )


def krea2() -> Any:
    """Several layers of the text encoder, fused by a small transformer."""
    from diffusers import Krea2Pipeline, Krea2Transformer2DModel

    tokenizer = tiny_text.qwen_tokenizer()
    return Krea2Pipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=qwen_autoencoder(),
        text_encoder=tiny_text.qwen3_vl(tokenizer),
        tokenizer=tokenizer,
        transformer=Krea2Transformer2DModel(
            in_channels=16,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=32,
            timestep_embed_dim=32,
            text_hidden_dim=WIDTH,
            num_text_layers=2,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=32,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 6, 6),
        ),
        text_encoder_select_layers=(1, 2),
    )


def aura_flow() -> Any:
    """Latents enter unpacked, and padding stays among the text as zeros."""
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel

    words = t5_tokenizer()
    transformer = AuraFlowTransformer2DModel(
        sample_size=SIDE // 4,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=32,
        pos_embed_max_size=64,
    )
    transformer.context_embedder.weight.data *= 8  # else four words among 252 zeros move nothing
    return AuraFlowPipeline(
        tokenizer=words,
        text_encoder=tiny_text.umt5(words),
        vae=autoencoder(scaling_factor=0.7),
        transformer=transformer,
        scheduler=flow(shift=1.73),
    )


TINY: dict[str, Callable[[], Any]] = {
    "Flux2KleinPipeline": flux2_klein,
    "QwenImagePipeline": qwen_image,
    "ZImagePipeline": z_image,
    "StableDiffusion3Pipeline": stable_diffusion_3,
    "SanaPipeline": sana,
    "PixArtSigmaPipeline": pixart_sigma,
    "FluxPipeline": partial(flux_pipeline, guidance_embeds=True, dynamic_shift=True),
    "Flux2Pipeline": flux2,
    "StableDiffusionPipeline": stable_diffusion_pipeline,
    "StableDiffusionPipeline-2": partial(stable_diffusion_pipeline, prediction_type="v_prediction"),
    "StableDiffusionXLPipeline": stable_diffusion_xl_pipeline,
    "ChromaPipeline": chroma,
    "Lumina2Pipeline": lumina2,
    "HiDreamImagePipeline": hidream,
    "Krea2Pipeline": krea2,
    "AuraFlowPipeline": aura_flow,
}
"""The builder of every class, by the pipeline's name in `model_index.json`; what follows a hyphen keeps two
models of one class apart."""

FEW = tuple(TINY)[:6]
"""Those that every run of the tests draws with."""
