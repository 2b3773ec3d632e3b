"""Distances between sets of images, and between pairs, in the features of a given network.

FID, KID and LPIPS through torchmetrics; precision and recall as published. A distance depends on the feature
network, so every result carries the network's name. Networks are read from safetensors only: torchvision's
Inception-v3 or AlexNet from weights provided by the user, or any image classifier of transformers, such as
the clinic's own reader.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dataengine.errors import ImageRefused, ModelRefused

Images = NDArray[np.uint8]
"""uint8 NHWC."""

BATCH = 64
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NEIGHBOURS = 3
"""k of precision and recall (Kynkäänniemi et al. 2019)."""
SUBSETS = 100
SUBSET = 1000
"""KID's usual subsets; smaller where there are fewer images."""
IMAGES_PER_FEATURE = 2
"""Fewest images per feature for FID."""
FEWEST_IMAGES = 10
"""Fewest images for a meaningful comparison of distributions."""


class FeatureNetwork(nn.Module):
    """Maps images to feature maps of several depths, and to one vector."""

    name: str

    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps float32 NCHW, from shallow to deep, of images float32 N3HW in [0, 1]."""
        raise ModelRefused(f"{type(self).__name__} has no feature maps; choose another network")

    def forward(self, images: Tensor) -> Tensor:
        """Feature vectors float32 (N, D) of images N3HW, uint8 or in [0, 1]: the deepest map's mean."""
        return self.maps(_floats(images))[-1].mean((2, 3))


class ClassifierFeatures(FeatureNetwork):
    """The stages of an image classifier of transformers that has hidden maps, such as the clinic's reader."""

    def __init__(self, location: str | Path, device: str | torch.device = "cpu") -> None:
        """`location` is a folder or hub id. Raises `ModelRefused` when it does not load from safetensors."""
        from transformers import AutoModelForImageClassification

        from dataengine.quality.scorers import preprocessing

        super().__init__()
        try:
            network: Any = AutoModelForImageClassification.from_pretrained(
                str(location), use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise ModelRefused(
                f"{location} does not load as an image classifier with safetensors: "
                f"{str(error).splitlines()[0]}"
            ) from error
        self.name = f"{type(network).__name__} {Path(str(location)).name}"
        self.network = network.to(device).eval().requires_grad_(False)
        self._prepare = preprocessing(location, None)

    def maps(self, images: Tensor) -> list[Tensor]:
        """See `FeatureNetwork`. Raises `ModelRefused` for networks whose hidden states are no maps."""
        output = self.network(pixel_values=self._prepare(images), output_hidden_states=True)
        maps = [state.float() for state in output.hidden_states if state.ndim == 4]
        return maps or super().maps(images)


class TorchvisionFeatures(FeatureNetwork):
    """Torchvision's AlexNet or Inception-v3 with weights from a safetensors file.

    The FID of torchvision's Inception is close to that of the original's port, but not equal to it.
    """

    SIZES: ClassVar = {"alexnet": 64, "inception_v3": 299}

    def __init__(self, kind: str, weights: Path, device: str | torch.device = "cpu") -> None:
        """`kind` is "alexnet" or "inception_v3". Raises `ModelRefused` when the file does not fit."""
        import torchvision.models
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        super().__init__()
        if kind not in self.SIZES:
            raise ModelRefused(f"unknown feature network {kind!r}; choose one of {', '.join(self.SIZES)}")
        options = {"aux_logits": True, "init_weights": False} if kind == "inception_v3" else {}
        network = getattr(torchvision.models, kind)(weights=None, **options)
        try:
            network.load_state_dict(load_file(weights))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ModelRefused(
                f"{weights} holds no {kind}: {str(error).splitlines()[0]}; torchvision's state dict as "
                "safetensors is expected"
            ) from error
        self.name, self._kind = f"torchvision {kind}", kind
        self.network = network.to(device).eval().requires_grad_(False)

    def maps(self, images: Tensor) -> list[Tensor]:
        """See `FeatureNetwork`. AlexNet: after every ReLU, as LPIPS takes them. Inception: the last mixed
        block, at its own size."""
        mean, std = (torch.tensor(v, device=images.device).reshape(3, 1, 1) for v in IMAGENET)
        images = _at_least(images, self.SIZES[self._kind], exactly=self._kind == "inception_v3")
        values, maps = (images - mean) / std, []
        if self._kind == "alexnet":
            for layer in self.network.features:
                values = layer(values)
                if isinstance(layer, nn.ReLU):
                    maps.append(values.clone())
            return maps
        for name, layer in self.network.named_children():
            if name in ("AuxLogits", "avgpool", "dropout", "fc"):
                continue
            values = layer(values)
        return [values]


@dataclass(frozen=True)
class Distances:
    """Distances of generated images to real ones, in the features of `network`.

    `fid` and `kid` are 0 for equal distributions; KID is a mean over subsets with its deviation. `precision`
    is the share of generated images inside the real manifold, `recall` the share of real images inside the
    generated one.
    """

    network: str
    images: int
    fid: float
    kid: float
    kid_std: float
    precision: float
    recall: float

    def text(self) -> str:
        """One line of figures with the name of the network."""
        return (
            f"FID {self.fid:.3f}, KID {self.kid:.5f} ± {self.kid_std:.5f}, precision {self.precision:.3f}, "
            f"recall {self.recall:.3f} in features of {self.network}, {self.images} images"
        )


def compute_distances(
    real: Images, generated: Images, network: FeatureNetwork, seed: int = 0, forced: bool = False
) -> Distances:
    """Compare two sets of images, uint8 NHWC.

    Raises `ImageRefused` as `feature_distances`.
    """
    first, second = compute_features(real, network), compute_features(generated, network)
    return feature_distances(first, second, network, seed, forced)


def feature_distances(
    first: Tensor, second: Tensor, network: FeatureNetwork, seed: int = 0, forced: bool = False
) -> Distances:
    """Compare two sets of the network's feature vectors, (N, D), real ones first.

    Raises `ImageRefused` for fewer than ten on either side, and, unless `forced`, for fewer than twice as
    many as there are features: FID's covariances would be of low rank.
    """
    fewer = min(len(first), len(second))
    if fewer < FEWEST_IMAGES:
        raise ImageRefused(
            f"got {len(first)} real and {len(second)} generated images; {FEWEST_IMAGES} of each are needed"
        )
    needed = IMAGES_PER_FEATURE * first.shape[1]
    if fewer < needed and not forced:
        raise ImageRefused(
            f"{fewer} images are too few for FID in the {first.shape[1]} features of {network.name}; give "
            f"{needed} of each, use KID or a smaller network, or force it"
        )
    from torchmetrics.image.kid import KernelInceptionDistance

    given = _IdentityFeatures(first.shape[1])
    kid = KernelInceptionDistance(feature=given, subsets=SUBSETS, subset_size=min(SUBSET, fewer))
    kid.update(first, real=True)
    kid.update(second, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, deviation = kid.compute()
    precision, recall = precision_recall(first, second)
    return Distances(
        network=network.name,
        images=fewer,
        fid=frechet_distance(first, second),
        kid=float(mean),
        kid_std=float(deviation),
        precision=precision,
        recall=recall,
    )


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """FID of feature vectors (N, D) (Heusel et al. 2017); rank-deficient for N below 2·D."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    fid = FrechetInceptionDistance(feature=_IdentityFeatures(real.shape[1]))
    fid.update(real, real=True)
    fid.update(generated, real=False)
    return float(fid.compute())


@torch.no_grad()
def compute_features(images: Images, network: FeatureNetwork) -> Tensor:
    """Feature vectors float32 (N, D) of uint8 NHWC images, on the CPU."""
    return torch.cat([network(chunk.to(_device(network))).float().cpu() for chunk in _batches(images)])


def precision_recall(real: Tensor, generated: Tensor, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, Eq. 1-3) of feature vectors (N, D).

    A vector counts as covered when it lies within the distance of some vector of the other set to its k-th
    neighbour there.
    """
    return _covered(generated, real, k), _covered(real, generated, k)


def _covered(asked: Tensor, manifold: Tensor, k: int) -> float:
    radius = torch.cdist(manifold, manifold).kthvalue(min(k + 1, len(manifold)), dim=1).values
    return float((torch.cdist(asked, manifold) <= radius).any(1).float().mean())


@torch.no_grad()
def perceptual_distance(first: Images, second: Images, network: FeatureNetwork) -> NDArray[np.float64]:
    """LPIPS (Zhang et al. 2018, Eq. 1) of pairs, shape (N,): squared differences of unit feature vectors,
    averaged over positions, summed over depths; 0 for equal images.

    With AlexNet the learned weights of torchmetrics are used, which is LPIPS proper; with another network all
    channels weigh the same, and values compare only within that network.
    """
    if first.shape != second.shape:
        raise ImageRefused(f"expected pairs of equal shape, got {first.shape} and {second.shape}")
    weights = _lpips_weights(network)
    scores = []
    for a, b in zip(_batches(first), _batches(second), strict=True):
        pairs = zip(*(network.maps(_floats(x.to(_device(network)))) for x in (a, b)), strict=True)
        terms = [
            _difference(one, other, None if weights is None else weights[depth])
            for depth, (one, other) in enumerate(pairs)
        ]
        scores.append(torch.stack(terms).sum(0).double().cpu().numpy())
    return np.concatenate(scores)


def _difference(first: Tensor, second: Tensor, weights: Tensor | None) -> Tensor:
    gap = (F.normalize(first, dim=1) - F.normalize(second, dim=1)).square()
    weighted = gap.sum(1) if weights is None else (gap * weights.to(gap.device)).sum(1)
    return weighted.mean((1, 2))


def _lpips_weights(network: FeatureNetwork) -> list[Tensor] | None:
    """LPIPS's weights per channel, 1C11 for each depth, for AlexNet."""
    if network.name != "torchvision alexnet":
        return None
    from torchmetrics.functional.image.lpips import _LPIPS

    judge: Any = _LPIPS(pretrained=True, net="alex", pnet_rand=True)
    return [layer.model[-1].weight.detach() for layer in judge.lins]


@torch.no_grad()
def feature_similarity(images: Images, references: Images, network: FeatureNetwork) -> NDArray[np.float64]:
    """Similarity of each image to the references: the mean cosine of feature vectors, shape (N,)."""
    one, other = (F.normalize(compute_features(x, network), dim=1) for x in (images, references))
    return (one @ other.T).mean(1).double().numpy()


class _IdentityFeatures(nn.Module):
    """A feature extractor for torchmetrics that passes features through unchanged."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, values: Tensor) -> Tensor:
        return values


def _batches(images: Images) -> Sequence[Tensor]:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ImageRefused(f"expected uint8 NHWC images, got {images.dtype} {images.shape}")
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).split(BATCH)


def _floats(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float() / 255


def _at_least(images: Tensor, side: int, exactly: bool) -> Tensor:
    """Enlarge images so that the feature maps are not empty after the network's strides."""
    height, width = images.shape[-2:]
    if (height, width) == (side, side) or (not exactly and min(height, width) >= side):
        return images
    scale = side / min(height, width)
    target = (side, side) if exactly else (round(height * scale), round(width * scale))
    return F.interpolate(images, target, mode="bilinear", antialias=True, align_corners=False)


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
