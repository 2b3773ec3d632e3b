"""Safe Latent Diffusion as diffusers ships it: the same noise, another image where the concept pulls."""

import numpy as np
import pytest

from dataengine.errors import ConfigRefused
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.guided_sampling.safe_latent import generate_safe
from dataengine.treatment.sampling.sampler import generate
from tests.dataengine.treatment.tiny import PROMPTS

SETTINGS = SamplingConfig(steps=3, guidance=4.0, batch=2)


def test_guidance_away_from_the_concept(sd_folder):
    family, seeds = load_family(sd_folder), [1, 2, 3]
    plain = generate(family, PROMPTS[:3], seeds, SETTINGS).astype(int)
    off = generate_safe(family, PROMPTS[:3], seeds, SETTINGS, scale=0.0)
    assert off.shape == plain.shape and off.dtype == np.uint8 and np.abs(off - plain).max() <= 1
    late = generate_safe(family, PROMPTS[:3], seeds, SETTINGS, "a blue tree", warmup=3)
    assert np.abs(late - plain).max() <= 1
    safe = generate_safe(family, PROMPTS[:3], seeds, SETTINGS, "a blue tree", warmup=0, threshold=1.0)
    assert np.abs(safe - plain).mean() > 0.1


def test_other_families_are_refused(flux_folder, sd_folder):
    with pytest.raises(ConfigRefused, match="this is flux"):
        generate_safe(load_family(flux_folder), PROMPTS[:1], [0], SETTINGS)
    with pytest.raises(ConfigRefused, match="guidance above 1"):
        generate_safe(load_family(sd_folder), PROMPTS[:1], [0], SETTINGS.model_copy(update={"guidance": 1.0}))
