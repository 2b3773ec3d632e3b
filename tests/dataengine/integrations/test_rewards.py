"""Rewards of images in every form in which trainers hand them over."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dataengine.errors import ImageRefused
from dataengine.integrations.rewards import ArtifactReward


class Red(nn.Module):
    """A detector of red."""

    name = "red"

    def confidence(self, images: Tensor) -> Tensor:
        return images[:, 0]


ARRAY = np.zeros((2, 4, 6, 3), np.uint8)
ARRAY[0, :2, :, 0] = 255
ARRAY[1, 0, 0, 0] = 51
MEANS, HIGHEST = [0.5, 1 - 0.2 / 24], [0.0, 0.8]


@pytest.mark.parametrize(
    "images",
    [
        [Image.fromarray(each) for each in ARRAY],
        list(ARRAY),
        ARRAY,
        torch.from_numpy(ARRAY).permute(0, 3, 1, 2),
        torch.from_numpy(ARRAY).permute(0, 3, 1, 2).float() / 255,
        (torch.from_numpy(ARRAY).permute(0, 3, 1, 2) / 255).bfloat16(),
    ],
    ids=["PIL", "arrays", "array", "bytes", "floats", "bfloat16"],
)
def test_every_form_of_images_gives_one_float_each(images: object) -> None:
    reward = ArtifactReward(Red())
    found = reward(images, ["a", "b"], ({}, {}), step=3)
    assert found.dtype == torch.float32 and found.tolist() == pytest.approx(MEANS, abs=1e-3)
    assert ArtifactReward(Red(), score="highest")(images).tolist() == pytest.approx(HIGHEST, abs=1e-3)


def test_images_of_several_sizes_come_back_in_their_order_and_without_gradient() -> None:
    images = [np.full((side, side + 1, 3), 10 * side, np.uint8) for side in (3, 5, 3, 7)]
    found = ArtifactReward(Red(), batch=3)(images)
    assert found.tolist() == pytest.approx([1 - 10 * side / 255 for side in (3, 5, 3, 7)])
    assert not found.requires_grad and len(ArtifactReward(Red())([])) == 0


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.full((1, 3, 2, 2), -1.0), "images in .−1, 1. need"),
        (torch.full((1, 3, 2, 2), 200.0), r"expected values in \[0, 1\]"),
        (torch.zeros(1, 4, 2, 2), "expected an image 3HW"),
        (np.zeros((1, 2, 2), np.uint8), "expected an image HW3"),
    ],
)
def test_other_values_and_shapes_are_refused(images: object, words: str) -> None:
    with pytest.raises(ImageRefused, match=words):
        ArtifactReward(Red())(images)
