"""Pixel-aware treatment (DiffDoctor, Eq. 2): the confidence of an image's pixels, float NHW in [0, 1]."""

from torch import Tensor

from dataengine.treatment.config import PixelConfig
from dataengine.treatment.objectives.batch import GeneratedBatch


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


def pixel_terms(settings: PixelConfig, batch: GeneratedBatch) -> dict[str, Tensor]:
    """The weighted term of the settings."""
    return {"pixel": settings.weight * pixel_loss(batch.detect(batch.images), settings)}
