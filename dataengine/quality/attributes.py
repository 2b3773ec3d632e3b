"""A `guard.AttributeReader` for general images: CLIP through transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dataengine.errors import ModelRefused

BATCH = 16
WEIGHT = 2.5


class ClipReader:
    """CLIPScore (Hessel et al. 2021): 2.5 · max(cos(image, prompt), 0), bounded by 1."""

    def __init__(self, location: str | Path, device: str | torch.device = "cpu") -> None:
        """`location` is a folder or hub id of a `CLIPModel`, read from safetensors only.

        Raises `ModelRefused` when it does not load.
        """
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        try:
            model: Any = CLIPModel.from_pretrained(str(location), use_safetensors=True)
            self._tokenizer: Any = CLIPTokenizer.from_pretrained(str(location))
            self._processor: Any = CLIPImageProcessor.from_pretrained(str(location))
        except (OSError, ValueError) as error:
            raise ModelRefused(
                f"{location} does not load as CLIP with safetensors: {str(error).splitlines()[0]}"
            ) from error
        self._model = model.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def match(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.floating]:
        """See `AttributeReader.match`. Prompts beyond CLIP's limit are truncated."""
        scores = [
            self._scores(images[start : start + BATCH], list(prompts[start : start + BATCH]))
            for start in range(0, len(images), BATCH)
        ]
        return np.concatenate(scores)

    def _scores(self, images: NDArray[np.uint8], prompts: list[str]) -> NDArray[np.floating]:
        device = self._model.device
        text = self._tokenizer(prompts, padding=True, truncation=True, return_tensors="pt").to(device)
        pixels = self._processor(images=list(images), return_tensors="pt").pixel_values.to(device)
        output = self._model(pixel_values=pixels, **text)
        cosines = (output.image_embeds * output.text_embeds).sum(-1)
        return (WEIGHT * cosines).clamp(0, 1).cpu().numpy()
