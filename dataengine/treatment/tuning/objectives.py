"""The objectives of treatment: scalars to minimise, which are summed; `OBJECTIVES` on generated images.

Confidence is float32 NHW in [0, 1] with gradient; images are float32 N3HW in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dataengine.quality.scorers import Reward
from dataengine.treatment.config import (
    OfflineConfig,
    PixelConfig,
    Precision,
    RegionConfig,
    RewardConfig,
    TreatmentConfig,
)
from dataengine.treatment.families.diffusion import Conditioning, add_noise, shift_times, training_target
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.sampling.sampler import autocast


def confidence_maps(detector: Any, images: Tensor, apart: bool = False) -> Tensor:
    """The detector's confidence, float NHW. `apart` predicts one image at a time and again in backward, so
    that memory does not grow with the batch."""
    if not apart or len(images) == 1 or not torch.is_grad_enabled():
        return detector.confidence(images)
    return torch.cat([checkpoint(detector.confidence, one, use_reentrant=False) for one in images.split(1)])


def all_pixels(confidence: Tensor) -> Tensor:
    """L_pixel = 1/(h·w) · Σ C(x)[i, j], averaged over the batch (Eq. 2)."""
    return confidence.mean()


def maximum_pixel(confidence: Tensor) -> Tensor:
    """Only the highest pixel of every image (Fig. 4)."""
    return confidence.flatten(1).amax(1).mean()


def pixels_above(confidence: Tensor, above: float) -> Tensor:
    """Mean over an image's pixels whose confidence exceeds `above`, then over the images, as in the authors'
    code. An image without such a pixel counts as 0."""
    chosen = (confidence.detach() > above).to(confidence.dtype)
    counts = chosen.flatten(1).sum(1).clamp(min=1)
    return ((confidence * chosen).flatten(1).sum(1) / counts).mean()


def soft_pixels(confidence: Tensor) -> Tensor:
    """Mean over all pixels of the batch, each weighted by its own confidence, detached from the gradient
    (ours)."""
    weights = confidence.detach()
    return (confidence * weights).sum() / weights.sum().clamp(min=1e-6)


PIXELS = {
    "all": lambda confidence, config: all_pixels(confidence),
    "maximum": lambda confidence, config: maximum_pixel(confidence),
    "above": lambda confidence, config: pixels_above(confidence, config.above),
    "soft": lambda confidence, config: soft_pixels(confidence),
}


def pixel_loss(confidence: Tensor, config: PixelConfig) -> Tensor:
    """The pixel-aware loss that the config names, without its weight."""
    return PIXELS[config.pixels](confidence, config)


def region_constraint(images: Tensor, untreated: Tensor, mask: Tensor, form: str) -> Tensor:
    """‖(1 − M) ⊙ (Î_0 − Î)‖ over an image, averaged over the batch; M float NHW in {0, 1}.

    "frobenius" is the paper's norm, not squared; "rms" divides it by √(number of values), which makes it
    independent of the image's size.
    """
    outside = ((1 - mask)[:, None] * (untreated - images)).flatten(1)
    # The norm is not differentiable at zero, where treatment starts.
    norms = (outside.pow(2).sum(1) + 1e-12).sqrt()
    return norms.mean() if form == "frobenius" else norms.mean() / outside.shape[1] ** 0.5


def region_mask(confidence: Tensor, config: RegionConfig) -> Tensor:
    """M float32 NHW in {0, 1}: heatmap → Gaussian → threshold → main connected regions → dilation
    (Focus-N-Fix). A reward's map has no absolute scale: its smoothed maximum is scaled to 1."""
    maps = confidence.detach().float().cpu().numpy()
    return torch.from_numpy(np.stack([_regions(one, config) for one in maps])).to(confidence.device)


def _regions(heatmap: np.ndarray, config: RegionConfig) -> np.ndarray:
    from scipy import ndimage

    side = min(heatmap.shape)
    smooth = ndimage.gaussian_filter(heatmap, config.sigma * side)
    regions = smooth > config.threshold * (1 if config.map == "detector" else smooth.max())
    numbers, count = ndimage.label(regions, structure=np.ones((3, 3)))
    if count == 0:
        return np.zeros(heatmap.shape, dtype=np.float32)
    areas = np.bincount(numbers.ravel(), minlength=count + 1)
    areas[0] = 0
    main = (areas >= config.main * areas.max()) & (areas > 0)
    grown = ndimage.distance_transform_edt(~main[numbers]) <= config.dilation * side
    return grown.astype(np.float32)


def reward_loss(scores: Tensor, config: RewardConfig) -> Tensor:
    """The mean score times its weight, negated if the score is to be raised."""
    return config.weight * (scores.mean() if config.goal == "lower" else -scores.mean())


def open_rewards(configs: Sequence[RewardConfig], device: torch.device) -> list[Reward]:
    """Open the frozen scorers of the configs. Raises `ModelRefused` for one that does not load."""
    return [_open_reward(config, device) for config in configs]


def _open_reward(config: RewardConfig, device: torch.device) -> Reward:
    from dataengine.quality.scorers import ClassifierScorer, ClipScorer, PreferenceScorer

    if config.kind == "classifier":
        return ClassifierScorer(config.location, config.label, config.activation, device)
    if config.kind == "hpsv2":
        return PreferenceScorer(config.location, device)
    return ClipScorer(config.location, config.kind, device)


@dataclass(frozen=True, kw_only=True)
class GeneratedBatch:
    """One batch of generated images with the inputs of the objectives."""

    images: Tensor
    """Float32 N3HW in [0, 1], with gradient."""
    prompts: Sequence[str]
    """Their prompts."""
    detect: Callable[[Tensor], Tensor]
    """The detector's confidence in images, float NHW."""
    rewards: Sequence[Reward]
    """The scorers of the settings, in order."""
    untreated: Tensor | None = None
    """The same images without treatment; only with a region constraint."""
    mask: Tensor | None = None
    """The regions of their artifacts, float32 NHW in {0, 1}."""


def _pixel(settings: PixelConfig, batch: GeneratedBatch) -> dict[str, Tensor]:
    return {"pixel": settings.weight * pixel_loss(batch.detect(batch.images), settings)}


def _rewards(settings: Sequence[RewardConfig], batch: GeneratedBatch) -> dict[str, Tensor]:
    return {
        f"reward {number} {scorer.name}": reward_loss(scorer.reward(batch.images, batch.prompts), one)
        for number, (scorer, one) in enumerate(zip(batch.rewards, settings, strict=True), start=1)
    }


def _region(settings: RegionConfig, batch: GeneratedBatch) -> dict[str, Tensor]:
    assert batch.untreated is not None and batch.mask is not None
    constraint = region_constraint(batch.images, batch.untreated, batch.mask, settings.form)
    return {"region": settings.beta * constraint}


Objective = Callable[[Any, GeneratedBatch], dict[str, Tensor]]
"""Maps an objective's settings and a batch to its weighted terms, scalars, by the name of their curve."""

OBJECTIVES: dict[str, Objective] = {"pixel": _pixel, "rewards": _rewards, "region": _region}
"""The objectives by the field of `TreatmentConfig` with their settings."""


def active_objectives(config: TreatmentConfig) -> list[tuple[Objective, Any]]:
    """The objectives on generated images that have settings and a weight above 0, with their settings."""
    found = [(objective, getattr(config, name)) for name, objective in OBJECTIVES.items()]
    return [
        (objective, settings) for objective, settings in found if settings and getattr(settings, "weight", 1)
    ]


def offline_loss(
    family: GeneratorFamily,
    clean: Tensor,
    conditioning: Conditioning,
    config: OfflineConfig,
    rng: torch.Generator,
    precision: Precision = "float32",
) -> Tensor:
    """The ordinary diffusion loss on latents of artifact-free images: (z_T − z_0) − v_θ(z_t, t), or ε −
    ε_θ.

    Reduction: the mean squared error over all elements of the batch, where the paper gives a norm (Eq. 3).
    Times and noise come from `rng`, a CPU generator.
    """
    times = family.random_times(len(clean), rng)
    if family.prediction == "flow" and config.times == "logit-normal":
        times = torch.randn(len(clean), generator=rng).sigmoid()
    elif family.prediction == "flow" and config.times == "shifted":
        times = shift_times(times, clean.shape[-2] * clean.shape[-1] // 4)
    noise = torch.randn(clean.shape, generator=rng).to(clean.device)
    alpha, sigma = family.levels(times)
    latents = add_noise(clean, noise, alpha, sigma)
    with autocast(clean.device, precision):
        output = family.predict(latents, times.to(clean.device), conditioning, family.training_guidance)
    return (output.float() - training_target(family.prediction, clean, noise)).pow(2).mean()
