"""A vision-language model's boxes as a detector: its map is the importance of what it names (SDG, Sec. 5)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pydantic
import torch
from torch import Tensor

from dataengine.bounds import config_bytes
from dataengine.curation.config import BoxesConfig
from dataengine.curation.defect_boxes import DefectLocator
from dataengine.defects import importance_map
from dataengine.errors import ModelRefused

BOXES_FILE = "boxes.json"
"""The only file of such a detector: its settings."""


class BoxDetector:
    """A model behind an endpoint as a `Detector`, without weights and without a gradient."""

    def __init__(self, config: BoxesConfig) -> None:
        """Raises `ConfigRefused` for a model that is no endpoint's URL."""
        self.locator = DefectLocator(config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From a folder with `BOXES_FILE`. Raises `ModelRefused` for one that holds no such settings."""
        try:
            return cls(BoxesConfig.model_validate_json(config_bytes(folder / BOXES_FILE)))
        except (OSError, pydantic.ValidationError) as error:
            raise ModelRefused(f"{folder / BOXES_FILE} holds no settings of boxes: {error}") from error

    @property
    def name(self) -> str:
        """Display name."""
        return self.locator.name

    def confidence(self, images: Tensor) -> Tensor:
        """importance / 100 in the boxes, float32 NHW in [0, 1], of images, float N3HW in [0, 1]; one request
        for each.

        Raises `ModelRefused` for inputs that require a gradient, since there is none, and as
        `DefectLocator.locate`.
        """
        if images.requires_grad:
            raise ModelRefused(
                f"{self.name} has no gradient, so it cannot guide a generator or be the pixel loss of a "
                "treatment; choose a trained detector, or an objective that needs no gradient"
            )
        pixels = (images.detach() * 255).round().clamp(0, 255).to(torch.uint8)
        arrays = pixels.permute(0, 2, 3, 1).cpu().numpy()
        maps = [self.find_artifacts(np.ascontiguousarray(each)) for each in arrays]
        return torch.from_numpy(np.stack(maps)).to(images.device)

    def find_artifacts(self, image: np.ndarray) -> np.ndarray:
        """See `Detector.find_artifacts`. Raises as `DefectLocator.locate`."""
        return importance_map(self.locator.locate(image), *image.shape[:2])

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """It has no weights."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """It is on no device."""
        return self

    def parameters(self) -> Iterator[Any]:
        """None."""
        return iter(())

    def eval(self) -> Self:
        """It has no training mode."""
        return self
