"""BayesDiff by hand: the posterior and its variance by plain loops, the chain by particles, and refusals."""

import numpy as np
import pytest
import torch
from torch import nn

from dataengine.diagnosis.config import BayesDiffConfig
from dataengine.errors import ConfigRefused
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.diffusion import Conditioning, Schedule
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.bayesdiff import (
    Posterior,
    VarianceCarrier,
    curvature,
    fit_posterior,
    output_variance,
    step_factors,
    variance_confidence,
    watch_variance,
)
from dataengine.treatment.sampling.sampler import generate
from tests.dataengine.treatment.tiny import PROMPTS

SETTINGS = SamplingConfig(steps=3, batch=2)
FEW = BayesDiffConfig(samples=2, images=2)


class Toy:
    """A family of 2 channels and 1 × 3 places; its denoiser reads places as tokens, channels last."""

    name = "toy"
    prediction = "epsilon"
    size = (1, 3)
    multiple = 1
    guidance = training_guidance = 1.0
    device = torch.device("cpu")

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def modules(self):
        return {"unet": self.network}

    def encode_prompts(self, prompts):
        return Conditioning({"nothing": torch.zeros(len(prompts), 0)})

    def initial_latents(self, seeds, size):
        return torch.stack([torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(s)) for s in seeds])

    def random_times(self, count, rng):
        return torch.full((count,), 0.5)

    def levels(self, times):
        return torch.ones_like(times), torch.zeros_like(times)

    def schedule(self, steps, latents):
        alpha, sigma = torch.tensor([0.3, 0.6, 0.8]), torch.tensor([0.954, 0.8, 0.6])
        return Schedule(
            times=torch.tensor([0.9, 0.6, 0.3]),
            alpha=alpha,
            sigma=sigma,
            next_alpha=torch.tensor([0.6, 0.8, 1.0]),
            next_sigma=torch.tensor([0.8, 0.6, 0.0]),
        )

    def predict(self, latents, times, conditioning, guidance):
        tokens = latents.flatten(2).transpose(1, 2)
        return self.network(tokens).transpose(1, 2).reshape(latents.shape)

    def encode_images(self, images):
        return images[:, :2]

    def decode(self, latents):
        return torch.cat([latents, latents[:, :1]], 1)


def diagonal(first: float, second: float) -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.tensor([[first, 0.0], [0.0, second]])
    layer.bias.data.zero_()
    return nn.Sequential(layer)


def test_the_curvature_of_a_convolution_is_the_sum_of_squared_inputs_by_plain_loops():
    layer = nn.Conv2d(2, 3, 3, padding=1, stride=2)
    features = torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(1))
    found, count = curvature(layer, features)
    padded = np.pad(features.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected, places = np.zeros((2, 3, 3)), 0
    for image in padded:
        for row in range(0, 5, 2):
            for column in range(0, 4, 2):
                places += 1
                for channel in range(2):
                    for i in range(3):
                        for j in range(3):
                            expected[channel, i, j] += image[channel, row + i, column + j] ** 2
    assert count == places == layer(features)[:, 0].numel()
    assert np.allclose(found[0].numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("layer", [nn.Conv2d(2, 3, 3, padding=1), nn.Linear(4, 3)])
def test_the_variance_of_the_output_is_that_of_weights_drawn_from_the_posterior(layer):
    rng = torch.Generator().manual_seed(2)
    conv = isinstance(layer, nn.Conv2d)
    features = torch.randn(1, 2, 4, 4, generator=rng) if conv else torch.randn(1, 5, 4, generator=rng)
    shape = (1, 2, 3, 3) if conv else (4,)
    posterior = Posterior("unet.0", torch.rand(shape, generator=rng) + 0.1, 0.3)
    found = output_variance(layer, posterior, features)
    assert found.shape == layer(features).shape
    drawn = []
    for _ in range(2000):
        weight = torch.randn(layer.weight.shape, generator=rng) * posterior.weight.sqrt()
        bias = torch.randn(layer.bias.shape, generator=rng) * posterior.bias**0.5
        drawn.append(
            nn.functional.conv2d(features, weight, bias, padding=1) if conv else features @ weight.T + bias
        )
    assert torch.allclose(torch.stack(drawn).var(0), found, rtol=0.25)


def test_the_posterior_is_the_exact_one_of_linear_regression():
    """Precision of weight j: Σ φ_j² over places and images, plus the prior's; the levels add no noise."""
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 3, 3), dtype=np.uint8)
    fitted = fit_posterior(
        Toy(diagonal(0.5, 0.2)), images, [""] * 5, FEW.model_copy(update={"prior_precision": 2.0})
    )
    expected = [2.0, 2.0]
    for image in images:
        for place in range(3):
            for channel in range(2):
                expected[channel] += (int(image[0, place, channel]) / 255) ** 2
    assert fitted.layer == "unet.0"
    assert np.allclose(1 / fitted.weight.numpy(), expected, rtol=1e-4)
    assert fitted.bias == pytest.approx(1 / (5 * 3 + 2.0))


@pytest.mark.parametrize("prediction", ["epsilon", "flow"])
def test_a_step_is_linear_in_state_and_output(prediction):
    schedule = Toy(diagonal(1, 1)).schedule(3, None)
    if prediction == "flow":
        schedule = Schedule(*(torch.tensor([each]) for each in (0.7, 0.3, 0.7, 0.5, 0.5)))
    a, b = step_factors(prediction, schedule, 0)
    x, y = 1.7, -0.4
    alpha, sigma = float(schedule.alpha[0]), float(schedule.sigma[0])
    clean = x - sigma * y if prediction == "flow" else (x - sigma * y) / alpha
    noise = x + alpha * y if prediction == "flow" else y
    expected = float(schedule.next_alpha[0]) * clean + float(schedule.next_sigma[0]) * noise
    assert float(a * x + b * y) == pytest.approx(expected, rel=1e-5)


def test_the_chain_carries_the_variance_of_particles():
    """With a diagonal layer the recursion is exact: particles whose predictions get noise of variance γ²."""
    slopes, family = (0.7, -0.4), Toy(diagonal(0.7, -0.4))
    posterior = Posterior("unet.0", torch.tensor([0.02, 0.05]), 0.01)
    carrier = VarianceCarrier(posterior, BayesDiffConfig(samples=1000), [3])
    latents = family.initial_latents([3], (1, 3))
    schedule, told = family.schedule(3, latents), family.encode_prompts([""])
    rng, mean = np.random.default_rng(1), latents[0, :, 0].double().numpy()
    particles = np.repeat(mean[None], 20_000, axis=0)
    for step in range(3):
        latents = carrier(family, latents, told, schedule, step, 1.0).latents
        levels = (schedule.alpha, schedule.sigma, schedule.next_alpha, schedule.next_sigma)
        alpha, sigma, after, noise = (float(each[step]) for each in levels)
        # γ² of every place: Σ_j φ_j²·s_j² + s_b², φ being the state itself; the same for both outputs.
        gamma = np.array([mean[0, p] ** 2 * 0.02 + mean[1, p] ** 2 * 0.05 + 0.01 for p in range(3)])
        slope = np.array(slopes)[None, :, None]
        output = slope * particles + np.sqrt(gamma) * rng.standard_normal(particles.shape)
        particles = after * (particles - sigma * output) / alpha + noise * output
        exact = np.array(slopes)[:, None] * mean
        mean = after * (mean - sigma * exact) / alpha + noise * exact
        assert np.allclose(latents[0, :, 0].numpy(), mean, atol=1e-5)
        assert np.allclose(carrier.variance[0, :, 0].numpy(), particles.var(0), rtol=0.15)


@pytest.fixture(scope="module", params=["flux", "sd"])
def family(request, flux_folder, sd_folder):
    return load_family(flux_folder if request.param == "flux" else sd_folder)


def photos(family, count=2):
    return np.random.default_rng(4).integers(0, 256, (count, *family.size, 3), dtype=np.uint8)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_real_families_get_maps_and_keep_their_images(family, guidance, tmp_path):
    settings = SETTINGS.model_copy(update={"guidance": guidance})
    posterior = fit_posterior(family, photos(family), PROMPTS[:2], FEW)
    posterior.save(tmp_path)
    loaded = Posterior.load(tmp_path)
    assert torch.equal(loaded.weight, posterior.weight) and loaded.layer == posterior.layer
    plain = generate(family, PROMPTS[:2], [1, 2], settings)
    carriers = []

    def steppers(rows):
        carriers.append(VarianceCarrier(loaded, FEW, [1, 2][rows]))
        return carriers[-1]

    assert np.array_equal(plain, generate(family, PROMPTS[:2], [1, 2], settings, steppers=steppers))
    maps = watch_variance(family, PROMPTS[:2], [1, 2], settings, loaded, FEW)
    assert (
        len(maps) == 2 and maps[0].shape == family.size and all(each.min() >= 0 < each.max() for each in maps)
    )
    alone = watch_variance(family, PROMPTS[1:2], [2], settings, loaded, FEW)[0]
    assert np.allclose(alone, maps[1], rtol=0.05, atol=maps[1].max() * 1e-2), "by the image's own seed"


def test_more_images_leave_less_variance(family):
    few, many = (fit_posterior(family, photos(family, n), [PROMPTS[0]] * n, FEW) for n in (2, 12))
    assert (many.weight < few.weight).all() and many.bias < few.bias


def test_confidence_is_half_exactly_where_the_variance_exceeds_the_threshold():
    variance = np.arange(100.0).reshape(10, 10) / 100
    variance[0, 0] = 5.0
    found = variance_confidence(variance, 3.0)
    median = np.median(variance)
    limit = median + 3 * 1.4826 * np.median(np.abs(variance - median))
    assert np.array_equal(found >= 0.5, variance > limit) and found[0, 0] > 0.5
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() < 1
    assert not variance_confidence(np.zeros((4, 4)), 3.0).any()


class Squashed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def forward(self, tokens):
        return torch.tanh(3 * self.inner(tokens))


def test_refusals_say_what_is_missing(family):
    none = np.zeros((0, 1, 3, 3), np.uint8)
    with pytest.raises(ConfigRefused, match=r"no image to fit .*clinic import FOLDER --source real"):
        fit_posterior(Toy(diagonal(1, 1)), none, [], FEW)
    one = np.full((1, 1, 3, 3), 200, np.uint8)
    with pytest.raises(ConfigRefused, match="has no linear or convolutional layer, so BayesDiff"):
        fit_posterior(Toy(nn.Tanh()), one, [""], FEW)
    with pytest.raises(ConfigRefused, match=r"not the output of unet\.inner"):
        fit_posterior(Toy(Squashed()), one, [""], FEW)
    strange = Posterior("unet.elsewhere", torch.ones(2), 0.0)
    with pytest.raises(ConfigRefused, match=r"no linear or convolutional layer unet\.elsewhere"):
        watch_variance(family, PROMPTS[:1], [1], SETTINGS, strange, FEW)
