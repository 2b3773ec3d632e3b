"""Score dynamics: the released rule by plain loops, the paper's threshold, other sizes, plots."""

from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.diagnosis.dynamics import (
    abnormal_shares,
    compute_dynamics,
    dynamics_at_point,
    fitting_regions,
    grow,
    smooth,
    thresholds,
    upsample_map,
    window_steps,
)
from dataengine.errors import ConfigRefused
from dataengine.masks import dequantise, quantise
from dataengine.treatment.guided_sampling.config import CorrectionConfig


def filtered(values: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian along every axis, cut off at 4σ, mirrored about the edges of the border's samples."""
    reach = int(4 * sigma + 0.5)
    weights = [np.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-reach, reach + 1)]
    for axis, length in enumerate(values.shape):
        found = np.zeros(values.shape)
        for weight, offset in zip(weights, range(-reach, reach + 1), strict=True):
            places = [(index + offset) % (2 * length) for index in range(length)]
            mirrored = [place if place < length else 2 * length - 1 - place for place in places]
            found += weight / sum(weights) * np.take(values, mirrored, axis)
        values = found.astype(np.float32)
    return values


def components(places: np.ndarray) -> list[set[tuple[int, int]]]:
    """Sets of the places that touch along their sides."""
    waiting, found = {(int(y), int(x)) for y, x in np.argwhere(places)}, []
    while waiting:
        reached, edge = set(), [waiting.pop()]
        while edge:
            y, x = edge.pop()
            reached.add((y, x))
            for near in {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & waiting:
                waiting.remove(near)
                edge.append(near)
        found.append(reached)
    return found


def middle(values: np.ndarray) -> np.float32:
    ordered = np.sort(values.ravel())
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / np.float32(2)


def by_loops(
    frames: np.ndarray,
    sigma: float = 2,
    least: int = 100,
    most: int = 10_000,
    width: int = 5,
    radius: int = 0,
) -> np.ndarray:
    """The authors' definition (ASCED, METHODS 2) of the regions of 8-bit frames THWC, sizes in pixels."""
    abnormal = np.zeros(frames.shape[1:3], dtype=bool)
    for before, after in pairwise(frames.astype(np.float32)):
        change = filtered(np.abs(after - before), sigma)
        usual = middle(change)
        limit = usual + np.float32(3 * 1.4826) * middle(np.abs(change - usual))
        abnormal |= change.max(axis=2) > limit
    kept = np.zeros_like(abnormal)
    for component in components(abnormal):
        square = [(dy, dx) for dy in range(width) for dx in range(width)]
        thick = any(all((y + dy, x + dx) in component for dy, dx in square) for y, x in component)
        if least < len(component) < most and thick:
            for y, x in component:
                kept[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = True
    return kept


def film(side: int = 256, steps: int = 4, seed: int = 0, flaw: int = 24) -> np.ndarray:
    """8-bit frames THWC that settle down, but for a square that jumps once and specks that flicker."""
    rng = np.random.default_rng(seed)
    frames = 128 + rng.normal(0, 6, (steps, side, side, 3))
    frames[2:, 40 : 40 + flaw, 60 : 60 + flaw] += 90
    for y, x in rng.integers(0, side - 2, (12, 2)):
        frames[1, y : y + 2, x : x + 2] += 70
    return frames.clip(0, 255).astype(np.uint8)


def clouds(height: int, width: int, grain: float, mixed: float, seed: int, steps: int = 4) -> np.ndarray:
    """8-bit frames THWC whose values vary together over `grain` pixels, as those of real predictions do, and
    in part (`mixed`) over the channels."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(steps):
        rough = rng.normal(size=(int(height / grain) + 2, int(width / grain) + 2, 3))
        rough = (1 - mixed) * rough + mixed * rough.mean(2, keepdims=True)
        rows, columns = np.arange(height) / grain, np.arange(width) / grain
        y, x = rows.astype(int), columns.astype(int)
        v, u = (rows - y)[:, None, None], (columns - x)[None, :, None]
        above = (1 - u) * rough[y][:, x] + u * rough[y][:, x + 1]
        below = (1 - u) * rough[y + 1][:, x] + u * rough[y + 1][:, x + 1]
        frames.append((1 - v) * above + v * below)
    return (128 + 40 * np.stack(frames)).clip(0, 255).astype(np.uint8)


def regions(frames: np.ndarray, config: DynamicsConfig) -> np.ndarray:
    return compute_dynamics(frames.transpose(0, 3, 1, 2), config).regions


@pytest.mark.parametrize(
    "frames",
    [film(), clouds(256, 256, 9, 0.0, 1), clouds(256, 256, 25, 0.7, 2)],
    ids=["noise", "clouds", "large grey clouds"],
)
def test_at_256_the_regions_are_those_of_the_released_rule(frames):
    expected = by_loops(frames)
    assert expected.any() and not expected.all()
    assert np.array_equal(regions(frames, DynamicsConfig()), expected)
    grown = by_loops(frames, radius=5)
    assert grown.sum() > expected.sum()
    assert np.array_equal(regions(frames, CorrectionConfig().dynamics), grown)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(48, 48), (40, 64)])
def test_small_frames_follow_the_rule_in_shares_of_their_size(shape, seed):
    frames = clouds(*shape, grain=[3, 5, 8][seed % 3], mixed=[0, 0.9][seed % 2], seed=seed)
    side, area = min(shape), shape[0] * shape[1]
    config = DynamicsConfig(
        sigma=2 / side, smallest=12 / area, largest=300 / area, erosion=3 / side, dilation=2 / side
    )
    expected = by_loops(frames, least=12, most=300, width=3, radius=2)
    assert expected.any() and not expected.all()
    assert np.array_equal(regions(frames, config), expected)


def test_the_gaussian_mixes_the_channels_too():
    change = np.zeros((1, 3, 32, 32), dtype=np.float32)
    change[:, 0] = 1
    weights = np.exp(-0.5 * (np.arange(-8, 9) / 2) ** 2)
    weights /= weights.sum()
    # Channels mirror as 0 1 2 2 1 0 0 1 2 …: what channel 0 gives to each.
    mirrored = [[(channel + offset) % 6 in (0, 5) for offset in range(-8, 9)] for channel in range(3)]
    found = smooth(change, DynamicsConfig(sigma=2 / 32))
    assert np.allclose(found[0, :, 16, 16], [weights[hits].sum() for hits in mirrored], atol=1e-6)
    assert 0.25 < found[0, 2, 16, 16] < 1 / 3 < found[0, 0, 16, 16] < 0.45
    assert np.array_equal(smooth(change, DynamicsConfig(sigma=0)), change)


def test_one_component_s_own_bounds_are_strict():
    config = DynamicsConfig()
    for area, shape, kept in (
        (100, (10, 10), False),
        (102, (6, 17), True),
        (9_999, (99, 101), True),
        (10_000, (100, 100), False),
    ):
        abnormal = np.zeros((256, 256), dtype=bool)
        abnormal[20 : 20 + shape[0], 30 : 30 + shape[1]] = True
        assert abnormal.sum() == area
        assert np.array_equal(fitting_regions(abnormal, config), abnormal & kept), area


def test_components_that_touch_at_a_corner_are_two():
    abnormal = np.zeros((256, 256), dtype=bool)
    abnormal[10:18, 10:18] = abnormal[18:26, 18:26] = True  # 64 px each, together 128
    assert not fitting_regions(abnormal, DynamicsConfig()).any()
    abnormal[18, 17] = True  # now they touch along a side
    assert fitting_regions(abnormal, DynamicsConfig()).sum() == 129


def test_components_must_hold_a_square_of_five():
    abnormal = np.zeros((256, 256), dtype=bool)
    abnormal[100:200, 50:54] = True  # 400 px, four wide
    abnormal[30, 100:250] = abnormal[10:60, 120] = True  # a cross of lines
    assert not fitting_regions(abnormal, DynamicsConfig()).any()
    abnormal[120:125, 50:55] = True
    assert fitting_regions(abnormal, DynamicsConfig()).sum() == 405
    assert not fitting_regions(np.zeros((8, 8), dtype=bool), DynamicsConfig()).any()


def test_regions_grow_by_a_square_and_only_where_asked_for():
    region = np.zeros((256, 256), dtype=bool)
    region[100, 3] = True
    assert grow(region, DynamicsConfig()).sum() == 1
    grown = grow(region, CorrectionConfig().dynamics)
    assert grown.sum() == 11 * 9 and grown[95:106, :9].all()
    large = np.zeros((512, 768), dtype=bool)
    large[200, 300] = True
    assert grow(large, CorrectionConfig().dynamics).sum() == 21 * 21


def test_one_setting_holds_for_any_size():
    found = [regions(film(side, flaw=side // 8), DynamicsConfig()) for side in (128, 256)]
    assert all(each.any() for each in found)
    assert abs(found[0].mean() - found[1].mean()) < 0.01


def test_the_papers_form_is_equation_4_alone():
    rng = np.random.default_rng(5)
    frames = rng.normal(size=(4, 2, 24, 24)).astype(np.float32)
    frames[2:, :, 3:20, 2:22] += 9  # too large for the released rule
    frames[2, 1, 22, 22] += 50  # a single place
    changes, expected, bank = np.abs(np.diff(frames.astype(np.float64), axis=0)), np.zeros((24, 24), bool), []
    for change in changes:
        bank += change.ravel().tolist()
        deviation = np.median(np.abs(change - np.median(change)))
        expected |= (change > max(deviation, np.mean(bank))).any(0)
    found = compute_dynamics(frames, DynamicsConfig(form="paper"))
    assert np.array_equal(found.regions, expected) and found.regions[22, 22] and found.regions[8, 8]
    assert np.allclose(found.changes, changes.max(1))
    other = DynamicsConfig(form="paper", sigma=0.3, smallest=0.4, largest=0.5, erosion=0.5, deviations=9)
    assert np.array_equal(compute_dynamics(frames, other).regions, expected)


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
