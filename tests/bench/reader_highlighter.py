"""A flaw highlighter that starts from trained features: the clinic's reader, in place of ImageNet's weights,
which are not shipped."""

import contextlib
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from dataengine.clinic.parts import materialise
from dataengine.diagnosis import flaw_activation
from dataengine.diagnosis.config import HighlighterConfig
from dataengine.diagnosis.flaw_activation import FlawHighlighter
from dataengine.quality.distances import ClassifierFeatures
from dataengine.treatment.refining import trainer
from tests.bench.guided_sampling import KEEPER
from tests.bench.harness import device

READER = "clinic reader"
"""Stands in a highlighter's settings for weights that are no VGG16's."""


class ReaderHighlighter(FlawHighlighter):
    """A highlighter whose features are the last maps of the clinic's reader, in place of VGG16's."""

    def __init__(self, config: HighlighterConfig, grid: tuple[int, int] = (1, 1)) -> None:
        super().__init__(config.model_copy(update={"weights": ""}), grid)
        self.config = config
        self.features = torch.nn.Sequential(ReaderMaps())
        with torch.no_grad():
            channels = self.features(torch.zeros(1, 3, 64, 64)).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.head = torch.nn.Sequential(
                torch.nn.AdaptiveAvgPool2d(2),
                torch.nn.Flatten(),
                torch.nn.Linear(channels * 4, flaw_activation.HIDDEN),
                torch.nn.ReLU(),
                torch.nn.Linear(flaw_activation.HIDDEN, 2),
            )


class ReaderMaps(torch.nn.Module):
    """The reader's last maps of images in [0, 1], at the size that it was made for; all of it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ClassifierFeatures(materialise("readers", KEEPER.folder("clinic/readers")))
        self.network.requires_grad_(True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps NCHW."""
        size = max(64, *images.shape[-2:])
        return self.network.maps(torch.nn.functional.interpolate(images, size, mode="bilinear"))[-1]


def from_reader() -> contextlib.AbstractContextManager[Any]:
    """While it lasts, highlighters are trained and loaded with the reader's features."""
    stack = contextlib.ExitStack()
    for module in (flaw_activation, trainer):
        stack.enter_context(patch.object(module, "FlawHighlighter", ReaderHighlighter))
    return stack


def opened(folder: Path, pretrained: bool) -> FlawHighlighter:
    """A saved highlighter of either kind."""
    return (ReaderHighlighter if pretrained else FlawHighlighter).load(folder, device())
