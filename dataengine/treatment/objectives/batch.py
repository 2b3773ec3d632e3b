"""One batch of generated images, as objectives with a gradient through them see it.

Confidence is float32 NHW in [0, 1] with gradient; images are float32 N3HW in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dataengine.quality.scorers import Reward


def confidence_maps(detector: Any, images: Tensor, apart: bool = False) -> Tensor:
    """The detector's confidence, float NHW. `apart` predicts one image at a time and again in backward, so
    that memory does not grow with the batch."""
    if not apart or len(images) == 1 or not torch.is_grad_enabled():
        return detector.confidence(images)
    return torch.cat([checkpoint(detector.confidence, one, use_reentrant=False) for one in images.split(1)])


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
