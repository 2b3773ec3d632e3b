"""The detector as a reward of images, for trainers that take a callable."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dataengine.diagnosis.detector import Detector
from dataengine.errors import ImageRefused


class ArtifactReward:
    """`reward(images, prompts, **further)`: one float in [0, 1] for each image, 1 where nothing was found.

    TRL's and Flow-GRPO's trainers want `(rewards, metadata)` and Flow-Factory a `RewardModelOutput`; wrap it
    in a line (docs/integrations.md). It gives no gradient; to train through the detector use
    `Detector.confidence`.
    """

    def __init__(
        self, detector: Detector, score: Literal["mean", "highest"] = "mean", batch: int = 16
    ) -> None:
        """`score`: 1 − the mean confidence over the image's pixels, or 1 − the highest one. `batch` images
        are predicted at once."""
        self._detector = detector
        self._score = score
        self._batch = batch

    @torch.no_grad()
    def __call__(
        self, images: Any, prompts: Sequence[str] | None = None, *further: Any, **named: Any
    ) -> Tensor:
        """float32 (N,) on the CPU. `images` are a list of PIL images or of arrays, or one batch: a tensor
        N3HW, float in [0, 1] or uint8, or an array NHW3. Prompts and all else are ignored.

        Raises `ImageRefused` for anything else, and for values outside [0, 1].
        """
        parameter = next(self._detector.parameters(), torch.empty(0))
        rewards = []
        tensors = as_tensors(images)
        for start in range(0, len(tensors), self._batch):
            chunk = tensors[start : start + self._batch]
            same = all(each.shape == chunk[0].shape for each in chunk)
            for group in [torch.stack(chunk)] if same else [each[None] for each in chunk]:
                confidence = self._detector.confidence(group.to(parameter.device)).flatten(1)
                found = confidence.mean(1) if self._score == "mean" else confidence.amax(1)
                rewards.append(1 - found.float().cpu())
        return torch.cat(rewards) if rewards else torch.empty(0)


def as_tensors(images: Any) -> list[Tensor]:
    """Images as float32 3HW in [0, 1]; see `ArtifactReward`."""
    return [_as_tensor(image) for image in images]


def _as_tensor(image: Any) -> Tensor:
    if torch.is_tensor(image):
        tensor = image.detach()
    else:
        pixels = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ImageRefused(f"expected an image HW3, got an array {pixels.dtype} {pixels.shape}")
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ImageRefused(f"expected an image 3HW, got a tensor of shape {tuple(tensor.shape)}")
    tensor = tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()
    if not (tensor.min() >= -1e-3 and tensor.max() <= 1 + 1e-3):
        raise ImageRefused(
            f"expected values in [0, 1], got {float(tensor.min()):.3g} to {float(tensor.max()):.3g}; images "
            "in [−1, 1] need (image + 1) / 2, those in 0…255 dtype uint8"
        )
    return tensor.clamp(0, 1)
