"""The artifact detector: one confidence in [0, 1] per pixel, through two methods.

`find_artifacts` is for inference: a uint8 array in, a map of the same size out. `confidence` is for
treatment: it is differentiable, so that a generator can be trained through it. Inputs are normalised only
here.

A detector folder holds `detector.json` (`DetectorConfig`) and `model.safetensors` (the plain state dict).
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataengine import durable
from dataengine.bounds import config_bytes
from dataengine.diagnosis.architectures import architecture_of, published_architecture
from dataengine.diagnosis.config import DetectorConfig
from dataengine.diagnosis.transformers_folder import (
    config_of_transformers,
    is_transformers_folder,
    one_channel,
    weights_of_transformers,
)
from dataengine.errors import ImageRefused, ModelRefused
from dataengine.state_dicts import read_state

CONFIG_FILE = "detector.json"
WEIGHTS_FILE = "model.safetensors"


class Detector(Protocol):
    """The interface of every detector, for treatment, diagnosis and desks."""

    @property
    def name(self) -> str:
        """Display name."""

    def confidence(self, images: Tensor) -> Tensor:
        """Confidence, float32 NHW in [0, 1], of images, float N3HW RGB in [0, 1]; differentiable."""

    def find_artifacts(self, image: np.ndarray) -> np.ndarray:
        """Confidence, float32 HW in [0, 1], of one image, uint8 HWC RGB, at the image's size; no gradient."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Make the weights trainable, or freeze them."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move to a device or to a precision."""

    def parameters(self) -> Iterator[Any]:
        """The weights."""

    def eval(self) -> Any:
        """Switch to evaluation mode."""


class NetworkDetector(nn.Module):
    """A segmentation network as a `Detector`. As loaded it is frozen and in evaluation mode."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: DetectorConfig, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def fresh(cls, config: DetectorConfig, seed: int = 0) -> Self:
        """A detector with random weights from `seed`, in training mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, architecture_of(config).build(config)).train()

    @property
    def name(self) -> str:
        """Display name."""
        return self.config.name

    def forward(self, images: Tensor) -> Tensor:
        """Confidence, float32 NHW in [0, 1], of images, float N3HW RGB in [0, 1]; differentiable."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ImageRefused(f"expected a batch N3HW, got shape {tuple(images.shape)}")
        if self.config.fit == "tiles" and images.shape[-2:] != (self.config.size, self.config.size):
            return self._tiled(images).sigmoid()
        return self._logits(images).sigmoid()

    def confidence(self, images: Tensor) -> Tensor:
        """See `Detector.confidence`."""
        return self(images)

    @torch.no_grad()
    def find_artifacts(self, image: np.ndarray) -> np.ndarray:
        """See `Detector.find_artifacts`. Raises `ImageRefused` for anything but uint8 HW3."""
        return artifact_maps(self, [image])[0]

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Embeddings, float32 NC: the encoder's deepest features, averaged over each image."""
        return architecture_of(self.config).features(self.network, self._squared(images)).float().mean((2, 3))

    def _squared(self, images: Tensor) -> Tensor:
        """Images resized to the training square and normalised."""
        square = (self.config.size, self.config.size)
        if images.shape[-2:] != square:
            images = F.interpolate(
                images, square, mode="bilinear", align_corners=False, antialias=self.config.antialias
            )
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def _logits(self, images: Tensor) -> Tensor:
        """Logits float32 NHW: the image is resized to the training square, the output resized back."""
        height, width = images.shape[-2:]
        logits = architecture_of(self.config).logits(self.network, self._squared(images)).float()
        return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)[:, 0]

    def _tiled(self, images: Tensor) -> Tensor:
        """Logits float32 NHW: overlapping squares at the image's own scale, one at a time, blended."""
        size = self.config.size
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, max(0, size - width), 0, max(0, size - height)), mode="replicate")
        weight = tile_weight(size, self.config.overlap).to(images.device)
        total = torch.zeros((len(images), *padded.shape[-2:]), device=images.device)
        weights = torch.zeros(padded.shape[-2:], device=images.device)
        for top in tile_starts(padded.shape[-2], size, self.config.overlap):
            for left in tile_starts(padded.shape[-1], size, self.config.overlap):
                window = (slice(top, top + size), slice(left, left + size))
                tile = self._logits(padded[:, :, window[0], window[1]]) * weight
                total[:, window[0], window[1]] += tile
                weights[window] += weight
        return (total / weights)[:, :height, :width]


def antialiased(detector: Detector) -> Detector:
    """The detector for treatment: the same network, antialiasing whatever it downscales.

    The authors' treating antialiases and their inference does not, so for the published checkpoint the two
    differ. Detectors without this setting are returned as they are.
    """
    if not isinstance(detector, NetworkDetector) or detector.config.antialias:
        return detector
    config = detector.config.model_copy(update={"antialias": True})
    return NetworkDetector(config, detector.network).to(detector.mean).train(detector.training)


def tile_starts(length: int, size: int, overlap: float) -> list[int]:
    """Evenly spread starts of the fewest tiles that cover `length`, each sharing `overlap` or more."""
    if length <= size:
        return [0]
    count = -(-(length - size) // max(1, round(size * (1 - overlap)))) + 1
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def tile_weight(size: int, overlap: float) -> Tensor:
    """Blending weight, float32 size×size in (0, 1]: falls linearly towards the border over the overlap."""
    ramp = max(1.0, size * overlap)
    edge = torch.minimum(torch.arange(size) + 0.5, size - torch.arange(size) - 0.5)
    weight = (edge / ramp).clamp(max=1.0)
    return weight[:, None] * weight[None, :]


def as_images(arrays: Sequence[np.ndarray]) -> Tensor:
    """uint8 HW3 arrays of one size as float32 N3HW in [0, 1]. Raises `ImageRefused` for anything else."""
    for array in arrays:
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
            raise ImageRefused(f"expected an array of uint8 (H, W, 3), got {array.dtype} {array.shape}")
    # Contiguous: with the arrays' strides (channels-last) networks run slower.
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous().float().div_(255)


@torch.inference_mode()
def artifact_maps(detector: Detector, images: Sequence[np.ndarray], batch: int = 16) -> list[np.ndarray]:
    """Predict the maps, float32 HW in [0, 1], of images, uint8 HW3 of any sizes, in their order.

    Images of equal size are batched, `batch` at a time. Raises `ModelRefused` when a map holds NaN.
    """
    parameter = next(detector.parameters(), torch.empty(0))
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_size.setdefault(image.shape, []).append(index)
    maps: dict[int, np.ndarray] = {}
    for indices in by_size.values():
        for start in range(0, len(indices), batch):
            chosen = indices[start : start + batch]
            confidence = detector.confidence(as_images([images[i] for i in chosen]).to(parameter.device))
            if not torch.isfinite(confidence).all():
                raise ModelRefused(
                    f"{detector.name} predicts NaN confidences; its weights are damaged or its "
                    "precision is too low: predict in float32, or promote another detector"
                )
            maps.update(zip(chosen, confidence.float().cpu().numpy(), strict=True))
    return [maps[i] for i in range(len(images))]


def save_detector(detector: NetworkDetector, folder: Path) -> None:
    """Write `detector.json` and `model.safetensors`, each by a temporary name and a rename."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = architecture_of(detector.config).published(detector.network)
    weights, config = folder / f".{WEIGHTS_FILE}.part", folder / f".{CONFIG_FILE}.part"
    save_file({key: value.cpu() for key, value in state.items()}, weights, metadata={"format": "pt"})
    config.write_text(json.dumps(detector.config.model_dump(), indent=2) + "\n")
    durable.move_all([(weights, folder / WEIGHTS_FILE), (config, folder / CONFIG_FILE)])


def load_detector(path: Path, device: str | torch.device = "cpu") -> NetworkDetector:
    """A frozen detector in evaluation mode from a detector folder, from a folder that transformers saved
    (`transformers_folder`), or from a bare published state dict.

    A file (`.safetensors`, `.bin`, `.pt`, `.pth`) is read as a one-channel SegFormer under its published
    names, such as DiffDoctor's `ad_pytorch_model.bin`, or under those of transformers 5. Nothing pickled is
    executed.

    Raises `ModelRefused` when files are missing, or when keys or shapes do not fit.
    """
    path = Path(path)
    if path.is_file():
        state = read_state(path)
        config = published_architecture(state)
    elif not (path / CONFIG_FILE).is_file() and is_transformers_folder(path):
        config = config_of_transformers(path)
        state = one_channel(path, read_state(weights_of_transformers(path)))
    else:
        config = read_config(path)
        state = read_state(path / WEIGHTS_FILE)
    network = architecture_of(config).load(config, state)
    return NetworkDetector(config, network).to(device).eval().requires_grad_(False)


def read_config(folder: Path) -> DetectorConfig:
    """The configuration of a detector folder. Raises `ModelRefused` when it is missing or invalid."""
    file = folder / CONFIG_FILE
    try:
        return DetectorConfig.model_validate_json(config_bytes(file))
    except OSError as error:
        raise ModelRefused(
            f"{folder} has no readable {CONFIG_FILE}: "
            f"a detector folder holds {CONFIG_FILE} and {WEIGHTS_FILE}"
        ) from error
    except pydantic.ValidationError as error:
        raise ModelRefused(f"{file} is no detector configuration: {error}") from error
