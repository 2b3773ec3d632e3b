"""Score dynamics: the released rule to the letter, the paper's threshold, sizes that carry over, plots."""

from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.diagnosis.dynamics import (
    abnormal_regions,
    abnormal_shares,
    compute_dynamics,
    dynamics_at_point,
    thresholds,
    upsample_map,
    window_steps,
)
from dataengine.errors import ConfigRefused
from dataengine.masks import dequantise, quantise


def released_rule(frames: np.ndarray) -> np.ndarray:
    """The released rule (ASCED), line by line, on 8-bit frames T, 256, 256, 3; nothing shared with ours."""
    union = np.zeros(frames.shape[1:3], dtype=bool)
    for before, after in pairwise(frames):
        difference = np.abs(after.astype(np.float32) - before.astype(np.float32))
        for channel in range(3):
            difference[..., channel] = ndimage.gaussian_filter(difference[..., channel], 2)
        median = np.median(difference)
        mad = np.median(np.abs(difference - median))
        limit = median + np.float32(3 * 1.4826) * mad
        union |= difference.max(-1) > limit
    numbers, count = ndimage.label(union, structure=np.ones((3, 3)))
    kept = np.zeros_like(union)
    for number in range(1, count + 1):
        component = numbers == number
        survives = ndimage.binary_erosion(component, structure=np.ones((5, 5))).any()
        if 100 <= component.sum() <= 10_000 and survives:
            kept |= component
    grown = np.zeros_like(kept)
    for y, x in np.argwhere(kept):
        rows, columns = np.ogrid[-5:6, -5:6]
        for dy, dx in np.argwhere(rows**2 + columns**2 <= 25) - 5:
            if 0 <= y + dy < kept.shape[0] and 0 <= x + dx < kept.shape[1]:
                grown[y + dy, x + dx] = True
    return grown


def film(side: int = 256, steps: int = 4, seed: int = 0, flaw: int = 24) -> np.ndarray:
    """8-bit frames THWC that settle down, but for a square that jumps once and specks that flicker."""
    rng = np.random.default_rng(seed)
    frames = 128 + rng.normal(0, 6, (steps, side, side, 3))
    frames[2:, 40 : 40 + flaw, 60 : 60 + flaw] += 90
    for y, x in rng.integers(0, side - 2, (12, 2)):
        frames[1, y : y + 2, x : x + 2] += 70
    return frames.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_regions_are_those_of_the_released_rule(seed):
    frames = film(seed=seed)
    found = compute_dynamics(frames.transpose(0, 3, 1, 2), DynamicsConfig())
    expected = released_rule(frames)
    assert expected.any() and not expected.all()
    assert np.array_equal(found.regions, expected)


def test_components_are_chosen_by_area_and_thickness():
    abnormal = np.zeros((256, 256), dtype=bool)
    abnormal[10:22, 10:22] = True
    abnormal[100:200, 50:54] = True  # 400 px, but thinner than the square that it is eroded by
    abnormal[10:18, 100:108] = True  # 64 px, too small
    abnormal[120:250, 130:250] = True  # 15,600 px, too large
    kept = abnormal_regions(abnormal, DynamicsConfig(dilation=0))
    assert kept.sum() == 144 and kept[10:22, 10:22].all()
    assert not abnormal_regions(np.zeros((8, 8), dtype=bool), DynamicsConfig()).any()


def test_one_setting_holds_for_any_size():
    found = [
        compute_dynamics(film(side, flaw=side // 8).transpose(0, 3, 1, 2), DynamicsConfig()).regions
        for side in (128, 256)
    ]
    assert all(each.any() for each in found)
    assert abs(found[0].mean() - found[1].mean()) < 0.01


def test_the_papers_threshold_is_the_higher_of_mad_and_bank():
    changes = np.ones((2, 1, 4, 4), dtype=np.float32)
    changes[0, 0, :2] = 9  # median 5, every value 4 from it; mean 5
    changes[1, 0, 0, 0] = 17  # MAD 0; bank holds (5 + 2) / 2
    base, limit = thresholds(changes, DynamicsConfig(form="paper"))
    assert base.tolist() == [0, 0] and limit.tolist() == [5.0, 3.5]
    changes[0, 0] = np.array([0, 0, 100, 100])  # MAD 50 = mean 50, then a bank of 26
    assert thresholds(changes, DynamicsConfig(form="paper"))[1].tolist() == [50.0, 26.0]


def test_a_threshold_of_one_half_gives_the_regions_back_even_after_eight_bits():
    found = compute_dynamics(film().transpose(0, 3, 1, 2), DynamicsConfig())
    stored = dequantise(quantise(found.confidence))
    assert np.array_equal(stored >= 0.5, found.regions)
    assert len(np.unique(stored)) > 20, "the map is graded"


def test_still_frames_have_no_artifacts():
    found = compute_dynamics(np.full((3, 4, 8, 8), 7, np.float32), DynamicsConfig())
    assert not found.regions.any() and found.confidence.max() == 0
    with pytest.raises(ConfigRefused, match="got 1 frames"):
        compute_dynamics(np.zeros((1, 4, 8, 8), np.float32), DynamicsConfig())


def test_windows_include_their_ends():
    assert window_steps([1, 0.8, 0.6, 0.4, 0.2, 0], 0.8, 0.4) == [1, 2, 3]
    assert window_steps([1, float(np.float32(0.8))], 0.8, 0.2) == [1]
    assert window_steps([1, 0], 0.8, 0.2) == []


@pytest.mark.parametrize(
    "wrong", [{"start": 0.2, "stop": 0.4}, {"smallest": 0.5}, {"form": "paper", "space": "pixel"}]
)
def test_settings_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(ValidationError):
        DynamicsConfig(**wrong)


def test_latents_are_enlarged_to_the_pixels_they_stand_for():
    assert upsample_map(np.array([[1, 2], [3, 4]]), (4, 4)).tolist() == [
        [1, 1, 2, 2],
        [1, 1, 2, 2],
        [3, 3, 4, 4],
        [3, 3, 4, 4],
    ]


def test_dynamics_at_a_point_stand_out_where_the_flaw_is():
    found = compute_dynamics(film().transpose(0, 3, 1, 2), DynamicsConfig())
    inside, median = dynamics_at_point(found, (70, 50), (256, 256))
    outside, _ = dynamics_at_point(found, (200, 200), (256, 256))
    assert inside.shape == median.shape == (3,)
    assert inside[1] > 5 * median[1] and outside[1] < 3 * median[1]
    enlarged_point, _ = dynamics_at_point(found, (140, 100), (512, 512))
    assert enlarged_point.tolist() == inside.tolist()
    with pytest.raises(ConfigRefused, match="300,4"):
        dynamics_at_point(found, (300, 4), (256, 256))


def test_the_share_of_abnormal_places_peaks_where_the_flaw_appears():
    found = [compute_dynamics(film(seed=seed).transpose(0, 3, 1, 2), DynamicsConfig()) for seed in range(2)]
    shares = abnormal_shares(found)
    assert shares.shape == (3,) and shares.argmax() == 1
