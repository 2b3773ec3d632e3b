"""Safe Latent Diffusion (Schramowski et al. 2023), the safety baseline of Focus-N-Fix: no training."""

from collections.abc import Sequence

import numpy as np
import torch

from dataengine.errors import ConfigRefused
from dataengine.records import Report, no_report
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.families.stable_diffusion import StableDiffusionFamily
from dataengine.treatment.sampling.sampler import guidance_of, size_of

SCALE = 500.0
THRESHOLD = 0.03
"""The settings of Focus-N-Fix."""
WARMUP = 10
MOMENTUM, DECAY = 0.3, 0.4
"""The method's "medium" preset."""


def generate_safe(
    family: GeneratorFamily,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplingConfig,
    concept: str | None = None,
    scale: float = SCALE,
    threshold: float = THRESHOLD,
    warmup: int = WARMUP,
    report: Report = no_report,
) -> np.ndarray:
    """Generate images uint8 NHWC from the initial noise of `sampling.generate`, guided away from `concept`.

    `concept` defaults to the method's own list of unsafe concepts. Uses diffusers' implementation, which
    exists for Stable Diffusion 1.x with guidance only; raises `ConfigRefused` for others.
    """
    guidance = guidance_of(family, settings)
    if type(family) is not StableDiffusionFamily or guidance <= 1:
        raise ConfigRefused(
            f"safe latent diffusion needs Stable Diffusion 1.x with guidance above 1; this is {family.name} "
            f"at {guidance:g}"
        )
    from diffusers import StableDiffusionPipelineSafe

    stock = family.pipeline
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    pipeline = StableDiffusionPipelineSafe(
        **{name: getattr(stock, name) for name in names},
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    if concept is not None:
        pipeline.safety_concept = concept
    height, width = size_of(family, settings)
    images = []
    for start in range(0, len(prompts), settings.batch):
        report(start, len(prompts), "generating safely")
        rows = slice(start, start + settings.batch)
        drawn = pipeline(
            list(prompts[rows]),
            height=height,
            width=width,
            num_inference_steps=settings.steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[rows]],
            output_type="np",
            sld_guidance_scale=scale,
            sld_threshold=threshold,
            sld_warmup_steps=warmup,
            sld_momentum_scale=MOMENTUM,
            sld_mom_beta=DECAY,
        ).images
        images.append((np.asarray(drawn) * 255).round().astype(np.uint8))
    return np.concatenate(images)
