"""Safe Latent Diffusion: as diffusers' own pipeline draws it, and refused where it cannot work."""

import warnings

import numpy as np
import pytest
import torch

from dataengine.errors import ConfigRefused
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.guided_sampling.config import GuidanceConfig, SafeConfig
from dataengine.treatment.guided_sampling.guidance import make_guides
from dataengine.treatment.guided_sampling.safe_latent import safety_term
from dataengine.treatment.sampling.sampler import generate
from tests.dataengine.treatment.tiny import PROMPTS

SETTINGS = SamplingConfig(steps=4, guidance=4.0, batch=2)
SEEDS = [1, 2, 3]


def draw(family, **changes) -> np.ndarray:
    config = GuidanceConfig(kind="safe", safe=SafeConfig(concept="a blue tree", **changes))
    return generate(family, PROMPTS[:3], SEEDS, SETTINGS, steppers=make_guides(config, PROMPTS[:3]))


def of_diffusers(family, config: SafeConfig) -> np.ndarray:
    """The same images by the method's authors' pipeline in diffusers, one by one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import StableDiffusionPipelineSafe

        names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
        pipeline = StableDiffusionPipelineSafe(
            **{name: getattr(family.pipeline, name) for name in names},
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.safety_concept = config.concept
    height, width = family.size
    drawn = [
        pipeline(
            prompt,
            height=height,
            width=width,
            num_inference_steps=SETTINGS.steps,
            guidance_scale=SETTINGS.guidance,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
            sld_guidance_scale=config.scale,
            sld_threshold=config.threshold,
            sld_warmup_steps=config.warmup,
            sld_momentum_scale=config.momentum,
            sld_mom_beta=config.decay,
        ).images[0]
        for prompt, seed in zip(PROMPTS[:3], SEEDS, strict=True)
    ]
    return (np.stack(drawn) * 255).round().astype(np.uint8)


@pytest.mark.parametrize(
    "changes", [{"warmup": 0, "threshold": 1.0}, {"warmup": 1, "momentum": 0.5, "decay": 0.7}]
)
def test_images_are_those_of_diffusers(sd_folder, changes):
    family = load_family(sd_folder)
    ours = draw(family, **changes).astype(int)
    theirs = of_diffusers(family, SafeConfig(concept="a blue tree", **changes)).astype(int)
    plain = generate(family, PROMPTS[:3], SEEDS, SETTINGS).astype(int)
    assert np.abs(ours - theirs).max() <= 1
    assert np.abs(ours - plain).mean() > 0.05


def test_without_scale_and_within_the_warm_up_nothing_changes(sd_folder):
    family = load_family(sd_folder)
    plain = generate(family, PROMPTS[:3], SEEDS, SETTINGS).astype(int)
    for changes in ({"scale": 0.0, "warmup": 0}, {"warmup": 4}):
        assert np.abs(draw(family, **changes) - plain).max() <= 1


def test_only_what_is_close_to_the_concept_is_moved():
    plain, unsafe = torch.zeros(4), torch.tensor([1.0, 1.0, 1.0, -1.0])
    prompted = unsafe + torch.tensor([0.02, 0.03, -0.001, -0.5])
    # Below the threshold: |gap| · 100, at most 1; from the threshold on: 0; below the concept: by its size.
    expected = torch.tensor([1.0, 0.0, 0.1, -1.0])
    assert torch.allclose(safety_term(plain, prompted, unsafe, 100.0, 0.0299), expected, atol=1e-4)


def test_other_families_are_refused(flux_folder, sd_folder):
    guides = make_guides(GuidanceConfig(kind="safe"), PROMPTS[:1])
    with pytest.raises(ConfigRefused, match="this is flux"):
        generate(load_family(flux_folder), PROMPTS[:1], [0], SETTINGS, steppers=guides)
    weak = SETTINGS.model_copy(update={"guidance": 1.0})
    with pytest.raises(ConfigRefused, match="guidance above 1"):
        generate(load_family(sd_folder), PROMPTS[:1], [0], weak, steppers=guides)


def test_its_settings_go_with_its_kind_alone():
    assert not GuidanceConfig(kind="safe").needs_detector and GuidanceConfig().needs_detector
    with pytest.raises(ValueError, match="set kind=safe"):
        GuidanceConfig(safe=SafeConfig())
    with pytest.raises(ValueError, match="has no regions"):
        GuidanceConfig(kind="safe", region={})
