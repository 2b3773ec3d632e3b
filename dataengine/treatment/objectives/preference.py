"""Localized preference (arXiv 2605.25759): Diffusion-DPO (Wallace et al. 2023, arXiv 2311.12908, Eq. 14) on
pairs that differ in one region, whose errors count in that region alone, with a bound on the margin.

The paper's text was not at hand: the bound is our reading of its abstract, see docs/published.md.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataengine.treatment.config import PreferenceConfig, SamplingConfig
from dataengine.treatment.families.diffusion import Conditioning, add_noise, training_target
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.sampling.sampler import autocast, crop_and_resize, mask_on_latents


@dataclass(frozen=True, kw_only=True)
class PreferencePairs:
    """Pairs of images of one prompt; each may be read when it is asked for."""

    winners: Sequence[np.ndarray]
    """uint8 HWC of any sizes."""
    losers: Sequence[np.ndarray]
    """Each of its winner's size."""
    masks: Sequence[np.ndarray]
    """The region in which they differ, bool HW of the same size."""
    prompts: Sequence[str]

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Encoded pairs: latents float32 NCHW, their cells, float32 NHW in {0, 1}, and the prompts."""

    winners: Tensor
    losers: Tensor
    cells: Tensor
    conditioning: Conditioning


def latent_cells(masks: Sequence[np.ndarray], size: tuple[int, int], like: Tensor) -> Tensor:
    """Masks bool HW of any sizes on the grid of NCHW latents of images of `size`, float32 NHW in {0, 1}:
    cropped and resized as images are; a cell is inside if any of its pixels is."""
    resized = [
        crop_and_resize(np.repeat(mask[..., None].astype(np.uint8) * 255, 3, 2), size) for mask in masks
    ]
    return mask_on_latents(torch.cat(resized)[:, 0] > 0, like).float()


def region_errors(output: Tensor, target: Tensor, cells: Tensor) -> Tensor:
    """Mean squared error over the cells of each image and all channels, shape (N,); 0 without a cell."""
    weights = cells[:, None].expand_as(output)
    counts = weights.flatten(1).sum(1).clamp(min=1)
    return ((output - target).pow(2) * weights).flatten(1).sum(1) / counts


def implicit_margin(errors: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor], beta: float) -> Tensor:
    """β/2 · [(e_l − e_l^ref) − (e_w − e_w^ref)], shape (N,), from (winner, loser) errors of the generator and
    of its reference: by how much more than the reference it favours the winner (Diffusion-DPO, Eq. 14, as in
    its authors' code: β/2 on mean squared errors)."""
    winner, loser = (mine - theirs for mine, theirs in zip(errors, reference, strict=True))
    return beta / 2 * (loser - winner)


def preference_loss(margin: Tensor, bound: float | None) -> Tensor:
    """−log σ(min(margin, bound)), averaged over the pairs: a pair beyond the bound has no gradient."""
    return F.softplus(-(margin if bound is None else margin.clamp(max=bound))).mean()


def pair_times(
    family: GeneratorFamily,
    config: PreferenceConfig,
    sampling: SamplingConfig,
    latents: Tensor,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Random training times of N pairs with their levels (α, σ), each of shape (N,)."""
    if config.times == "uniform":
        times = family.random_times(len(latents), rng)
        return (times, *family.levels(times))
    schedule = family.schedule(sampling.steps, latents)
    at = torch.randint(len(schedule), (len(latents),), generator=rng).to(schedule.times.device)
    return schedule.times[at], schedule.alpha[at], schedule.sigma[at]


def localized_preference(
    family: GeneratorFamily,
    pairs: PairBatch,
    config: PreferenceConfig,
    sampling: SamplingConfig,
    reference: Callable[[], AbstractContextManager[None]],
    rng: torch.Generator,
) -> Tensor:
    """The loss of a batch of pairs, without its weight.

    Winner and loser have the same time and noise, from `rng`, a CPU generator; `reference` is the context in
    which the family answers as its reference. Noise prediction and flow matching differ in their target
    alone.
    """
    count, clean = len(pairs.winners), torch.cat([pairs.winners, pairs.losers])
    times, alpha, sigma = pair_times(family, config, sampling, pairs.winners, rng)
    noise = torch.randn(pairs.winners.shape, generator=rng).to(clean.device).repeat(2, 1, 1, 1)
    latents = add_noise(clean, noise, alpha.repeat(2), sigma.repeat(2))
    both = times.repeat(2).to(clean.device)
    conditioning = pairs.conditioning.rows([*range(count)] * 2)
    target, cells = training_target(family.prediction, clean, noise), pairs.cells.repeat(2, 1, 1)

    def errors() -> tuple[Tensor, Tensor]:
        with autocast(clean.device, sampling.precision):
            output = family.predict(latents, both, conditioning, family.training_guidance)
        winner, loser = region_errors(output.float(), target, cells).chunk(2)
        return winner, loser

    with torch.no_grad(), reference():
        theirs = errors()
    return preference_loss(implicit_margin(errors(), theirs, config.beta), config.margin)
