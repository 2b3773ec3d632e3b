"""Direct-Align against values computed by plain loops, and on tiny pipelines."""

import math

import pytest
import torch

from dataengine.errors import ConfigRefused
from dataengine.treatment.config import (
    DirectConfig,
    LoraSettings,
    RegionConfig,
    SamplingConfig,
    TreatmentConfig,
)
from dataengine.treatment.families.diffusion import add_noise, training_target
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.objectives.direct import (
    direct_align,
    discounts,
    known_noise,
    recovered_clean,
    scale_gradient,
)
from dataengine.treatment.tuning.batches import Batches
from dataengine.treatment.tuning.estimate import preflight
from dataengine.treatment.tuning.trainer import treat
from tests.dataengine.treatment.objectives.toys import NOTHING, Linear, Noisy
from tests.dataengine.treatment.tiny import PROMPTS, ToyDetector

NOISE = torch.tensor([[[[0.5, -1.0]]], [[[2.0, 0.25]]]])
CONFIG = TreatmentConfig(
    updates=2,
    batch=2,
    grad_steps=1,
    truncation="direct",
    offline=None,
    learning_rate=1e-2,
    sampling=SamplingConfig(steps=2, batch=4),
    lora=LoraSettings(rank=2, targets="all"),
)


@pytest.mark.parametrize("family", [Linear(0, 0), Noisy(0, 0)], ids=["flow", "epsilon"])
@pytest.mark.parametrize(("before", "after"), [(1, 0), (7, 3), (9, 8)])
def test_an_exact_prediction_recovers_the_image_from_any_level(family, before, after):
    times = [
        torch.tensor([value / 10 if family.prediction == "flow" else value]) for value in (before, after)
    ]
    clean, noise = torch.rand(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    levels = [family.levels(time) for time in times]
    target = training_target(family.prediction, clean, noise)
    latents = add_noise(clean, noise, *levels[0])
    found = recovered_clean(family.prediction, target, latents, noise, *levels)
    assert torch.allclose(found, clean, atol=1e-5)
    wrong = recovered_clean(family.prediction, target + 0.3, latents, noise, *levels)
    assert not torch.allclose(wrong, clean, atol=1e-2)


def test_flow_matching_by_hand():
    """x̂_0 and ∂/∂w, ∂/∂b of its mean square; the chain before it has no gradient."""
    w, b, steps, config = 0.4, -0.1, 4, DirectConfig(lowest=0.5, highest=0.9, step=0.25, discount=3.0)
    family = Linear(w, b)
    known = known_noise(family, config, 2, torch.Generator().manual_seed(3))
    found = direct_align(family, NOTHING, NOISE, SamplingConfig(steps=steps), known)
    found.square().mean().backward()
    values, by_w, by_b = [], 0.0, 0.0
    for image in range(2):
        level = float(known.times[image])
        share = (level - 0.5) / 0.4
        weight = 3 * share / (1 + 2 * share)
        assert 0.5 <= level <= 0.9
        for noise in NOISE[image].flatten().tolist():
            clean = noise
            for _ in range(steps):
                clean -= (w * clean + b) / steps
            noisy = (1 - level) * clean + level * noise
            end = 0.75 * level
            stepped = noisy + (end - level) * (w * noisy + b)
            values.append((stepped - end * noise) / (1 - end))
            slope = 2 * values[-1] / 4 * weight * (end - level) / (1 - end)
            by_w += slope * noisy
            by_b += slope
    assert found.flatten().tolist() == pytest.approx(values, abs=1e-5)
    assert family.w.grad.item() == pytest.approx(by_w, rel=1e-4)
    assert family.b.grad.item() == pytest.approx(by_b, rel=1e-4)


def test_noise_prediction_by_hand():
    """x̂_0 = x/α − (σ/α − σ'/α')·ε̂ − σ'/α'·ε, whose slope in w is −(σ/α − σ'/α')·x."""
    family, clean = Noisy(0.4, -0.1), torch.tensor([[[[0.3, -0.7]]], [[[1.5, 0.0]]]])
    before, after = (family.levels(torch.tensor(times)) for times in ([5, 9], [2, 4]))
    latents = add_noise(clean, NOISE, *before)
    output = family.predict(latents, None, NOTHING, 1.0)
    recovered_clean("epsilon", output, latents, NOISE, before, after).sum().backward()
    expected, slope = [], 0.0
    for image, (start, end) in enumerate(((6 / 11, 3 / 11), (10 / 11, 5 / 11))):
        alpha, sigma = math.sqrt(1 - start), math.sqrt(start)
        ratio, left = sigma / alpha, math.sqrt(end) / math.sqrt(1 - end)
        for x0, noise in zip(clean[image].flatten().tolist(), NOISE[image].flatten().tolist(), strict=True):
            x = alpha * x0 + sigma * noise
            expected.append(x / alpha - (ratio - left) * (0.4 * x - 0.1) - left * noise)
            slope -= (ratio - left) * x
    found = recovered_clean("epsilon", output.detach(), latents, NOISE, before, after)
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-5)
    assert family.w.grad.item() == pytest.approx(slope, rel=1e-4)


def test_the_levels_lie_in_the_range_and_depend_on_the_seed_alone():
    config = DirectConfig(lowest=0.6, highest=0.8)
    for family in (Linear(0, 0), Noisy(0, 0)):
        drawn = [known_noise(family, config, 300, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
        sigma = drawn[0].before[1]
        assert sigma.min() >= 0.6 and sigma.max() <= 0.8 and len(sigma.unique()) > 1
        assert (drawn[0].after[1] < sigma).all()
        assert torch.equal(drawn[0].times, drawn[1].times) and not torch.equal(drawn[0].times, drawn[2].times)


def test_a_range_without_a_training_time_is_refused():
    with pytest.raises(
        ConfigRefused, match=r"no training time with σ between 0.97 and 0.98.*widen direct.lowest"
    ):
        known_noise(Noisy(0, 0), DirectConfig(lowest=0.97, highest=0.98), 2, torch.Generator())
    with pytest.raises(ValueError, match=r"lowest 0.9 must be below highest 0.5"):
        DirectConfig(lowest=0.9, highest=0.5)


def test_discount_and_scaled_gradient_by_hand():
    share = torch.tensor([0.0, 0.5, 1.0])
    assert discounts(share, 3.0).tolist() == pytest.approx([0.0, 0.75, 1.0])
    assert discounts(share, None).tolist() == [1.0, 1.0, 1.0]
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    scaled = scale_gradient(values, share)
    assert scaled.tolist() == [1.0, 2.0, 3.0]
    scaled.square().sum().backward()
    assert values.grad.tolist() == pytest.approx([0.0, 2.0, 6.0])


@pytest.mark.parametrize("folder", ["flux_folder", "sd_folder"])
@pytest.mark.parametrize("region", [None, RegionConfig(form="rms")])
def test_pipelines_learn_from_early_steps(request, tmp_path, folder, region):
    config = CONFIG.model_copy(update={"region": region})
    family = load_family(request.getfixturevalue(folder))
    result = treat(config, family, ToyDetector(), PROMPTS, None, [], None, tmp_path)
    assert all(row["pixel"] > 0 and row["grad_norm"] > 0 for row in result.history)
    assert all(("region" in row) == (region is not None) for row in result.history)


def test_the_recovered_images_are_those_of_the_chain(flux_folder):
    """A random network's prediction is far from exact, so a small step stays near the chain's image and a
    whole one does not."""
    distances = {}
    for step in (0.02, 1.0):
        config = CONFIG.model_copy(update={"direct": DirectConfig(step=step)})
        family = load_family(flux_folder)
        made = Batches(config, family, ToyDetector(), PROMPTS, lambda: None)
        _, conditioning, noise = made.inputs(0, torch.Generator().manual_seed(0))
        with torch.no_grad():
            image = made._chain(conditioning, noise, torch.Generator().manual_seed(0))(None)
            chain = CONFIG.model_copy(update={"truncation": "last"})
            made.config = chain
            drawn = made._chain(conditioning, noise, torch.Generator().manual_seed(0))(None)
        distances[step] = float((image - drawn).abs().mean())
    assert distances[0.02] < 0.2 * distances[1.0]


def test_the_estimate_counts_the_whole_chain_and_one_prediction(flux_folder):
    last, direct = (
        preflight(CONFIG.model_copy(update={"truncation": truncation}), flux_folder)
        for truncation in ("last", "direct")
    )
    assert direct.activations_bytes == last.activations_bytes
    assert direct.flops > last.flops and direct.calls > last.calls, "one more prediction than the chain has"
