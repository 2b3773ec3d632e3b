"""Sampling by diffusers' schedulers on tiny pipelines, against the family's own steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataengine.errors import ConfigRefused
from dataengine.treatment.config import LoraSettings, SamplingConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.rounding import denoiser_of, merge_lora, round_to_float8
from dataengine.treatment.sampling.sampler import generate
from dataengine.treatment.sampling.solvers import draw_with, open_solver, solvers_of
from tests.dataengine.treatment import tiny

PROMPTS, SEEDS = ["a cat", "a dog", "a cat"], [3, 4, 5]
LEVELS = 1.5
"""Largest mean difference, of 255, that rounding and the multistep solvers' first level explain."""


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_family(tiny.flux(tmp_path_factory.mktemp("solvers") / "flux"))


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_family(tiny.stable_diffusion(tmp_path_factory.mktemp("solvers") / "sd"))


def difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(float) - second).mean())


def test_one_step_of_every_flow_solver_is_eulers(flux: Any) -> None:
    settings = SamplingConfig(steps=1, batch=2)
    own = generate(flux, PROMPTS, SEEDS, settings)
    for name in solvers_of(flux):
        assert difference(draw_with(flux, name, PROMPTS, SEEDS, settings), own) < LEVELS, name


def test_flow_solvers_take_the_familys_noise_levels(flux: Any) -> None:
    latents = flux.initial_latents([0], flux.size)
    for steps in (2, 5):
        own = flux.schedule(steps, latents).sigma
        for name in solvers_of(flux):
            levels = open_solver(flux, name, steps, latents).sigmas
            assert levels[-1] == 0 and np.isin(own[1:], levels).all() and levels[0] >= 0.999


def test_euler_of_a_noise_prediction_is_ddim(diffusion: Any) -> None:
    """Euler steps of dx/dσ are DDIM's (Karras et al. 2022, App. C), where the times are the same."""
    settings = SamplingConfig(steps=4, batch=3, guidance=1.0)
    own = generate(diffusion, PROMPTS, SEEDS, settings)
    scheduler = open_solver(diffusion, "Euler", 4, diffusion.initial_latents([0], diffusion.size))
    own_times = diffusion.schedule(4, diffusion.initial_latents([0], diffusion.size)).times
    assert scheduler.timesteps.round().long().tolist() == own_times.tolist()
    assert difference(draw_with(diffusion, "Euler", PROMPTS, SEEDS, settings), own) < LEVELS


@pytest.mark.parametrize("which", ["flux", "diffusion"])
def test_an_image_depends_on_its_own_seed_alone(which: str, request: pytest.FixtureRequest) -> None:
    family = request.getfixturevalue(which)
    for name in solvers_of(family):
        together = draw_with(family, name, PROMPTS, SEEDS, SamplingConfig(steps=3, batch=3))
        alone = draw_with(family, name, PROMPTS[1:2], SEEDS[1:2], SamplingConfig(steps=3, batch=1))
        assert difference(together[1:2], alone) < 0.5, name


def test_a_solver_that_does_not_fit_is_refused(flux: Any) -> None:
    with pytest.raises(ConfigRefused, match="choose one of Heun"):
        draw_with(flux, "Euler ancestral", PROMPTS, SEEDS, SamplingConfig(steps=1))


@pytest.fixture
def with_lora(tmp_path: Path) -> Any:
    family = load_family(tiny.flux(tmp_path / "flux"))
    family.adapter.add(LoraSettings(rank=2), seed=0)
    rng = torch.Generator().manual_seed(1)
    for weight in family.adapter.parameters().values():
        weight.data = torch.randn(weight.shape, generator=rng) * 0.2
    return family


def test_a_merged_lora_draws_the_same_images(with_lora: Any) -> None:
    settings = SamplingConfig(steps=2)
    beside = generate(with_lora, PROMPTS, SEEDS, settings)
    with with_lora.adapter.disabled():
        base = generate(with_lora, PROMPTS, SEEDS, settings)
    merge_lora(with_lora)
    assert difference(generate(with_lora, PROMPTS, SEEDS, settings), beside) < 0.1 < difference(base, beside)


def test_weights_are_rounded_to_8_bit_floats_and_a_lora_is_not(with_lora: Any) -> None:
    network = denoiser_of(with_lora)
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    round_to_float8(network)
    for name, weight in network.named_parameters():
        if "lora_" in name or weight.ndim < 2:
            assert torch.equal(weight, before[name])
            continue
        # e4m3: three bits of mantissa, so a relative error of at most 1/16 for normal numbers.
        normal = before[name].abs() >= 2**-6
        assert weight.dtype == before[name].dtype
        assert ((weight - before[name]).abs()[normal] <= before[name].abs()[normal] / 16 + 1e-9).all()
        assert len(weight.unique()) <= 253


def test_a_generator_without_a_lora_has_nothing_to_merge(flux: Any) -> None:
    with pytest.raises(ConfigRefused, match="no LoRA to merge"):
        merge_lora(flux)
