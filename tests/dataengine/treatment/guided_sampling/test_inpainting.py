"""Inpainting: what is known stays, what is missing is drawn to fit it, by the stock scheduler's steps."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from dataengine.errors import ConfigRefused
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.diffusion import Schedule
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.guided_sampling.inpainting import (
    Inpainter,
    NoisyStepper,
    feather_outwards,
    inpaint,
    renoise,
)
from dataengine.treatment.sampling.sampler import Step, as_tensor, sample
from tests.dataengine.treatment import tiny

SETTINGS = SamplingConfig(steps=4, batch=2)
SEEDS = [3, 4, 5]


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    made = {"ddpm": tiny.ddpm, "sd": tiny.stable_diffusion, "dit": tiny.dit, "flux": tiny.flux}
    return {name: load_family(make(tmp_path_factory.mktemp(name))) for name, make in made.items()}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def missing():
    found = np.zeros((3, 32, 32), dtype=bool)
    found[:, 8:24, 8:24] = True
    return found


@pytest.mark.parametrize("kind", ["ddpm", "sd", "dit", "flux"])
def test_known_pixels_keep_their_bytes_and_the_rest_is_drawn(families, images, missing, kind):
    prompts = ["1"] * 3 if kind == "dit" else ["a red house"] * 3
    found = inpaint(families[kind], images, missing, prompts, SEEDS, SETTINGS, repeats=2)
    assert np.array_equal(found[~missing], images[~missing])
    assert (found[missing] != images[missing]).mean() > 0.5
    alone = inpaint(families[kind], images[1:2], missing[1:2], prompts[:1], SEEDS[1:2], SETTINGS, repeats=2)
    assert np.abs(alone[0].astype(int) - found[1]).max() <= 1, "an image does not depend on its batch"
    other = inpaint(families[kind], images, missing, prompts, [6, 7, 8], SETTINGS)
    assert not np.array_equal(other, found)


def test_without_restoring_the_known_part_is_what_the_vae_makes_of_it(families, images, missing):
    arguments = (families["sd"], images, missing, ["a red house"] * 3, SEEDS, SETTINGS)
    decoded = inpaint(*arguments, restore=False)
    assert (decoded[~missing] != images[~missing]).mean() > 0.5
    assert np.array_equal(np.where(missing[..., None], decoded, images), inpaint(*arguments))


@pytest.mark.parametrize(
    ("width", "expected"), [(0.0, [1, 1, 0, 0, 0]), (1.0, [1, 1, 0.5, 0, 0]), (2.0, [1, 1, 2 / 3, 1 / 3, 0])]
)
def test_a_feather_falls_to_nothing_over_its_width_outside(width, expected):
    mask = torch.tensor([[[True, True, False, False, False]]])
    assert feather_outwards(mask, width)[0, 0].tolist() == pytest.approx(expected)


def test_every_step_is_the_stock_schedulers(families, images, missing):
    """The same chain by hand: diffusers' DDIM, and the known part put back after each of its steps."""
    family, known, holes = families["ddpm"], as_tensor(images[:1]) * 2 - 1, torch.from_numpy(missing[:1])
    drawn = []

    class Remembering(Inpainter):
        def _drawn(self):
            drawn.append(super()._drawn())
            return drawn[-1]

    begin = family.initial_latents([3], (32, 32))
    with torch.no_grad():
        ours = sample(
            family, family.encode_prompts([""]), begin, SETTINGS, stepper=Remembering(known, holes, [3])
        )
        scheduler = DDIMScheduler.from_config(family.pipeline.scheduler.config)
        scheduler.set_timesteps(4)
        noise = iter(drawn)
        first = scheduler.add_noise(known, next(noise), scheduler.timesteps[:1])
        state = torch.where(holes[:, None], begin, first)
        for step, time in enumerate(scheduler.timesteps):
            state = scheduler.step(family.pipeline.unet(state, time).sample, time, state).prev_sample
            level = scheduler.timesteps[step + 1 : step + 2]
            back = scheduler.add_noise(known, next(noise), level) if len(level) else known
            state = torch.where(holes[:, None], state, back)
    assert torch.allclose(ours, state, atol=1e-5)


def test_going_back_up_a_level_restores_its_noise():
    """A point mass at level s, taken up to t, is distributed as at t: mean α_t·x_0, deviation σ_t."""
    rng = torch.Generator().manual_seed(0)
    clean = torch.full((1, 1, 200, 200), 0.7)
    low, high = (torch.tensor(0.9), torch.tensor(0.19).sqrt()), (torch.tensor(0.6), torch.tensor(0.8))
    state = low[0] * clean + low[1] * torch.randn(clean.shape, generator=rng)
    found = renoise(state, torch.randn(clean.shape, generator=rng), low, high)
    assert found.mean().item() == pytest.approx(0.6 * 0.7, abs=0.02)
    assert found.std().item() == pytest.approx(0.8, abs=0.02)


def test_repeating_makes_the_drawn_part_fit():
    """A model that knows one value for a whole image: what is drawn beside a known 0.5 becomes 0.5."""
    alphas = torch.linspace(0.05, 1, 9)
    sigmas = (1 - alphas**2).clamp(min=0).sqrt()
    schedule = Schedule(torch.arange(8, 0, -1), alphas[:-1], sigmas[:-1], alphas[1:], sigmas[1:])

    def inner(family, latents, conditioning, schedule, step, guidance, precision):
        clean = (latents / schedule.alpha[step]).mean((2, 3), keepdim=True).expand_as(latents)
        noise = (latents - schedule.alpha[step] * clean) / schedule.sigma[step]
        state = schedule.next_alpha[step] * clean + schedule.next_sigma[step] * noise
        return Step(latents=state, clean=clean, asked=latents)

    known, holes = torch.full((1, 1, 16, 16), 0.5), torch.zeros(1, 16, 16, dtype=torch.bool)
    holes[:, :, 4:] = True
    errors = []
    for repeats in (1, 12):
        painter = Inpainter(known, holes, [1], repeats, inner)
        state = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(2))
        for step in range(8):
            state = painter(None, state, None, schedule, step, 1.0).latents
        assert torch.allclose(state[:, :, :, :4], known[:, :, :, :4])
        errors.append((state[:, 0][holes].mean() - 0.5).abs().item())
    assert errors[1] < errors[0]


def test_what_does_not_fit_is_refused(families, images, missing):
    family = families["ddpm"]
    with pytest.raises(ConfigRefused, match="expected bool"):
        inpaint(family, images, missing[:, :16], [""] * 3, SEEDS, SETTINGS)
    with pytest.raises(ConfigRefused, match="expected bool"):
        inpaint(family, images, missing.astype(np.uint8), [""] * 3, SEEDS, SETTINGS)
    with pytest.raises(ConfigRefused, match="0 repeats"):
        inpaint(family, images, missing, [""] * 3, SEEDS, SETTINGS, repeats=0)
    with pytest.raises(ConfigRefused, match="3 images and 2 seeds"):
        inpaint(family, images, missing, [""] * 3, SEEDS[:2], SETTINGS)


@pytest.mark.parametrize("kind", ["ddpm", "flux"])
def test_less_noise_stays_closer_to_what_was_there(families, images, missing, kind):
    prompts = ["a red house"] * 3
    settings = SETTINGS.model_copy(update={"steps": 8})

    def change(strength):
        found = inpaint(families[kind], images, missing, prompts, SEEDS, settings, strength=strength)
        return np.abs(found[missing].astype(int) - images[missing]).mean()

    redrawn = inpaint(families[kind], images, missing, prompts, SEEDS, settings)
    assert change(1.0) == np.abs(redrawn[missing].astype(int) - images[missing]).mean()
    assert change(0.2) < change(1.0)


def test_skipped_steps_ask_the_model_nothing(families, images, missing):
    asked = []

    def counting(family, latents, conditioning, schedule, step, guidance, precision="float32"):
        asked.append(step)
        return Step(latents=latents, clean=latents, asked=latents)

    family = families["ddpm"]
    known, holes = as_tensor(images[:1]) * 2 - 1, torch.from_numpy(missing[:1])
    stepper = Inpainter(known, holes, [3], inner=counting, strength=0.5)
    noise = family.initial_latents([3], (32, 32))
    sample(family, family.encode_prompts([""]), noise, SETTINGS, stepper=stepper)
    shares = family.schedule(SETTINGS.steps, noise).shares
    assert asked == [step for step, share in enumerate(shares) if share <= 0.5] and 0 < len(asked) < 4


def test_a_share_of_a_latent_is_generated():
    known, drawn = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    share = torch.tensor([[[0.0, 0.25], [0.5, 1.0]]])
    stepper = Inpainter(known, share, [0], inner=lambda *_: Step(latents=drawn, clean=drawn, asked=drawn))
    level = torch.zeros(1)
    schedule = Schedule(
        times=level, alpha=level + 1, sigma=level, next_alpha=level + 1, next_sigma=level, clip=None
    )
    assert torch.equal(stepper(None, drawn, None, schedule, 0, 1.0).latents, share[None])


@pytest.mark.parametrize("kind", ["ddpm", "flux"])
def test_noise_in_excess_spoils_what_is_drawn_and_nothing_else(families, images, missing, kind):
    prompts = ["a red house"] * 3

    def drawn(excess, rows=slice(None)):
        seeds = SEEDS[rows]
        return inpaint(
            families[kind], images[rows], missing[rows], prompts[rows], seeds, SETTINGS, excess=excess
        )

    plain, noisy = drawn(0.0), drawn(2.0)
    assert np.array_equal(plain, inpaint(families[kind], images, missing, prompts, SEEDS, SETTINGS))
    assert np.array_equal(noisy[~missing], images[~missing])
    assert (noisy[missing] != plain[missing]).mean() > 0.3
    assert np.abs(drawn(2.0, slice(1, 2))[0].astype(int) - noisy[1]).max() <= 1, "nor on its batch"


def test_noise_in_excess_has_the_deviation_of_its_level():
    class Silent:
        prediction = "epsilon"

        def predict(self, latents, times, conditioning, guidance):
            return torch.zeros_like(latents)

    alphas = torch.tensor([0.6, 0.8, 1.0])
    sigmas = (1 - alphas**2).clamp(min=0).sqrt()
    schedule = Schedule(torch.tensor([2.0, 1.0]), alphas[:-1], sigmas[:-1], alphas[1:], sigmas[1:])
    state = torch.zeros(2, 1, 100, 100)
    stepper = NoisyStepper(2.0, [1, 2])
    first = stepper(Silent(), state, None, schedule, 0, 1.0).latents
    assert first.std().item() == pytest.approx(2 * 0.6, rel=0.03)
    assert not torch.equal(first[0], first[1])
    last = stepper(Silent(), state, None, schedule, 1, 1.0).latents
    assert torch.equal(last, state), "the last level has no noise"
