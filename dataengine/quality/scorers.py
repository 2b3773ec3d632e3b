"""Image-level scorers through transformers: CLIP score, PickScore, and any image classifier.

Each has two methods: `reward(images, prompts)` on tensors, differentiable, for treatment, and `score(images,
prompts)` on uint8 arrays, for the guard and for evaluation (`guard.Scorer`). ImageReward needs older
libraries: `ExternalScorer` runs a program in another environment.
"""

import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dataengine.errors import ConfigRefused, ModelRefused, WorkError

CLIP_SCORE = 2.5
"""Factor of CLIPScore (Hessel et al. 2021)."""
BATCH = 16
TIMEOUT = 3600.0
"""Timeout in seconds of a program in another environment."""


class Reward(Protocol):
    """A differentiable scorer. Images are float32 N3HW in [0, 1], scores have shape (N,)."""

    name: str

    def reward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """One score per image, with gradient to the pixels."""
        ...


@dataclass(frozen=True)
class Preprocessing:
    """A model's image processor as differentiable operations on images in [0, 1]."""

    size: tuple[int, int] | None
    """(height, width) of the model's input; None for any."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    whole: bool
    """Whether the whole image is squeezed into the size; else the shorter side is resized and the centre is
    cropped."""

    def __call__(self, images: Tensor) -> Tensor:
        """Resize and normalise images to the model's input."""
        if self.size is not None and images.shape[-2:] != self.size:
            images = self._resized(images, self.size)
        mean, std = (torch.tensor(v, device=images.device).reshape(3, 1, 1) for v in (self.mean, self.std))
        return (images - mean) / std

    def _resized(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = images.shape[-2:]
        scale = max(size[0] / height, size[1] / width)
        target = size if self.whole else (round(height * scale), round(width * scale))
        resized = F.interpolate(images, target, mode="bicubic", antialias=True, align_corners=False)
        top, left = (target[0] - size[0]) // 2, (target[1] - size[1]) // 2
        return resized.clamp(0, 1)[..., top : top + size[0], left : left + size[1]]


class ClipScorer:
    """CLIPScore, 2.5 · cos(image, prompt), or PickScore, exp(logit scale) · cos; neither is clipped at 0.

    PickScore (Kirstain et al. 2023) is a `CLIPModel` trained on human preferences; only the factor differs.
    """

    def __init__(
        self,
        location: str | Path,
        kind: Literal["clip", "pickscore"] = "clip",
        device: str | torch.device = "cpu",
    ) -> None:
        """`location` is a folder or hub id of a `CLIPModel`. Raises `ModelRefused` when it does not load."""
        from transformers import CLIPModel, CLIPTokenizer

        self.name: str = kind
        self._model: Any = _load_frozen(CLIPModel, location, device)
        self._tokenizer: Any = _load_frozen(CLIPTokenizer, location)
        side = self._model.config.vision_config.image_size
        self._prepare = preprocessing(location, (side, side))
        self._factor = CLIP_SCORE if kind == "clip" else float(self._model.logit_scale.exp())

    def reward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """See `Reward`. Prompts beyond CLIP's limit are truncated."""
        text = self._tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt")
        output = self._model(pixel_values=self._prepare(images), **text.to(images.device))
        return self._factor * (output.image_embeds * output.text_embeds).sum(-1)

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.floating]:
        """See `guard.Scorer`."""
        return score_images(self, images, prompts, self._model.device)


class ClassifierScorer:
    """The probability in [0, 1] of one label of an image classifier, whatever the prompt."""

    def __init__(
        self,
        location: str | Path,
        label: str,
        activation: Literal["softmax", "sigmoid"] = "softmax",
        device: str | torch.device = "cpu",
    ) -> None:
        """`location` is a folder or hub id of an image classifier. Raises `ModelRefused` when it does not
        load or has no such label."""
        from transformers import AutoModelForImageClassification

        self.name = label
        self._model: Any = _load_frozen(AutoModelForImageClassification, location, device)
        labels = {name: number for number, name in self._model.config.id2label.items()}
        if label not in labels:
            raise ModelRefused(f"{location} has no label {label!r}; choose one of {', '.join(labels)}")
        self._column, self._activation = int(labels[label]), activation
        self._prepare = preprocessing(location, None)

    def reward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """See `Reward`."""
        logits = self._model(pixel_values=self._prepare(images)).logits.float()
        shares = logits.softmax(-1) if self._activation == "softmax" else logits.sigmoid()
        return shares[:, self._column]

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.floating]:
        """See `guard.Scorer`."""
        return score_images(self, images, prompts, self._model.device)


@torch.no_grad()
def score_images(
    reward: Reward, images: NDArray[np.uint8], prompts: Sequence[str], device: str | torch.device
) -> NDArray[np.floating]:
    """A reward's scores of uint8 NHWC images, in batches, shape (N,)."""
    scores = []
    for start in range(0, len(images), BATCH):
        chunk = np.ascontiguousarray(images[start : start + BATCH])
        pixels = torch.from_numpy(chunk).permute(0, 3, 1, 2).to(device).float() / 255
        scores.append(reward.reward(pixels, prompts[start : start + BATCH]).float().cpu().numpy())
    return np.concatenate(scores) if scores else np.zeros(0, np.float32)


def saliency(reward: Reward, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Saliency of a score: |∂r/∂x|, the maximum over channels (Simonyan et al. 2014), float32 NHW.

    Scaled to a maximum of 1 for each image; all 0 where the gradient vanishes.
    """
    with torch.enable_grad():
        pixels = images.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(reward.reward(pixels, prompts).sum(), pixels)
    heat = gradient.abs().amax(1)
    return heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)


class ExternalScorer:
    """A scorer in another environment, such as ImageReward; not differentiable.

    The program is started once for a batch of images, with the path of a JSON file as its last argument:
    `{"images": [PNG paths], "prompts": […]}`. It prints a JSON list of numbers, one per image, as its last
    line.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        """`command` is the program and its arguments, such as that environment's Python and a script."""
        self.name, self._command = name, list(command)

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.floating]:
        """See `guard.Scorer`. Raises `WorkError` when the program fails or its output is invalid."""
        from PIL import Image

        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{index}.png" for index in range(len(images))]
            for path, image in zip(paths, images, strict=True):
                Image.fromarray(image).save(path)
            asked = Path(folder) / "asked.json"
            asked.write_text(json.dumps({"images": [str(p) for p in paths], "prompts": list(prompts)}))
            return self._answer(asked, len(images))

    def _answer(self, asked: Path, count: int) -> NDArray[np.floating]:
        try:
            done = subprocess.run(
                [*self._command, str(asked)],
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=True,
            )
            scores = np.asarray(json.loads(done.stdout.strip().splitlines()[-1]), dtype=np.float64)
        except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
            output_lines = str(getattr(error, "stderr", "") or error).strip().splitlines() or ["nothing"]
            raise WorkError(
                f"the scorer {self.name} failed; the last line of its output: {output_lines[-1]}"
            ) from error
        if scores.shape != (count,) or not np.isfinite(scores).all():
            raise WorkError(f"the scorer {self.name} returned {scores.shape} scores for {count} images")
        return scores


def open_scorer(named: str, device: str | torch.device = "cpu") -> "ClipScorer | ExternalScorer":
    """A preference model for the guard: "clip:LOCATION", "pickscore:LOCATION", or "program:NAME".

    A program's command is read from the environment variable `CLINIC_SCORER_NAME`, never from the settings of
    a run, which come from web forms. Raises `ConfigRefused` for anything else, `ModelRefused` for a model
    that does not load.
    """
    kind, _, location = named.partition(":")
    if kind == "program" and location:
        variable = "CLINIC_SCORER_" + re.sub(r"\W", "_", location).upper()
        if command := shlex.split(os.environ.get(variable, "")):
            return ExternalScorer(location, command)
        raise ConfigRefused(
            f"the scorer {location} is not set up on this machine: set {variable} to the Python of its "
            "environment and the script that scores"
        )
    if kind == "clip" and location:
        return ClipScorer(location, "clip", device)
    if kind == "pickscore" and location:
        return ClipScorer(location, "pickscore", device)
    raise ConfigRefused(f"{named!r} is no scorer; expected clip:LOCATION, pickscore:LOCATION or program:NAME")


def preprocessing(location: str | Path, size: tuple[int, int] | None) -> Preprocessing:
    """The preprocessing of the folder's image processor; without one, `size` and the range [-1, 1]."""
    from transformers import AutoImageProcessor

    try:
        processor: Any = AutoImageProcessor.from_pretrained(str(location), trust_remote_code=False)
    except (OSError, ValueError):
        return Preprocessing(size, (0.5,) * 3, (0.5,) * 3, whole=True)
    crop = (
        _height_width(getattr(processor, "crop_size", None))
        if getattr(processor, "do_center_crop", 0)
        else None
    )
    target_size = crop or _height_width(getattr(processor, "size", None)) or size
    return Preprocessing(
        target_size, tuple(processor.image_mean), tuple(processor.image_std), whole=crop is None
    )


def _height_width(size: Any) -> tuple[int, int] | None:
    """(height, width) of a processor's size, which is a mapping in one of two forms."""
    if not size:
        return None
    if size.get("height"):
        return int(size["height"]), int(size["width"])
    side = size.get("shortest_edge")
    return (int(side), int(side)) if side else None


def _load_frozen(kind: Any, location: str | Path, device: str | torch.device | None = None) -> Any:
    """Load a frozen model, from safetensors only, or a tokenizer."""
    options = {"use_safetensors": True} if device is not None else {}
    try:
        loaded = kind.from_pretrained(str(location), **options)
    except (OSError, ValueError) as error:
        raise ModelRefused(
            f"{location} does not load as {kind.__name__} with safetensors: {str(error).splitlines()[0]}"
        ) from error
    return loaded.to(device).eval().requires_grad_(False) if isinstance(loaded, nn.Module) else loaded
