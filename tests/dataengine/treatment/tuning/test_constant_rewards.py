"""A reward without variation is refused at once, and one that varies passes through unchanged."""

import pytest
import torch

from dataengine.errors import NothingLearned
from dataengine.treatment.tuning.constant_rewards import BATCHES, WatchedReward


class Toy:
    name = "toy"

    def __init__(self, scores):
        self.scores = scores

    def reward(self, images, prompts):
        return self.scores(images)


def batch(count=2):
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize(
    "scores",
    [
        lambda images: torch.full((len(images),), 0.25),
        lambda images: images.mean((1, 2, 3)).round() * 0 + 1.0,
        lambda images: (images.detach() > 0.5).float().mean((1, 2, 3)),
    ],
)
def test_no_gradient_is_refused_with_the_first_images(scores):
    with pytest.raises(NothingLearned, match=r"reward toy says the same .* gradient is 0 .* another label"):
        WatchedReward(Toy(scores)).reward(batch(), ["a", "b"])


def test_one_score_for_all_images_is_refused_after_the_first_batches():
    # Its gradient is not 0, but both images and all batches are worth the same.
    watched = WatchedReward(Toy(lambda images: 2.0 + (images - images.detach()).sum((1, 2, 3))))
    for _ in range(BATCHES - 1):
        watched.reward(batch(), ["a", "b"])
    with pytest.raises(NothingLearned, match=r"first 6 images \(all have the score 2\)"):
        watched.reward(batch(), ["a", "b"])


def test_what_varies_passes_with_its_gradient():
    watched = WatchedReward(Toy(lambda images: images.mean((1, 2, 3))))
    for _ in range(BATCHES + 2):
        images = batch()
        scores = watched.reward(images, ["a", "b"])
        scores.sum().backward()
        assert torch.equal(scores, images.mean((1, 2, 3)))
        assert torch.allclose(images.grad, torch.full_like(images, 1 / 48))


def test_without_gradient_only_the_scores_are_looked_at():
    watched = WatchedReward(Toy(lambda images: images.mean((1, 2, 3))))
    with torch.no_grad():
        assert watched.reward(batch().detach(), ["a", "b"]).shape == (2,)


def test_a_single_image_needs_a_second():
    watched = WatchedReward(Toy(lambda images: torch.ones(len(images))))
    watched.reward(batch(1), ["a"])
    with pytest.raises(NothingLearned, match="first 2 images"):
        watched.reward(batch(1), ["a"])
