"""Flaw activation maps: Grad-CAM of a real-or-generated classifier (self-refining diffusion).

The flaw highlighter is VGG16's convolutions, 512 hidden units and two classes. Grad-CAM (Selvaraju et al.
2017, Eq. 1-2) of the class "generated" on the last convolution gives an image's flaw activation map (FAM),
and the mean over a batch the mFAM. As a `Detector` it works on images of any size, of which the head reads as
many cells as the images that it was trained on have; its maps have no gradient.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
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
GRID = "grid"
FORMER = {"keep": "last", "head": "pooled", "cam": "logit", "level": "maximum"}
"""Settings of the highlighters that were saved before there were any."""
REAL, GENERATED = 0, 1
HIDDEN = 512
INITIAL_IMAGES = 64
"""Images used for the data-dependent initialisation of random weights."""
MOST_CELLS = 8
"""Most rows and columns that the flat head reads, those of the authors' largest images of 256 × 256."""
STRIDE = SMALLEST = 32
"""Stride of VGG16's last pooling, and the smallest side of an image."""


class FlawHighlighter(nn.Module):
    """Classifies real against generated images and, as a `Detector`, localises the evidence. Frozen when
    loaded."""

    def __init__(self, config: HighlighterConfig, grid: tuple[int, int] = (1, 1)) -> None:
        """Random weights by the config's seed, or the convolutions of the file that it names. `grid` is the
        rows and columns that the flat head reads: the training images' sides over 32, at most 8.

        Raises `ModelRefused` when the file is no state dict of torchvision's VGG16.
        """
        super().__init__()
        self.config, self.grid = config, grid
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.features = _convolutions()
            self.head = _head(grid) if config.head == "flat" else _pooled_head()
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
        """FAMs, float32 NHW in [0, 1], each scaled by itself; all 0 without evidence for "generated"."""
        with torch.inference_mode(mode=False):
            with torch.no_grad():
                activations = self._activations(images.detach().clone())
            with torch.enable_grad():
                activations.requires_grad_()
                score = self._score(self.head(activations)).sum()
                gradient = torch.autograd.grad(score, activations)[0]
            with torch.no_grad():
                size = images.shape[-2], images.shape[-1]
                return grad_cam(activations.detach(), gradient, size, self.config.level)

    def _score(self, logits: Tensor) -> Tensor:
        """What the maps explain, (N,).

        The gradient of p = softmax(z)_generated is p(1 − p) times that of the difference of the logits. An
        image's map is scaled by itself, so that the factor cancels, and the difference does not underflow for
        an image whose p is 1.
        """
        if self.config.cam == "logit":
            return logits[:, GENERATED]
        return logits[:, GENERATED] - logits[:, REAL]

    def find_artifacts(self, image: np.ndarray) -> np.ndarray:
        """See `Detector.find_artifacts`."""
        return artifact_maps(self, [image])[0]

    def _activations(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[-2:]) < SMALLEST:
            raise ImageRefused(
                f"expected a batch N3HW with sides of at least {SMALLEST} pixels, got {tuple(images.shape)}"
            )
        return self.features(self.normalised(images))

    def normalised(self, images: Tensor) -> Tensor:
        """Images by the configured statistics of their channels."""
        statistics = self.config.mean, self.config.std
        mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in statistics)
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
            stored = json.loads(config_bytes(folder / HIGHLIGHTER_FILE))
            former = {} if "head" in stored else {**FORMER, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
            rows, columns = stored.pop(GRID, (1, 1))
            if not 1 <= min(rows, columns) <= max(rows, columns) <= MOST_CELLS:
                raise ValueError(f"a grid of {rows} × {columns} cells; 1 to {MOST_CELLS} are possible")
            config = HighlighterConfig.model_validate_json(json.dumps({**stored, **former, "weights": ""}))
            highlighter = cls(config, (int(rows), int(columns)))
            check_header(folder / WEIGHTS_FILE)
            highlighter.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except (OSError, RuntimeError, TypeError, AttributeError, ValueError, SafetensorError) as error:
            raise ModelRefused(f"{folder} holds no flaw highlighter: {str(error).splitlines()[0]}") from error
        return highlighter.to(device).eval().requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Write `highlighter.json` and `model.safetensors`, each by a temporary name and a rename."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights, config = folder / f".{WEIGHTS_FILE}.part", folder / f".{HIGHLIGHTER_FILE}.part"
        save_file({key: value.cpu().contiguous() for key, value in self.state_dict().items()}, weights)
        config.write_text(json.dumps(self.config.model_dump() | {GRID: self.grid}, indent=2) + "\n")
        durable.move_all([(weights, folder / WEIGHTS_FILE), (config, folder / HIGHLIGHTER_FILE)])


def _head(grid: tuple[int, int]) -> nn.Sequential:
    """The authors' head. Images of another size than the training's have their cells averaged to `grid`."""
    return nn.Sequential(
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(grid),
        nn.Flatten(),
        nn.Linear(512 * grid[0] * grid[1], HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, 2),
    )


def _pooled_head() -> nn.Sequential:
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2)
    )


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


def grad_cam(activations: Tensor, gradient: Tensor, size: tuple[int, int], level: str = "range") -> Tensor:
    """ReLU(Σ_k α_k·A_k) with α_k the mean gradient of channel k, upsampled to `size` (height, width).

    Activations and their gradient are NCHW; the maps float32 NHW in [0, 1], each divided by its maximum, for
    the level "range" after its minimum was subtracted.
    """
    weights = gradient.mean((2, 3), keepdim=True)
    # A gradient that is nearly 0 everywhere would be lost beside the bound of the division below.
    weights = weights / weights.abs().amax(1, keepdim=True).clamp(min=1e-30)
    maps = (weights * activations).sum(1, keepdim=True).relu()
    maps = F.interpolate(maps.float(), size, mode="bilinear", align_corners=False)[:, 0]
    if level == "range":
        maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)


def mean_map(maps: Tensor) -> Tensor:
    """mFAM, HW: the mean over a batch of maps NHW."""
    return maps.mean(0)


def map_variation(maps: Tensor) -> float:
    """How far maps NHW differ between images, in [0, 1]: the mean over places of the variance over images, as
    a share of the variance of all values. 0 where every image has the same map, or where all are flat."""
    total = maps.double().var(correction=0)
    if total <= 1e-12:
        return 0.0
    return float((maps.double().var(0, correction=0).mean() / total).clamp(0, 1))


def train_highlighter(
    config: HighlighterConfig,
    real: np.ndarray,
    generated: np.ndarray,
    report: Report = no_report,
    device: str | torch.device = "cpu",
) -> tuple[FlawHighlighter, float]:
    """Train a highlighter on these images, uint8 NHW3 of one size; also returns its accuracy on held-out
    ones, the mean of both kinds'.

    AdamW with a one-cycle schedule, as in the authors' code; random weights are first initialised on the
    images. Every tenth image of each kind is held out, and chooses the epoch unless the config keeps the
    last. Raises `ConfigRefused` for fewer than ten of either, `NonFinite` naming the step.
    """
    if min(len(real), len(generated)) < 10:
        raise ConfigRefused(
            f"got {len(real)} real and {len(generated)} generated images; ten of each are needed"
        )
    held = [np.arange(len(each)) % 10 == 9 for each in (real, generated)]
    images, labels = _mixed(real[~held[0]], generated[~held[1]])
    known = _mixed(real[held[0]], generated[held[1]])
    rows, columns = (max(1, min(side // STRIDE, MOST_CELLS)) for side in images.shape[1:3])
    network = FlawHighlighter(config, (rows, columns)).train().to(device)
    if not config.weights:
        normalise_activations(network, _floats(images[:: max(1, len(images) // INITIAL_IMAGES)], device))
    batches = -(-len(images) // config.batch)
    steps = batches * config.epochs
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, betas=config.betas)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=max(steps, 2))
    best, kept = -1.0, None
    for step, chosen in enumerate(_order(len(images), config, batches)):
        loss = F.cross_entropy(network(_floats(images[chosen], device)), labels[chosen].to(device))
        if not torch.isfinite(loss):
            raise NonFinite("the highlighter's loss", step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()
        report(step + 1, steps, "training the flaw highlighter", loss=loss.item())
        if config.keep == "best" and (step + 1) % batches == 0:
            right = accuracy(network, *known)
            if right > best:
                best = right
                kept = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    if kept is not None:
        network.load_state_dict(kept)
    network.eval().requires_grad_(False)
    return network, accuracy(network, *known)


@torch.no_grad()
def accuracy(network: FlawHighlighter, images: Tensor, labels: Tensor) -> float:
    """Share of images uint8 NHW3 that are told apart, the mean of both kinds' shares; labels (N,) are `REAL`
    and `GENERATED`."""
    device = next(network.parameters()).device
    parts = images.split(network.config.batch)
    right = torch.cat([network(_floats(part, device)).argmax(1).cpu() for part in parts]) == labels
    return float(np.mean([right[labels == kind].float().mean().item() for kind in (REAL, GENERATED)]))


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
