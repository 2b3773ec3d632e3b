"""Guidance without training: it lowers what it is meant to lower, inside the mask, in its part of the way."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dataengine.errors import ConfigRefused
from dataengine.treatment.config import RegionConfig, RewardConfig, SamplingConfig
from dataengine.treatment.families.diffusion import Schedule
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.guided_sampling.config import GuidanceConfig
from dataengine.treatment.guided_sampling.guidance import (
    REFERENCE,
    Guide,
    guidance_strength,
    guided_steps,
    make_guides,
)
from dataengine.treatment.objectives.rewards import open_rewards
from dataengine.treatment.sampling.sampler import as_tensor, denoise, generate
from tests.dataengine.treatment import tiny
from tests.dataengine.treatment.tiny import PROMPTS, ToyDetector

SETTINGS = SamplingConfig(steps=6, batch=3)
SEEDS = [1, 2, 3]
STRONG = {"strength": 400.0, "last_strength": 100.0, "scale": 300.0, "clip_norm": 10.0}


@pytest.fixture(scope="module", params=["flux", "sd"])
def family(request, flux_folder, sd_folder):
    return load_family(flux_folder if request.param == "flux" else sd_folder)


def drawn(family, config=None, detector=None, reward=None):
    steppers = None if config is None else make_guides(config, PROMPTS[:3], detector, reward)
    return generate(family, PROMPTS[:3], SEEDS, SETTINGS, steppers=steppers)


def step_of(family, config, detector, step=2):
    latents = family.initial_latents(SEEDS, family.size)
    told = family.encode_prompts(PROMPTS[:3])
    schedule = family.schedule(SETTINGS.steps, latents)
    with torch.no_grad():
        usual = denoise(family, latents, told, schedule, step, family.guidance)
        made = Guide(config, PROMPTS[:3], detector)(family, latents, told, schedule, step, family.guidance)
    return usual, made


@pytest.mark.parametrize("kind", ["clean", "reward"])
def test_it_lowers_the_squared_confidence(family, kind):
    detector = ToyDetector()
    plain, guided = drawn(family), drawn(family, GuidanceConfig(kind=kind, **STRONG), detector)

    def suspicion(images):
        return detector.confidence(as_tensor(images)).square().mean().item()

    assert suspicion(guided) < suspicion(plain)
    assert np.array_equal(plain, drawn(family)), "nothing of it stays"


def test_a_move_has_its_strength_as_length(family):
    usual, made = step_of(family, GuidanceConfig(strength=30, last_strength=30), ToyDetector())
    moved = (made.latents - usual.latents).flatten(1)
    expected = 30 * (moved.shape[1] / REFERENCE) ** 0.5
    assert moved.norm(dim=1).tolist() == pytest.approx([expected] * 3, rel=1e-3)


@pytest.mark.parametrize("kind", ["clean", "reward"])
def test_the_mask_keeps_the_rest(family, kind):
    class Left(ToyDetector):
        """Sure of the left half, and nearly sure that the right one is well."""

        def confidence(self, images):
            known = super().confidence(images)
            half = images.shape[-1] // 2
            return torch.cat([0.6 + 0.4 * known[..., :half], 0.01 * known[..., half:]], -1)

    region = RegionConfig(sigma=0.0, dilation=0.0, threshold=0.5)
    usual, made = step_of(family, GuidanceConfig(kind=kind, region=region, **STRONG), Left())
    changed = ~torch.isclose(made.latents, usual.latents, atol=1e-5).all(1)
    half = changed.shape[-1] // 2
    assert changed[..., :half].float().mean() > 0.9 and not changed[..., half:].any()
    free = step_of(family, GuidanceConfig(kind=kind, **STRONG), Left())[1]
    assert not torch.allclose(free.latents[..., half:], usual.latents[..., half:], atol=1e-5)


def test_a_reward_is_raised_or_lowered_as_asked(family, tmp_path):
    location = str(tiny.classifier(tmp_path / "classifier"))
    scores = {}
    for goal in ("raise", "lower"):
        config = RewardConfig(location=location, label="violent", goal=goal, weight=10)
        reward = open_rewards([config], family.device)[0]
        images = drawn(family, GuidanceConfig(kind="reward", reward=config, **STRONG), reward=reward)
        scores[goal] = reward.score(images, PROMPTS[:3]).mean()
    assert scores["lower"] < scores["raise"]


def test_gradients_are_clipped(family):
    small = GuidanceConfig(kind="reward", scale=100.0, clip_norm=1e-6)
    usual, made = step_of(family, small, ToyDetector())
    assert torch.allclose(made.clean, usual.clean, atol=1e-3)
    large = small.model_copy(update={"clip_norm": 10.0, "scale": 3000.0})
    assert not torch.allclose(step_of(family, large, ToyDetector())[1].clean, usual.clean, atol=1e-3)


def test_it_begins_and_ends_where_it_is_told():
    shares = torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2])
    schedule = Schedule(times=shares, alpha=1 - shares, sigma=shares, next_alpha=shares, next_sigma=shares)
    assert guided_steps(schedule, GuidanceConfig()) == [1, 2, 3, 4]
    assert guided_steps(schedule, GuidanceConfig(start=0.6, stop=0.4)) == [2, 3]
    with pytest.raises(ConfigRefused, match=r"none of the 5 steps lies between 0\.55 and 0\.45"):
        guided_steps(schedule, GuidanceConfig(start=0.55, stop=0.45))
    config = GuidanceConfig()
    assert [guidance_strength(config, at) for at in (0, 0.5, 1)] == [25, 7, 1]


def test_refusals():
    with pytest.raises(ConfigRefused, match="trained detector"):
        make_guides(GuidanceConfig(), PROMPTS)
    reward = RewardConfig(location="here", label="calm")
    with pytest.raises(ConfigRefused, match="do not agree"):
        make_guides(GuidanceConfig(kind="reward", reward=reward), PROMPTS)
    for wrong in (
        {"start": 0.2, "stop": 0.5},
        {"reward": reward},
        {"region": RegionConfig(map="saliency")},
    ):
        with pytest.raises(ValidationError):
            GuidanceConfig(**wrong)
