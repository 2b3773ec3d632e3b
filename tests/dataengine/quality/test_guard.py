"""The guard against hand-computed values, and on images that went wrong on purpose."""

import numpy as np
import pytest
from scipy import ndimage

from dataengine.errors import ConfigRefused
from dataengine.quality.config import GuardConfig
from dataengine.quality.guard import Guard, detail_energy, diversity, mean_change

RNG = np.random.default_rng(0)
CONFIG = GuardConfig(prompts=4, seeds=3)
PROMPTS = ["a", "b", "c", "d", "e"]


def pictures(seed=0, count=12):
    """Blobs over a background, a little noise: something with detail and variety."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(count, 32, 32, 3)), (0, 2, 2, 0))
    return np.clip(128 + 400 * smooth + rng.normal(scale=4, size=smooth.shape), 0, 255).astype(np.uint8)


class Reader:
    """Says that bright images miss their attributes."""

    def match(self, images, prompts):
        assert len(images) == len(prompts)
        return (images.mean(axis=(1, 2, 3)) < 160).astype(float)


class Rising:
    """A scorer that likes smoothness."""

    name = "smooth"

    def score(self, images, prompts):
        return np.array([-detail_energy(image[None]) for image in images])


def test_prompts_and_seeds_are_fixed():
    guard = Guard(CONFIG, PROMPTS, seed=100)
    assert guard.prompts == ["a"] * 3 + ["b"] * 3 + ["c"] * 3 + ["d"] * 3
    assert guard.seeds == list(range(100, 112))
    with pytest.raises(ConfigRefused, match="no prompts"):
        Guard(CONFIG, [])


def test_values_by_hand():
    flat = np.zeros((2, 3, 3, 3), dtype=np.uint8)
    spot = flat.copy()
    spot[:, 1, 1] = 255
    assert mean_change(flat, spot) == pytest.approx(1 / 9)
    assert detail_energy(flat) == 0 and detail_energy(spot) == pytest.approx(4)
    pair = np.concatenate([flat[:1], spot[:1]])
    assert diversity(pair, 2) == pytest.approx((1 / 9) ** 0.5)
    assert diversity(spot, 2) == 0


def test_the_untreated_images_are_well():
    guard = Guard(CONFIG, PROMPTS, Reader(), [Rising()])
    images = pictures()
    reading = guard.check(guard.baseline(images), images)
    assert reading.breaches == ()
    expected = {"change": 0, "detail": 1, "diversity": 1, "attributes": 0, "scorer smooth": 0}
    assert reading.values == pytest.approx(expected)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda x: ndimage.gaussian_filter(x, (0, 1.5, 1.5, 0)), "detail"),
        (lambda x: np.clip(x + RNG.normal(scale=40, size=x.shape), 0, 255).astype(np.uint8), "detail"),
        (lambda x: np.repeat(x[::3], 3, axis=0), "diversity"),
        (lambda x: 255 - x, "change"),
        (lambda x: np.clip(x.astype(int) + 60, 0, 255).astype(np.uint8), "attributes"),
        (lambda x: ndimage.gaussian_filter(x, (0, 0.4, 0.4, 0)), "scorer smooth"),
    ],
)
def test_what_goes_wrong_is_named(spoil, named):
    guard = Guard(CONFIG, PROMPTS, Reader(), [Rising()])
    images = pictures()
    reading = guard.check(guard.baseline(images), spoil(images))
    assert any(breach.startswith(named) for breach in reading.breaches), reading


def test_limits_are_two_sided():
    """A scorer that rises abnormally is a breach, though higher is better."""
    guard = Guard(CONFIG.model_copy(update={"detail": (0.0, 9.0)}), PROMPTS, scorers=[Rising()])
    images = pictures()
    smooth = ndimage.gaussian_filter(images, (0, 0.5, 0.5, 0))
    reading = guard.check(guard.baseline(images), smooth)
    assert reading.values["scorer smooth"] > 0.15
    assert [breach.split()[0] for breach in reading.breaches] == ["scorer"]


def test_without_a_reader_attributes_are_not_guessed():
    images = pictures()
    guard = Guard(CONFIG, PROMPTS)
    assert set(guard.check(guard.baseline(images), images).values) == {"change", "detail", "diversity"}


def test_limits_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="limits of detail"):
        GuardConfig(detail=(1.2, 0.8))
