"""The bench of regimes: ratios with intervals, crossing points, noisy labels, and the order of trainings."""

from pathlib import Path

import numpy as np
import pytest

from dataengine.curation.config import MiningConfig
from dataengine.injection.config import InjectionConfig
from tests.bench import regime_data
from tests.bench.regime_data import NOISES, Pool, noisy_masks
from tests.bench.regime_measures import ap_ratio, crossing, error_ratio, labels_ratio
from tests.bench.regime_training import Clean, Injected, Labels, Measured, Mined, Training
from tests.bench.regimes import depth


def rows(errors: list[float]) -> Measured:
    """Figures of images with these errors; one pixel of each is flawed and has the highest confidence."""
    inside, outside = np.zeros((2, len(errors), 256), int)
    inside[:, 255], outside[:, 0] = 1, 9
    return {"mse": np.array(errors), "inside": inside, "outside": outside}


def test_a_ratio_of_errors_pairs_images_and_averages_seeds() -> None:
    before = [rows([0.2, 0.4, 0.6]), rows([0.4, 0.4, 0.4])]
    after = [rows([0.1, 0.2, 0.3]), rows([0.2, 0.2, 0.2])]
    found = error_ratio("ratio", before, after, "")
    assert found.value == pytest.approx(0.5)
    assert found.interval == pytest.approx((0.5, 0.5)), "every image halves, whichever are drawn"
    assert found.n == 3


def test_seeds_that_disagree_widen_the_interval() -> None:
    before = [rows([0.4] * 50), rows([0.4] * 50)]
    after = [rows([0.1] * 50), rows([0.5] * 50)]
    low, high = error_ratio("ratio", before, after, "").interval or (1.0, 1.0)
    assert low == pytest.approx(0.25) and high == pytest.approx(1.25)


def test_a_ratio_of_pixel_ap_is_that_of_both_precisions() -> None:
    half = rows([0.0] * 20)
    # One clean pixel of each image ranks with the flawed one: precision 1/2 at full recall.
    half["outside"][:, 255], half["outside"][:, 0] = 1, 8
    found = ap_ratio("ap", [rows([0.0] * 20)], [half], "")
    assert found.value == pytest.approx(0.5) and found.interval == pytest.approx((0.5, 0.5))


def test_labels_needed_are_divided_by_those_at_random() -> None:
    curves = [[rows([0.4] * 5)], [rows([0.2] * 5)]]
    found = labels_ratio("labels", (100, 200), curves, 400, [rows([0.2] * 5)], "")
    assert found.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("ratios", "at"),
    [([0.8, 0.9, 0.95], None), ([1.1, 0.9, 0.9], 0.0), ([0.8, 1.2, 1.3], 200.0), ([0.8, 0.9, 1.0], 1600.0)],
)
def test_a_curve_crosses_one_where_a_gain_ends(ratios: list[float], at: float | None) -> None:
    found = crossing((100, 400, 1600), ratios)
    assert found == (at if at is None else pytest.approx(at))


def test_two_annotators_err_at_the_rates_of_the_level() -> None:
    masks = np.zeros((200, 64, 64), bool)
    masks[:, 20:40, 20:40] = True
    exact, middle = noisy_masks(masks, "none", 0), noisy_masks(masks, "middle", 0)
    assert np.array_equal(exact, masks)
    missed = np.mean([not mask[25:35, 25:35].any() for mask in middle])
    assert missed == pytest.approx(NOISES["middle"].missed, abs=0.1), "large components are missed too"
    areas = [mask.sum() for mask in middle if mask[25:35, 25:35].any()]
    assert np.mean(areas) > 20 * 20, "painted too wide"
    assert not np.array_equal(middle[0], noisy_masks(masks, "middle", 1)[0])


def test_more_labels_include_the_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    pool = Pool(rng.integers(0, 255, (24, 64, 64, 3), np.uint8), np.ones((24, 64, 64), bool), ("hand",) * 24)
    monkeypatch.setattr(regime_data, "labelled_pool", lambda count, seed, world: pool)
    few, many = (Labels(count, "middle", pool=24).samples(Path()) for count in (3, 8))
    for one, other in zip(few, many[:3], strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.target, other.target)


def test_what_builds_on_a_training_comes_after_it() -> None:
    clean = Training("clean", (Clean(4),), 2)
    mined = Training("mined", (Mined(MiningConfig(), clean),), 2)
    injected = Training("injected", (Injected(4, InjectionConfig()),), 2, fresh=True)
    assert [depth(each) for each in (clean, injected, mined, Training("on", (), 2, mined))] == [0, 0, 1, 2]
