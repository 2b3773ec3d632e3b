"""Losses of a detector's training: the paper's squared error, and terms that keep sparse artifacts in sight.

Artifacts cover a few percent of the pixels, so squared error alone rewards a detector that stays silent.
Every term is a function of predicted confidences and targets, float32 NHW in [0, 1], and of `counted`,
float32 NHW, 1 for the pixels that count and 0 for the others; it returns one value per image, float32 N. Soft
targets are taken as the probability of an artifact. segmentation-models-pytorch's losses are not used: they
reduce over the batch, so they know neither weights of images nor pixels left out.
"""

import torch
from torch import Tensor

from dataengine.diagnosis.config import LossConfig
from dataengine.records import THRESHOLD

SMALLEST = 1e-6
"""Confidences are clamped to [1e-6, 1 − 1e-6] before a logarithm."""
SMOOTH = 1.0
"""Pixels added to numerator and denominator of Dice, so that tiny artifacts have a bounded gradient."""


def map_loss(
    predicted: Tensor, targets: Tensor, weights: Tensor, counted: Tensor, config: LossConfig | None = None
) -> Tensor:
    """The weighted sum of the terms, then the weighted mean over images, Σ wᵢ·lossᵢ / N.

    The default is DiffDoctor's Eq. 1 alone. An image without a counted pixel adds 0.
    """
    config = config or LossConfig()
    loss = torch.zeros_like(weights)
    if config.squared:
        loss = loss + config.squared * squared_error(predicted, targets, counted, config.flawed_pixels)
    if config.focal:
        loss = loss + config.focal * focal_loss(
            predicted, targets, counted, config.focal_gamma, config.flawed_pixels
        )
    if config.dice:
        loss = loss + config.dice * dice_loss(predicted, targets, counted)
    if config.peak:
        loss = loss + config.peak * peak_loss(predicted, targets, counted, config.peak_share)
    return (weights * loss).mean()


def squared_error(predicted: Tensor, targets: Tensor, counted: Tensor, flawed_pixels: float = 1.0) -> Tensor:
    """Mean over counted pixels of (p − q)² (DiffDoctor, Eq. 1), flawed pixels weighted by `flawed_pixels`.

    The paper prints the squared norm of an image, which is the same up to the number of pixels.
    """
    return _mean(_pixel_weights(targets, flawed_pixels) * (predicted - targets).square(), counted)


def focal_loss(
    predicted: Tensor, targets: Tensor, counted: Tensor, gamma: float = 2.0, flawed_pixels: float = 1.0
) -> Tensor:
    """Mean over counted pixels of −(1 − pₜ)^γ·log pₜ (Lin et al. 2017, Eq. 4); γ = 0 is cross-entropy.

    pₜ is the confidence of the truth; a soft target mixes both truths. Flawed pixels are weighted by
    `flawed_pixels`, the balanced form's α / (1 − α).
    """
    q = predicted.clamp(SMALLEST, 1 - SMALLEST)
    flawed, clean = (1 - q) ** gamma * q.log(), q**gamma * (1 - q).log()
    return _mean(-(flawed_pixels * targets * flawed + (1 - targets) * clean), counted)


def dice_loss(predicted: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """1 − Dice of flawed images (Milletari et al. 2016), 0 for images without a flawed pixel.

    Dice is (2·Σpq + 1) / (Σp + Σq + 1) over counted pixels: a small artifact counts as much as a large one.
    """
    flawed = _flawed(targets, counted)
    overlap = (counted * predicted * targets).sum(dim=(1, 2))
    total = (counted * (predicted + targets)).sum(dim=(1, 2))
    return flawed * (1 - (2 * overlap + SMOOTH) / (total + SMOOTH))


def peak_loss(predicted: Tensor, targets: Tensor, counted: Tensor, share: float = 1 / 256) -> Tensor:
    """Cross-entropy of an image's peak against whether it has a flawed pixel; 0 without a counted pixel.

    The peak is the mean of the highest confidences, `share` of the image's pixels (the top instances of
    multiple-instance learning, Li & Vasconcelos 2015).
    """
    pixels = predicted[0].numel()
    highest = (counted * predicted).flatten(1).topk(max(1, round(share * pixels)), dim=1).values
    q = highest.mean(dim=1).clamp(SMALLEST, 1 - SMALLEST)
    flawed = _flawed(targets, counted)
    known = counted.flatten(1).any(dim=1)
    return known * -torch.where(flawed, q.log(), (1 - q).log())


def _flawed(targets: Tensor, counted: Tensor) -> Tensor:
    """Whether an image has a counted pixel that is flawed, bool N."""
    return ((targets >= THRESHOLD) & (counted > 0)).flatten(1).any(dim=1)


def _pixel_weights(targets: Tensor, flawed_pixels: float) -> Tensor:
    return 1 + (flawed_pixels - 1) * targets


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over the counted pixels of each image; 0 without any."""
    return (counted * values).sum(dim=(1, 2)) / counted.sum(dim=(1, 2)).clamp(min=1)
