"""Distances in a tiny network's features: known values, and names beside figures."""

import numpy as np
import pytest
import torch

from dataengine.errors import ImageRefused, ModelRefused
from dataengine.quality.distances import (
    ClassifierFeatures,
    FeatureNetwork,
    TorchvisionFeatures,
    compute_distances,
    compute_features,
    feature_similarity,
    perceptual_distance,
    precision_recall,
)
from tests.dataengine.treatment import tiny

RNG = np.random.default_rng(0)


def images(count, low=0, high=256):
    return RNG.integers(low, high, size=(count, 32, 32, 3)).astype(np.uint8)


class Colour(FeatureNetwork):
    """The mean colour."""

    name = "mean colour"

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def maps(self, pixels):
        return [pixels]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return ClassifierFeatures(tiny.classifier(tmp_path_factory.mktemp("features")))


def test_equal_sets_are_near_and_others_far(network):
    dark, also_dark, bright = images(40, 0, 60), images(40, 0, 60), images(40, 150, 256)
    near, far = compute_distances(dark, also_dark, network), compute_distances(dark, bright, network)
    assert near.fid < far.fid / 5 and near.kid < far.kid and near.images == 40
    assert far.precision == far.recall == 0 and near.precision > 0.5
    assert "ResNetForImageClassification" in near.text() and near.text().startswith("FID ")
    assert compute_distances(dark, also_dark, network) == near


def test_fid_is_the_formula():
    """‖μ1 − μ2‖² + tr(Σ1 + Σ2 − 2(Σ1·Σ2)^½) on features that can be seen."""
    from scipy.linalg import sqrtm

    first, second = images(60), images(50, 0, 200)
    a, b = (x.reshape(len(x), -1, 3).mean(1) / 255 for x in (first, second))
    covariances = np.cov(a.T), np.cov(b.T)
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert compute_distances(first, second, Colour()).fid == pytest.approx(expected, rel=1e-3)


def test_precision_is_what_looks_real_and_recall_what_is_covered():
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    narrow = torch.tensor([[0.5], [1.0], [1.5], [1.2]])
    precision, recall = precision_recall(real, narrow, k=1)
    assert precision == 1 and recall == pytest.approx(2 / 6)
    assert precision_recall(real, narrow + 100, k=1) == (0, 0)


def test_pairs(network):
    first = images(5)
    assert perceptual_distance(first, first, network) == pytest.approx(np.zeros(5), abs=1e-6)
    little = np.clip(first.astype(int) + 8, 0, 255).astype(np.uint8)
    a, b = perceptual_distance(first, little, network), perceptual_distance(first, images(5, 0, 40), network)
    assert a.shape == (5,) and (a > 0).all() and (a < b).all()


def test_similarity_to_references(network):
    mine = images(3, 0, 80)
    alike, unlike = (
        feature_similarity(mine, mine, network),
        feature_similarity(images(3, 170, 256), mine, network),
    )
    assert alike.shape == (3,) and alike.min() > unlike.max()
    assert compute_features(mine, network).shape == (3, 16)


def test_alexnet_gives_lpips_proper(tmp_path):
    """With torchvision's AlexNet from a safetensors file, the figure is that of torchmetrics' own network."""
    import torchvision.models
    from safetensors.torch import save_file
    from torchmetrics.functional.image.lpips import _LPIPS

    torch.manual_seed(0)
    alexnet = torchvision.models.alexnet(weights=None)
    save_file(alexnet.state_dict(), tmp_path / "alexnet.safetensors")
    network = TorchvisionFeatures("alexnet", tmp_path / "alexnet.safetensors")
    judge = _LPIPS(pretrained=True, net="alex", pnet_rand=True)
    layers = [layer for part in judge.net.children() for layer in part.children()]
    with torch.no_grad():
        for mine, theirs in zip(alexnet.features, layers, strict=False):
            theirs.load_state_dict(mine.state_dict())
    first, second = images(2).repeat(2, 1).repeat(2, 2), images(2).repeat(2, 1).repeat(2, 2)
    as_tensors = [torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255 for x in (first, second)]
    with torch.no_grad():
        expected = judge(*as_tensors, normalize=True).flatten().numpy()
    assert perceptual_distance(first, second, network) == pytest.approx(expected, rel=1e-4)
    assert network.name == "torchvision alexnet"


def test_what_cannot_be_compared_is_refused(network, tmp_path):
    with pytest.raises(ImageRefused, match="10 of each"):
        compute_distances(images(3), images(40), network)
    with pytest.raises(ImageRefused, match="20 images are too few for FID in the 16 features"):
        compute_distances(images(20), images(40), network)
    assert compute_distances(images(20), images(40), network, forced=True).images == 20
    with pytest.raises(ImageRefused, match="equal shape"):
        perceptual_distance(images(2), images(3), network)
    with pytest.raises(ImageRefused, match="uint8 NHWC"):
        compute_features(images(2)[0], network)
    with pytest.raises(ModelRefused, match="unknown feature network"):
        TorchvisionFeatures("vgg", tmp_path)
    (tmp_path / "alexnet.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelRefused, match="holds no alexnet"):
        TorchvisionFeatures("alexnet", tmp_path / "alexnet.safetensors")
    with pytest.raises(ModelRefused, match="image classifier"):
        ClassifierFeatures(tmp_path)
