"""Flaw activation maps: Grad-CAM of a real-or-generated classifier (self-refining diffusion).

The flaw highlighter is VGG16's convolutions, 512 hidden units and two classes. Grad-CAM (Selvaraju et al.
2017, Eq. 1-2) of the class "generated" on the last convolution gives an image's flaw activation map (FAM),
and the mean over a batch the mFAM. As a `Detector` it works on any image; its maps have no gradient.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataengine import durable
from dataengine.bounds import check_header, config_bytes
from dataengine.diagnosis.config import IMAGENET_MEAN, IMAGENET_STD, HighlighterConfig
from dataengine.diagnosis.detector import artifact_maps
from dataengine.errors import ConfigRefused, ImageRefused, ModelRefused, NonFinite
from dataengine.records import Report, no_report

HIGHLIGHTER_FILE = "highlighter.json"
WEIGHTS_FILE = "model.safetensors"
REAL, GENERATED = 0, 1
HIDDEN = 512
INITIAL_IMAGES = 64
"""Images used for the data-dependent initialisation of random weights."""
SMALLEST = 32
"""Smallest side of an image; smaller ones vanish after VGG16's strides."""


class FlawHighlighter(nn.Module):
    """Classifies real against generated images and, as a `Detector`, localises the evidence. Frozen when
    loaded."""

    def __init__(self, config: HighlighterConfig) -> None:
        """Random weights by the config's seed, or the convolutions of the file that it names.

        Raises `ModelRefused` when the file is no state dict of torchvision's VGG16.
        """
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.features = _convolutions()
            self.head = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2)
            )
        if config.weights:
            self._take(Path(config.weights))

    @property
    def name(self) -> str:
        """Display name."""
        return self.config.name

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 2), real and generated, of images float N3HW in [0, 1]."""
        return self.head(self._activations(images))

    def confidence(self, images: Tensor) -> Tensor:
        """FAMs, float32 NHW in [0, 1], each scaled by its own maximum and weighted by the probability of
        "generated", so that images classified as real have low maps.

        Raises `ModelRefused` for inputs that require a gradient: there is none.
        """
        if images.requires_grad:
            raise ModelRefused(
                "flaw activation maps have no gradient, so they cannot treat or guide a generator; "
                "choose a trained detector"
            )
        with torch.inference_mode(mode=False), torch.no_grad():
            images = images.detach().clone()
            generated = self(images).softmax(1)[:, GENERATED]
            return self.activation_maps(images) * generated[:, None, None]

    def activation_maps(self, images: Tensor) -> Tensor:
        """FAMs, float32 NHW in [0, 1], each scaled by its own maximum; all 0 without evidence for
        "generated"."""
        with torch.inference_mode(mode=False):
            with torch.no_grad():
                activations = self._activations(images.detach().clone())
            with torch.enable_grad():
                activations.requires_grad_()
                score = self.head(activations)[:, GENERATED].sum()
                gradient = torch.autograd.grad(score, activations)[0]
            with torch.no_grad():
                return grad_cam(activations.detach(), gradient, (images.shape[-2], images.shape[-1]))

    def find_artifacts(self, image: np.ndarray) -> np.ndarray:
        """See `Detector.find_artifacts`."""
        return artifact_maps(self, [image])[0]

    def _activations(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[-2:]) < SMALLEST:
            raise ImageRefused(
                f"expected a batch N3HW with sides of at least {SMALLEST} pixels, got {tuple(images.shape)}"
            )
        return self.features(self.normalised(images))

    @staticmethod
    def normalised(images: Tensor) -> Tensor:
        """Normalise images by ImageNet's statistics, as VGG16 expects."""
        mean, std = (
            torch.tensor(v, device=images.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD)
        )
        return (images - mean) / std

    def _take(self, file: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(file)
            prefix = "features."
            kept = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
            self.features.load_state_dict(kept)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ModelRefused(
                f"{file} holds no VGG16: {str(error).splitlines()[0]}; expected its state dict as safetensors"
            ) from error

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> Self:
        """Load from a folder that `save` wrote. Raises `ModelRefused` when it does not fit."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            config = HighlighterConfig.model_validate_json(config_bytes(folder / HIGHLIGHTER_FILE))
            highlighter = cls(config.model_copy(update={"weights": ""}))
            check_header(folder / WEIGHTS_FILE)
            highlighter.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except (OSError, RuntimeError, SafetensorError, pydantic.ValidationError) as error:
            raise ModelRefused(f"{folder} holds no flaw highlighter: {str(error).splitlines()[0]}") from error
        return highlighter.to(device).eval().requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Write `highlighter.json` and `model.safetensors`, each by a temporary name and a rename."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights, config = folder / f".{WEIGHTS_FILE}.part", folder / f".{HIGHLIGHTER_FILE}.part"
        save_file({key: value.cpu().contiguous() for key, value in self.state_dict().items()}, weights)
        config.write_text(json.dumps(self.config.model_dump(), indent=2) + "\n")
        durable.move_all([(weights, folder / WEIGHTS_FILE), (config, folder / HIGHLIGHTER_FILE)])


def _convolutions() -> nn.Sequential:
    """VGG16's convolutions with torchvision's random weights, without the last pooling: the map is taken from
    the last convolution. The classifier, nine tenths of the network, is never built."""
    from torchvision.models import vgg16

    with torch.device("meta"):
        layers: nn.Sequential = vgg16(weights=None, init_weights=False).features[:-1]
    layers.to_empty(device="cpu")
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return layers


def grad_cam(activations: Tensor, gradient: Tensor, size: tuple[int, int]) -> Tensor:
    """ReLU(Σ_k α_k·A_k) with α_k the mean gradient of channel k, upsampled to `size` (height, width).

    Activations and their gradient are NCHW; the maps float32 NHW, each divided by its maximum.
    """
    weights = gradient.mean((2, 3), keepdim=True)
    maps = (weights * activations).sum(1, keepdim=True).relu()
    maps = F.interpolate(maps.float(), size, mode="bilinear", align_corners=False)[:, 0]
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)


def mean_map(maps: Tensor) -> Tensor:
    """mFAM, HW: the mean over a batch of maps NHW."""
    return maps.mean(0)


def train_highlighter(
    config: HighlighterConfig,
    real: np.ndarray,
    generated: np.ndarray,
    report: Report = no_report,
    device: str | torch.device = "cpu",
) -> tuple[FlawHighlighter, float]:
    """Train a highlighter on these images, uint8 NHW3 of one size; also returns its accuracy on held-out
    ones.

    AdamW with a one-cycle schedule, as in the authors' code; random weights are first initialised on the
    images. Every tenth image of each kind is held out. Raises `ConfigRefused` for fewer than ten of either,
    `NonFinite` naming the step.
    """
    if min(len(real), len(generated)) < 10:
        raise ConfigRefused(
            f"got {len(real)} real and {len(generated)} generated images; ten of each are needed"
        )
    held = [np.arange(len(each)) % 10 == 9 for each in (real, generated)]
    images, labels = _mixed(real[~held[0]], generated[~held[1]])
    network = FlawHighlighter(config).train().to(device)
    if not config.weights:
        normalise_activations(network, _floats(images[:: max(1, len(images) // INITIAL_IMAGES)], device))
    batches = -(-len(images) // config.batch)
    steps = batches * config.epochs
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=max(steps, 2))
    for step, rows in enumerate(_order(len(images), config, batches)):
        loss = F.cross_entropy(network(_floats(images[rows], device)), labels[rows].to(device))
        if not torch.isfinite(loss):
            raise NonFinite("the highlighter's loss", step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()
        report(step + 1, steps, "training the flaw highlighter", loss=loss.item())
    network.eval().requires_grad_(False)
    known, truth = _mixed(real[held[0]], generated[held[1]])
    with torch.no_grad():
        predicted = torch.cat(
            [network(_floats(part, device)).argmax(1).cpu() for part in known.split(config.batch)]
        )
    return network, float((predicted == truth).float().mean())


@torch.no_grad()
def normalise_activations(network: FlawHighlighter, images: Tensor) -> None:
    """Scale and shift the convolutions one after the other, so that the output of each on these images, float
    N3HW in [0, 1], has mean 0 and deviation 1 in every channel (Krähenbühl et al. 2016, "Data-dependent
    initializations").

    Without it, thirteen random layers give nearly equal outputs for all images, and the loss hardly falls for
    hundreds of updates.
    """
    activations = network.normalised(images)
    for layer in network.features:
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            activations = layer(activations)
            mean, deviation = activations.mean((0, 2, 3)), activations.std((0, 2, 3)).clamp(min=1e-5)
            layer.weight.div_(deviation.view(-1, 1, 1, 1))
            layer.bias.sub_(mean).div_(deviation)
            activations = (activations - mean.view(-1, 1, 1)) / deviation.view(-1, 1, 1)
        else:
            activations = layer(activations)


def _mixed(real: np.ndarray, generated: np.ndarray) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(np.concatenate([real, generated]))
    return images, torch.tensor([REAL] * len(real) + [GENERATED] * len(generated))


def _floats(images: Tensor, device: str | torch.device) -> Tensor:
    return images.to(device).permute(0, 3, 1, 2).float() / 255


def _order(count: int, config: HighlighterConfig, batches: int) -> Iterator[Any]:
    """Row indices of every batch; each epoch is shuffled anew."""
    rng = np.random.default_rng(config.seed)
    for _ in range(config.epochs):
        yield from np.array_split(rng.permutation(count), batches)
