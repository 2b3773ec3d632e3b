"""Refuses a reward that says the same of every image: there is nothing to learn from it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dataengine.errors import NothingLearned
from dataengine.quality.scorers import Reward

FEWEST = 2
"""Images that a reward without any gradient is refused after."""
BATCHES = 3
"""First batches whose scores must differ in some image."""


class WatchedReward:
    """A reward whose first batches are watched; after them it is the reward itself."""

    def __init__(self, reward: Reward) -> None:
        self.name = reward.name
        self._reward = reward
        self._low, self._high = float("inf"), float("-inf")
        self._images = self._batches = 0
        self._moves = False

    def reward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """See `Reward`. Raises `NothingLearned` where its gradient is 0 at all pixels of the first images, or
        its scores of the first batches are one and the same."""
        if self._batches >= BATCHES and self._moves:
            return self._reward.reward(images, prompts)
        # A tensor of its own, so that no hook on the images runs for the gradient that is taken here.
        images = images.view_as(images)
        scores = self._reward.reward(images, prompts)
        self._images, self._batches = self._images + len(images), self._batches + 1
        values = scores.detach().float()
        self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))
        if images.requires_grad and not self._moves:
            self._moves = _has_gradient(scores, images)
            if not self._moves and self._images >= FEWEST:
                self._refuse("its gradient is 0 at every pixel")
        # A single image cannot differ from itself, and a score that is not a number is refused elsewhere.
        if self._batches >= BATCHES and self._images >= FEWEST and self._low == self._high:
            self._refuse(f"all have the score {self._low:.4g}")
        return scores

    def _refuse(self, why: str) -> None:
        raise NothingLearned(
            f"the reward {self.name} says the same of the first {self._images} images ({why}), so there is "
            "nothing to learn from it; give another label or scorer, or prompts on which its scores differ"
        )


def _has_gradient(scores: Tensor, images: Tensor) -> bool:
    """Whether the scores change with any pixel; what is not finite is left to the update's own check."""
    if not scores.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(scores.sum(), images, retain_graph=True, allow_unused=True)
    return gradient is not None and bool(gradient.abs().max() != 0)
