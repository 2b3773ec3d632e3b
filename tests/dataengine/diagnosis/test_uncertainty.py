from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from dataengine.diagnosis.detector import NetworkDetector
from dataengine.diagnosis.uncertainty import (
    encoder_features,
    restored_view,
    shrunk_view,
    view_variance,
)
from dataengine.errors import ConfigRefused
from tests.dataengine.diagnosis.tiny import SEGFORMER, UNET, example


@dataclass
class Rule:
    """A detector whose map is a function of the pixels."""

    rule: Any
    name: str = "rule"

    def confidence(self, images: torch.Tensor) -> torch.Tensor:
        return self.rule(images)

    def find_artifacts(self, image: np.ndarray) -> np.ndarray:
        raise AssertionError("batches go through the other door")

    def parameters(self) -> Any:
        return iter(())

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        return self

    def to(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def eval(self) -> Any:
        return self


def test_a_detector_that_looks_at_colour_alone_hardly_varies() -> None:
    pictures = [example(i).image for i in (1, 3, 5)]
    by_colour = Rule(lambda images: (images[:, 0] > 0.7).float())
    by_place = Rule(lambda images: torch.linspace(0, 1, images.shape[-1]).expand(len(images), 32, -1))
    flips = [True] * 3
    steady = view_variance(by_colour, pictures, flips)
    swaying = view_variance(by_place, pictures, flips)
    assert max(steady) < 0.1 < min(swaying) <= 1
    assert view_variance(by_place, pictures, [False] * 3)[0] < swaying[0]
    assert view_variance(by_colour, [], []) == []


def test_a_shrunk_view_comes_back_to_its_place() -> None:
    square = np.zeros((40, 24, 3), np.uint8)
    square[12:28, 6:18] = 255
    small = shrunk_view(square)
    assert small.shape == square.shape and small.mean() < square.mean()
    back = restored_view(small[..., 0].astype(np.float32) / 255)
    assert back.shape == (40, 24) and np.abs(back - square[..., 0] / 255).mean() < 0.04


@pytest.mark.parametrize("config", [SEGFORMER, UNET], ids=["segformer", "unet"])
def test_features_have_unit_length_and_tell_pictures_apart(config: Any) -> None:
    detector = NetworkDetector.fresh(config, seed=1).eval()
    pictures = [example(1).image, example(3, side=48).image, example(1).image]
    found = encoder_features(detector, pictures, batch=2)
    assert found.shape[0] == 3 and found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.allclose(found[0], found[2], atol=1e-5) and not np.allclose(found[0], found[1], atol=1e-3)
    with pytest.raises(ConfigRefused, match="no encoder features"):
        encoder_features(Rule(None), pictures)
