"""Flaw activation maps: Grad-CAM to the letter, a highlighter that learns, maps as a detector's."""

import copy
import json

import numpy as np
import pytest
import torch

from dataengine.diagnosis import flaw_activation
from dataengine.diagnosis.config import HighlighterConfig
from dataengine.diagnosis.detector import artifact_maps
from dataengine.diagnosis.flaw_activation import (
    GENERATED,
    FlawHighlighter,
    grad_cam,
    map_variation,
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


def test_a_map_is_scaled_from_its_minimum_to_its_maximum():
    activations, gradient = torch.tensor([[[[3.0, 1.0], [1.0, 2.0]]]]), torch.ones(1, 1, 2, 2)
    assert grad_cam(activations, gradient, (2, 2)).tolist() == [[[1, 0], [0, 0.5]]]
    by_maximum = grad_cam(activations, gradient, (2, 2), "maximum")
    assert torch.allclose(by_maximum, torch.tensor([[[1, 1 / 3], [1 / 3, 2 / 3]]]))
    assert grad_cam(activations, 1e-25 * gradient, (2, 2)).tolist() == [[[1, 0], [0, 0.5]]]


def test_maps_are_those_of_the_softmax_through_the_whole_network(trained):
    network, _ = trained
    images = torch.from_numpy(pictures(2, True, 5)).permute(0, 3, 1, 2).float() / 255
    kept = {}
    handle = network.features.register_forward_hook(lambda m, i, o: kept.update(out=o))
    doubles = copy.deepcopy(network).double()
    handle.remove()
    with torch.enable_grad():
        score = doubles(images.double().requires_grad_()).softmax(1)[:, GENERATED].sum()
        gradient = torch.autograd.grad(score, kept["out"])[0]
    found = network.activation_maps(images)
    for row in range(2):
        cells, slopes = kept["out"].detach()[row], gradient[row]
        small = sum(slopes[channel].mean() * cells[channel] for channel in range(512)).clamp(min=0)
        large = torch.nn.functional.interpolate(small[None, None], (32, 32), mode="bilinear")[0, 0]
        large = large - large.min()
        assert torch.allclose(found[row].double(), large / large.max(), atol=1e-4)


def test_a_certain_highlighter_still_has_maps(trained):
    network = copy.deepcopy(trained[0])
    last = network.head[-1]
    last.weight.mul_(1000)
    last.bias.mul_(1000)
    images = torch.from_numpy(pictures(1, True, 5)).permute(0, 3, 1, 2).float() / 255
    assert float(network(images).softmax(1)[0, GENERATED]) == 1.0
    assert torch.allclose(network.activation_maps(images), trained[0].activation_maps(images), atol=1e-3)


def test_the_logit_can_be_explained_instead(trained):
    network = copy.deepcopy(trained[0])
    network.config = FAST.model_copy(update={"cam": "logit"})
    images = torch.from_numpy(pictures(1, True, 5)).permute(0, 3, 1, 2).float() / 255
    assert not torch.equal(network.activation_maps(images), trained[0].activation_maps(images))


def test_the_flat_head_reads_every_cell():
    images = np.random.default_rng(0).integers(0, 256, (2, 10, 32, 64, 3), dtype=np.uint8)
    network, _ = train_highlighter(FAST.model_copy(update={"epochs": 1, "batch": 20}), *images)
    widths = [(each.in_features, each.out_features) for each in network.head if hasattr(each, "in_features")]
    assert widths == [(512 * 1 * 2, 512), (512, 2)]
    floats = torch.from_numpy(images[0, :2]).permute(0, 3, 1, 2).float() / 255
    by_hand = torch.nn.functional.max_pool2d(network.features(floats), 2).flatten(1)
    by_hand = network.head[-1](network.head[-3](by_hand).relu())
    assert torch.allclose(network(floats), by_hand, atol=1e-5), "inputs are in [0, 1], not normalised"
    assert network.activation_maps(torch.rand(1, 3, 48, 48)).shape == (1, 48, 48), "of any size"


def test_the_best_epoch_is_kept(monkeypatch):
    right, seen = iter([0.6, 0.9, 0.9, 0.7]), []

    def accuracy(network, images, labels):
        seen.append(network.head[-1].bias.clone())
        return next(right)

    monkeypatch.setattr(flaw_activation, "accuracy", accuracy)
    config = FAST.model_copy(update={"epochs": 3, "batch": 20})
    network, _ = train_highlighter(config, pictures(10, False, 1), pictures(10, True, 2))
    assert torch.equal(network.head[-1].bias, seen[1]) and not torch.equal(seen[1], seen[2])
    monkeypatch.undo()
    last = config.model_copy(update={"keep": "last"})
    network, _ = train_highlighter(last, pictures(10, False, 1), pictures(10, True, 2))
    assert torch.equal(network.head[-1].bias, seen[2])


def test_the_variation_of_maps_is_the_share_between_images():
    same = torch.tensor([[0.0, 1.0], [0.5, 0.0]]).expand(5, 2, 2)
    assert map_variation(same) == 0 and map_variation(torch.full((3, 2, 2), 0.4)) == 0
    moving = torch.zeros(4, 2, 2)
    for image in range(4):
        moving[image, image // 2, image % 2] = 1
    assert map_variation(moving) == pytest.approx(1)
    # Two images, two places: values 1, 0 and 1, 0.5. Variance over images 0 and 0.0625, over all 0.171875.
    mixed = torch.tensor([[[1.0, 0.0]], [[1.0, 0.5]]])
    assert map_variation(mixed) == pytest.approx((0 + 0.0625) / 2 / 0.171875)


def test_a_highlighter_of_before_is_read_as_it_was(tmp_path):
    network = FlawHighlighter(FAST.model_copy(update={"head": "pooled"}))
    network.save(tmp_path)
    former = {"name": "old", "weights": "", "lr": 1e-4, "batch": 8, "epochs": 3, "seed": 0}
    (tmp_path / "highlighter.json").write_text(json.dumps(former))
    config = FlawHighlighter.load(tmp_path).config
    assert (config.head, config.cam, config.level, config.keep) == ("pooled", "logit", "maximum", "last")
    assert config.mean == (0.485, 0.456, 0.406) and config.std == (0.229, 0.224, 0.225)


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
    stored = json.loads((tmp_path / "highlighter.json").read_text())
    (tmp_path / "highlighter.json").write_text(json.dumps(stored | {"grid": [9, 10**6]}))
    with pytest.raises(ModelRefused, match="1 to 8 are possible"):
        FlawHighlighter.load(tmp_path)
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
