"""Watching a family draw: nothing changes, noise and flow prediction agree on what is compared, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.diffusion import broadcast_level
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.sampler import denoise, generate
from dataengine.treatment.sampling.trajectory import Recorder, dynamics_map, watch_dynamics
from tests.dataengine.treatment import tiny
from tests.dataengine.treatment.tiny import PROMPTS, SIDE
from tests.fakes import TinyGenerator

SETTINGS = SamplingConfig(steps=10, batch=2)
LOOSE = DynamicsConfig(deviations=1.0, smallest=0.0, largest=1.0, erosion=0.0)
"""Finds something even in a generator of random weights."""


@pytest.fixture(scope="module", params=["flux", "sd"])
def family(request, flux_folder, sd_folder):
    return load_family(flux_folder if request.param == "flux" else sd_folder)


@pytest.mark.parametrize("config", [LOOSE, LOOSE.model_copy(update={"space": "pixel"})])
def test_watching_changes_nothing_and_fits_the_images(family, config):
    plain = generate(family, PROMPTS[:3], [1, 2, 3], SETTINGS)
    watched = generate(family, PROMPTS[:3], [1, 2, 3], SETTINGS, steppers=lambda rows: Recorder(config))
    assert np.array_equal(plain, watched)
    found, levels = watch_dynamics(family, PROMPTS[:3], [1, 2, 3], SETTINGS, config)
    assert len(found) == 3 and all(0.2 <= round(level, 2) <= 0.8 for level in levels)
    maps = np.stack([dynamics_map(each, plain.shape[1:3]) for each in found])
    assert maps.shape == plain.shape[:3] and maps.dtype == np.float32 and 0 <= maps.min() < maps.max() <= 1
    assert all(len(each.abnormal) == len(levels) - 1 for each in found)


def test_an_images_map_does_not_depend_on_its_batch(family):
    alone, _ = watch_dynamics(family, [PROMPTS[1]], [2], SETTINGS, LOOSE)
    together, _ = watch_dynamics(family, PROMPTS[:3], [1, 2, 3], SETTINGS, LOOSE)
    assert np.allclose(alone[0].changes, together[1].changes, atol=1e-3)
    assert not np.allclose(alone[0].changes, together[0].changes, atol=1e-2)


def test_the_papers_form_compares_the_weighted_score(family):
    """w·s = x̂_0 − x_t/√ᾱ_t = −(1 − ᾱ_t)/√ᾱ_t · ε/√(1 − ᾱ_t), and x̂_0 − x_σ/(1 − σ) for flows (ASCED)."""
    config = DynamicsConfig(form="paper")
    latents = family.initial_latents([4], family.size)
    schedule = family.schedule(10, latents)
    told = family.encode_prompts(PROMPTS[:1])
    scores = []
    for step in range(9):
        made = denoise(family, latents, told, schedule, step, family.guidance)
        alpha, sigma = (
            broadcast_level(schedule.alpha[step], latents),
            broadcast_level(schedule.sigma[step], latents),
        )
        noise = (latents - alpha * made.clean) / sigma
        if 0.2 <= round(schedule.shares[step], 2) <= 0.8:
            scores.append((-sigma / alpha * noise)[0])
        latents = made.latents
    found, levels = watch_dynamics(family, PROMPTS[:1], [4], SETTINGS, config)
    expected = torch.stack(scores).diff(dim=0).abs().amax(1)
    assert len(scores) == len(levels)
    assert np.allclose(found[0].changes, expected.detach().numpy(), rtol=1e-3, atol=1e-3)


def test_pixel_space_families_are_watched_as_they_are():
    found, _ = watch_dynamics(TinyGenerator(), ["a hand", "a tree"], [1, 2], SETTINGS, LOOSE)  # type: ignore[arg-type]
    assert found[0].changes.shape[1:] == (32, 32)


def test_too_few_steps_name_how_many_are_needed(family):
    narrow = DynamicsConfig(start=0.8, stop=0.7)
    with pytest.raises(
        ConfigRefused, match=r"of 5 steps (1 is|none are) in the window from 0\.8 to 0\.7, and 2 must be"
    ) as refusal:
        watch_dynamics(family, PROMPTS[:1], [1], SamplingConfig(steps=5), narrow)
    needed = int(str(refusal.value).split("sample with ")[1].split(" steps")[0])
    watch_dynamics(family, PROMPTS[:1], [1], SamplingConfig(steps=needed), narrow)
    with pytest.raises(ConfigRefused, match="and 2 must be"):
        watch_dynamics(family, PROMPTS[:1], [1], SamplingConfig(steps=needed - 1), narrow)
    with pytest.raises(ConfigRefused, match="none are in the window"):
        watch_dynamics(
            family, PROMPTS[:1], [1], SamplingConfig(steps=2), DynamicsConfig(start=0.45, stop=0.42)
        )


def test_models_without_a_predicted_image_are_refused(tmp_path):
    odd = replace(TinyGenerator(), prediction="consistency")
    with pytest.raises(ConfigRefused, match="DDIM and flow matching with Euler"):
        watch_dynamics(odd, ["a hand"], [1], SETTINGS, LOOSE)  # type: ignore[arg-type]
    folder = tiny.stable_diffusion(tmp_path / "sd")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("DDIMScheduler", "CMStochasticIterativeScheduler"))
    with pytest.raises(ModelRefused, match=r"CMStochasticIterativeScheduler.*not the β_t"):
        load_family(folder)


def test_shares_count_from_noise(family):
    shares = family.schedule(5, family.initial_latents([0], (SIDE, SIDE))).shares
    assert shares == sorted(shares, reverse=True) and 0.75 < shares[0] <= 1 and shares[-1] < 0.25
