"""Gaussian noise that depends on an image's own seed, not on its batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class SeededNoise:
    """Draws noise for the images of one batch again and again, each from a stream of its own."""

    def __init__(self, stream: int, salt: int, seeds: Sequence[int]) -> None:
        """`stream` separates one use from another, `salt` varies it, `seeds` are those of the images."""
        # Torch's CPU generator uses 32 bits of a seed, so these must be mixed.
        self._generators = [
            torch.Generator().manual_seed(
                int(np.random.SeedSequence([stream, salt, seed]).generate_state(1)[0])
            )
            for seed in seeds
        ]

    def draw(self, like: Tensor) -> Tensor:
        """Standard Gaussian noise of the shape and device of `like`, one row per image."""
        rows = [torch.randn(like.shape[1:], generator=each) for each in self._generators[: len(like)]]
        return torch.stack(rows).to(like)
