"""Direct-Align (Shen et al. 2025, arXiv 2509.06942, SRPO): the gradient of an image-level objective at early
steps, at the price of one prediction.

The finished latents are noised by noise that is known, one prediction with gradient goes a part of the way
back, and the rest of the noise is removed as it is known, so that the image stays exact. The paper states it
as x_0 = (x_t − σ_t·ε) / α_t (Sec. 3.1); the order of the steps is its authors' code's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dataengine.errors import ConfigRefused
from dataengine.treatment.config import DirectConfig, SamplingConfig
from dataengine.treatment.families.diffusion import (
    Conditioning,
    Prediction,
    add_noise,
    broadcast_level,
    predicted_clean,
    predicted_noise,
)
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.sampling.sampler import autocast, sample

DRAWN = 4096
"""Training times of which those inside the range of σ are kept."""

Levels = tuple[Tensor, Tensor]
"""(α, σ), each of shape (N,)."""


@dataclass(frozen=True)
class KnownNoise:
    """Where the known noise of a batch is added, and where the one prediction ends."""

    times: Tensor
    """Training times of the prediction, shape (N,)."""
    before: Levels
    """Levels there."""
    after: Levels
    """Levels where it ends."""
    weights: Tensor
    """Factors of the gradient, float32 (N,) in [0, 1]."""


def known_noise(
    family: GeneratorFamily, config: DirectConfig, count: int, rng: torch.Generator
) -> KnownNoise:
    """Random levels for `count` images: training times as the family draws them, those with σ in the range.

    Raises `ConfigRefused` if no training time of the family lies there.
    """
    drawn = family.random_times(DRAWN, rng)
    sigma = family.levels(drawn)[1]
    inside = drawn[(sigma >= config.lowest) & (sigma <= config.highest)]
    if not len(inside):
        raise ConfigRefused(
            f"{family.name} has no training time with σ between {config.lowest:g} and {config.highest:g} "
            f"(its lowest and highest are {float(sigma.min()):.3g} and {float(sigma.max()):.3g}); widen "
            "direct.lowest and direct.highest"
        )
    times = inside[torch.randint(len(inside), (count,), generator=rng)]
    before = family.levels(times)
    after = family.levels((times * (1 - config.step)).to(times.dtype))
    share = ((before[1] - config.lowest) / (config.highest - config.lowest)).float().clamp(0, 1)
    return KnownNoise(times, before, after, discounts(share, config.discount))


def discounts(share: Tensor, discount: float | None) -> Tensor:
    """d·u / (1 + (d − 1)·u) at the shares u of the range of σ, which lowers late steps; 1 without one."""
    if discount is None:
        return torch.ones_like(share)
    return discount * share / (1 + (discount - 1) * share)


def recovered_clean(
    prediction: Prediction, output: Tensor, latents: Tensor, noise: Tensor, before: Levels, after: Levels
) -> Tensor:
    """x̂_0 NCHW from the model's output at x_t = α·x_0 + σ·ε: the deterministic step from `before` to `after`,
    whose remaining noise is removed as it is known, (x_s − σ_s·ε) / α_s.

    It equals x_0 where the prediction is exact, whatever the level.
    """
    clean = predicted_clean(prediction, output, latents, *before)
    guessed = predicted_noise(prediction, output, latents, before[0])
    stepped = add_noise(clean, guessed, *after)
    return (stepped - broadcast_level(after[1], noise) * noise) / broadcast_level(after[0], noise)


def direct_align(
    family: GeneratorFamily,
    conditioning: Conditioning,
    noise: Tensor,
    settings: SamplingConfig,
    known: KnownNoise,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """x̂_0 NCHW of images that the chain draws from `noise` without gradient, recovered after one prediction
    with gradient.

    The noise that is added is the chain's own, which keeps x_t near the states that the chain goes through.
    The prediction is without guidance, since a guided one does not lead back to the image. `on_step` is
    called after every step and the prediction, and when the gradient comes back through it.
    """
    with torch.no_grad():
        clean = sample(family, conditioning, noise, settings, 0, on_step)
    latents = add_noise(clean, noise, *known.before)
    with autocast(latents.device, settings.precision):
        output = family.predict(
            latents, known.times.to(latents.device), conditioning, family.training_guidance
        )
    recovered = recovered_clean(family.prediction, output.float(), latents, noise, known.before, known.after)
    if on_step is not None:
        on_step()
        if recovered.requires_grad:
            recovered.register_hook(_reporting(on_step))
    return scale_gradient(recovered, broadcast_level(known.weights, recovered))


def scale_gradient(values: Tensor, factors: Tensor) -> Tensor:
    """The same values, whose gradient is multiplied by `factors` of a shape that broadcasts to theirs."""
    fixed = values.detach()
    return fixed + factors * (values - fixed)


def _reporting(on_step: Callable[[], None]) -> Callable[[Any], None]:
    return lambda gradient: on_step()
