"""Flaw activation maps: Grad-CAM to the letter, a highlighter that learns, maps as a detector's."""

import numpy as np
import pytest
import torch

from dataengine.diagnosis.config import HighlighterConfig
from dataengine.diagnosis.detector import artifact_maps
from dataengine.diagnosis.flaw_activation import (
    GENERATED,
    FlawHighlighter,
    grad_cam,
    mean_map,
    normalise_activations,
    train_highlighter,
)
from dataengine.errors import ConfigRefused, ImageRefused, ModelRefused

FAST = HighlighterConfig(lr=3e-4, batch=8, epochs=3)


def pictures(count: int, flawed: bool, seed: int = 0) -> np.ndarray:
    """Noise, and where flawed a bright square at the left."""
    found = np.random.default_rng(seed).integers(60, 120, (count, 32, 32, 3), dtype=np.uint8)
    if flawed:
        found[:, 8:24, 2:14] = (250, 20, 20)
    return found


@pytest.fixture(scope="module")
def trained():
    return train_highlighter(FAST, pictures(24, False, 1), pictures(24, True, 2))


def test_grad_cam_is_the_rectified_weighted_sum():
    activations = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 4.0]]]])
    gradient = torch.tensor([[[[2.0, 2.0], [2.0, 2.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    assert grad_cam(activations, gradient, (2, 2)).tolist() == [[[1, 0], [0, 0]]]
    assert grad_cam(activations, -gradient, (2, 2)).tolist() == [[[0, 0], [0, 1]]]
    assert grad_cam(activations, 0 * gradient, (4, 4)).abs().max() == 0
    assert mean_map(torch.tensor([[[0.0, 1.0]], [[1.0, 1.0]]])).tolist() == [[0.5, 1.0]]


def test_maps_are_those_of_a_gradient_through_the_whole_network(trained):
    network, _ = trained
    images = torch.from_numpy(pictures(2, True, 5)).permute(0, 3, 1, 2).float() / 255
    kept = {}
    handle = network.features.register_forward_hook(lambda m, i, o: kept.update(out=o))
    with torch.enable_grad():
        score = network(images.requires_grad_())[:, GENERATED].sum()
        gradient = torch.autograd.grad(score, kept["out"])[0]
    handle.remove()
    expected = grad_cam(kept["out"].detach(), gradient, (32, 32))
    assert torch.allclose(network.activation_maps(images), expected, atol=1e-5)


def test_it_learns_to_tell_real_from_generated(trained):
    network, accuracy = trained
    assert accuracy == 1.0
    maps = artifact_maps(network, [*pictures(2, True, 7), *pictures(2, False, 8)])
    assert all(each.shape == (32, 32) and each.dtype == np.float32 for each in maps)
    assert min(each.max() for each in maps[:2]) > 0.5 > max(each.max() for each in maps[2:])
    assert np.allclose(network.find_artifacts(pictures(2, True, 7)[0]), maps[0], atol=1e-5)


def test_random_weights_begin_where_images_differ():
    network, other = FlawHighlighter(FAST), FlawHighlighter(FAST)
    images = np.concatenate([pictures(6, False, 1), pictures(6, True, 2)])
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    normalise_activations(network, batch)
    for last in (2, 28):
        answers = network.features[: last + 1](network.normalised(batch))
        assert torch.allclose(answers.mean((0, 2, 3)), torch.zeros(answers.shape[1]), atol=1e-3)
        assert torch.allclose(answers.std((0, 2, 3)), torch.ones(answers.shape[1]), atol=1e-2)
    alike = [likeness(each.features(each.normalised(batch))) for each in (network, other)]
    assert alike[0] < 0.8 < 0.95 < alike[1]


def likeness(answers: torch.Tensor) -> float:
    """Mean cosine between the answers to different images."""
    rows = torch.nn.functional.normalize(answers.flatten(1), dim=1)
    count = len(rows)
    return float(((rows @ rows.T).sum() - count) / (count * (count - 1)))


def test_it_is_saved_and_loaded(trained, tmp_path):
    network, _ = trained
    network.save(tmp_path)
    again = FlawHighlighter.load(tmp_path)
    image = pictures(1, True, 9)[0]
    assert np.array_equal(again.find_artifacts(image), network.find_artifacts(image))
    assert not any(weight.requires_grad for weight in again.parameters())
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ModelRefused, match="no flaw highlighter"):
        FlawHighlighter.load(tmp_path)


def test_what_does_not_fit_is_refused(trained, tmp_path):
    with pytest.raises(ConfigRefused, match="ten of each"):
        train_highlighter(FAST, pictures(9, False), pictures(20, True))
    with pytest.raises(ImageRefused, match="sides of at least 32 pixels"):
        trained[0].confidence(torch.zeros(1, 3, 16, 32))
    with pytest.raises(ModelRefused, match="have no gradient"):
        trained[0].confidence(torch.zeros(1, 3, 32, 32, requires_grad=True))
    with pytest.raises(ModelRefused, match="holds no VGG16"):
        FlawHighlighter(HighlighterConfig(weights=str(tmp_path / "vgg16.safetensors")))
