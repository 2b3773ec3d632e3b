"""Image-level scorers: CLIP score, PickScore and any image classifier through transformers, HPSv2.

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
from dataengine.quality.human_preference import PreferenceModel

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


class PreferenceScorer:
    """HPSv2 (Wu et al. 2023): cos(image, prompt) of a CLIP fine-tuned on human preferences, in [-1, 1].

    As in the released code, without a factor; the logit scale (about 100) is used in its training alone.
    """

    name = "hpsv2"

    def __init__(self, location: str | Path, device: str | torch.device = "cpu") -> None:
        """`location` and what is raised: see `human_preference.PreferenceModel`."""
        self._model = PreferenceModel(location, device)

    def reward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """See `Reward`. Prompts beyond CLIP's limit are truncated."""
        return self._model.cosines(images, prompts)

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


def disagreement(
    reward: Reward, images: Tensor, prompts: Sequence[str], steps: int = 8, blur: float = 0.06
) -> Tensor:
    """Where an image lowers the score of image and prompt: the negative part of its integrated gradients,
    summed over channels, float32 NHW.

    Integrated gradients (Sundararajan et al. 2017, Eq. 1), by the midpoint rule over `steps` images between a
    baseline and the image: (x − b) · mean ∂r/∂x. The baseline is the image blurred with a sigma of `blur`, as
    a share of its shorter side, so that what is said of a pixel is about its detail. The values of all pixels
    add up to r(x) − r(b), up to the rule's error. Scaled to a maximum of 1 for each image; all 0 where
    nothing lowers the score.
    """
    images = images.detach()
    baseline = gaussian_blur(images, blur * min(images.shape[-2:]))
    total = torch.zeros_like(images)
    for step in range(steps):
        between = torch.lerp(baseline, images, (step + 0.5) / steps).requires_grad_()
        with torch.enable_grad():
            total += torch.autograd.grad(reward.reward(between, prompts).sum(), between)[0]
    lowers = -((images - baseline) * total / steps).sum(1).clamp(max=0)
    return lowers / lowers.amax((1, 2), keepdim=True).clamp(min=1e-12)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Images NCHW blurred with a Gaussian that ends at three sigmas; borders repeat."""
    reach = max(1, round(3 * sigma))
    line = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-(line**2) / (2 * sigma**2))
    channels = images.shape[1]
    kernel = (weights / weights.sum()).repeat(channels, 1, 1, 1)
    for side in (kernel, kernel.transpose(2, 3)):
        down, right = side.shape[2] // 2, side.shape[3] // 2
        padded = F.pad(images, (right, right, down, down), mode="replicate")
        images = F.conv2d(padded, side, groups=channels)
    return images


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


def open_scorer(
    named: str, device: str | torch.device = "cpu"
) -> "ClipScorer | PreferenceScorer | ExternalScorer":
    """A preference model for the guard: "clip:LOCATION", "pickscore:LOCATION", "hpsv2:LOCATION", or
    "program:NAME".

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
    if kind == "hpsv2" and location:
        return PreferenceScorer(location, device)
    raise ConfigRefused(
        f"{named!r} is no scorer; expected clip:LOCATION, pickscore:LOCATION, hpsv2:LOCATION or program:NAME"
    )


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
