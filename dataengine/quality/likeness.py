"""Likeness of generated images to an instance, in the features of an image encoder (DreamBooth's DINO and
CLIP-I scores): the mean cosine between each image and the instance's images."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dataengine.errors import ImageRefused, ModelRefused
from dataengine.images import decode
from dataengine.quality.scorers import BATCH, preprocessing

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class Likeness:
    """A `guard.Scorer`: how much images look like the instance, in [-1, 1], whatever the prompt."""

    name = "likeness"

    def __init__(
        self,
        location: str | Path,
        references: Sequence[NDArray[np.uint8]],
        device: str | torch.device = "cpu",
    ) -> None:
        """`location` is a folder or hub id of an image encoder of transformers, such as DINO or CLIP, and
        `references` the instance's images, uint8 HWC of any sizes. Raises `ModelRefused`."""
        if not references:
            raise ModelRefused("there are no images of the instance to compare with")
        self._model = _open(location, device)
        config = getattr(self._model.config, "vision_config", self._model.config)
        side = getattr(config, "image_size", None)
        side = side[0] if isinstance(side, list | tuple) else side
        self._prepare = preprocessing(location, (side, side) if side else None)
        self._references = torch.cat([self._vectors(image[None]) for image in references])

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.floating]:
        """Likeness of uint8 NHWC images, shape (N,)."""
        vectors = [self._vectors(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        return (torch.cat(vectors) @ self._references.T).mean(1).double().numpy()

    @torch.no_grad()
    def _vectors(self, images: NDArray[np.uint8]) -> Tensor:
        """Unit feature vectors float32 (N, D), on the CPU."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        prepared = self._prepare(pixels.to(self._model.device).float() / 255)
        output: Any = (
            self._model.get_image_features(prepared)
            if hasattr(self._model, "get_image_features")
            else self._model(pixel_values=prepared)
        )
        return F.normalize(_pooled(output).float().flatten(1).cpu(), dim=1)


def open_likeness(named: str, device: str | torch.device = "cpu") -> Likeness:
    """A likeness from "LOCATION#FOLDER": the encoder, and a folder with images of the instance. Raises
    `ModelRefused` where either is missing."""
    location, _, folder = named.rpartition("#")
    paths = sorted(Path(folder).glob("*")) if location and folder else []
    images = []
    for file in (path for path in paths if path.suffix.lower() in SUFFIXES):
        with suppress(ImageRefused):
            images.append(decode(file.read_bytes()))
    if not images:
        raise ModelRefused(
            f"{named!r} names no images; expected the image encoder, #, and a folder with images of the "
            "instance"
        )
    return Likeness(location, images, device)


def _pooled(output: Any) -> Tensor:
    """The vector of each image: pooled, else the first token, which DINO has for the whole image."""
    if isinstance(output, Tensor):
        return output
    pooled: Tensor | None = getattr(output, "pooler_output", None)
    return output.last_hidden_state[:, 0] if pooled is None else pooled


def _open(location: str | Path, device: str | torch.device) -> Any:
    from transformers import AutoModel

    try:
        model: Any = AutoModel.from_pretrained(str(location), use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelRefused(
            f"{location} does not load as an image encoder with safetensors: {str(error).splitlines()[0]}"
        ) from error
    return model.to(device).eval().requires_grad_(False)
