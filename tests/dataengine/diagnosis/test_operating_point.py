"""Operating points: thresholds by a stated rule, and misses and false alarms there."""

import numpy as np
import pytest

from dataengine.diagnosis.config import OperatingPointConfig
from dataengine.diagnosis.image_metrics import ImageMetrics, image_metrics
from dataengine.diagnosis.operating_point import (
    CANDIDATES,
    choose_operating_point,
    compare_at,
    count_components,
    figures_at,
)
from dataengine.records import THRESHOLD, OperatingPoint
from dataengine.statistics import wilson

RECALL_AT = OperatingPointConfig(rule="recall_at", false_alarm=0.1)
F2 = OperatingPointConfig(rule="f2")


def row(flawed: bool, highest: float) -> ImageMetrics:
    """An image whose map is `highest` on the one pixel that is flawed, if any is, and 0 elsewhere."""
    p, q = np.zeros((4, 4)), np.zeros((4, 4))
    p[1, 1], q[1, 1] = flawed, highest
    return image_metrics(p, q)


def rows_of(flawed: list[float], clean: list[float]) -> list[ImageMetrics]:
    return [row(True, each) for each in flawed] + [row(False, each) for each in clean]


def scored(rows: list[ImageMetrics], threshold: float) -> tuple[float, float, float]:
    """(F2, recall, false alarm rate), from precision and recall as van Rijsbergen defines the measure."""
    hits = sum(one.flawed and one.max >= threshold for one in rows)
    alarms = sum(not one.flawed and one.max >= threshold for one in rows)
    recall = hits / sum(one.flawed for one in rows)
    precision = hits / (hits + alarms) if hits + alarms else 0.0
    f2 = 5 * precision * recall / (4 * precision + recall) if hits else 0.0
    return f2, recall, alarms / sum(not one.flawed for one in rows)


def random_rows(seed: int, size: int = 60) -> list[ImageMetrics]:
    rng = np.random.default_rng(seed)
    flawed = rng.random(size) < rng.uniform(0.2, 0.8)
    flawed[:2] = True, False
    confidence = np.clip(rng.normal(0.3 + rng.uniform(0.05, 0.4) * flawed, 0.2), 0, 1).round(seed % 3 + 1)
    return [row(bool(is_flawed), float(each)) for is_flawed, each in zip(flawed, confidence, strict=True)]


@pytest.mark.parametrize("seed", range(12))
def test_f2_is_the_highest_of_all_thresholds_that_tell_flawed_from_clean(seed: int) -> None:
    rows = random_rows(seed)
    tried = [scored(rows, threshold) for threshold in np.linspace(0, 1.001, 2003)]
    best = max(f2 for f2, recall, false_alarm in tried if recall > false_alarm)
    point = choose_operating_point(rows, config=F2)
    assert scored(rows, point.flagged)[0] == pytest.approx(best)
    assert point.rule == "f2" and point.reason == ""
    assert (point.flawed, point.clean) == (
        sum(one.flawed for one in rows),
        sum(not one.flawed for one in rows),
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("recall", [0.6, 0.9, 1.0])
def test_the_default_has_the_fewest_false_alarms_at_a_recall(seed: int, recall: float) -> None:
    rows = random_rows(seed)
    tried = [scored(rows, threshold) for threshold in np.linspace(0, 1.001, 2003)]
    allowed = [one for one in tried if one[1] >= recall and one[1] > one[2]]
    point = choose_operating_point(rows, config=OperatingPointConfig(recall=recall))
    if not allowed:
        assert point.flagged == THRESHOLD and f"and {recall:g} of them or more" in point.reason
        return
    fewest = min(one[2] for one in allowed)
    _, found, false_alarm = scored(rows, point.flagged)
    assert false_alarm == pytest.approx(fewest) and point.rule == f"false alarms at {recall:g} recall"
    assert found == pytest.approx(max(one[1] for one in allowed if one[2] == fewest))


@pytest.mark.parametrize("seed", range(12))
def test_recall_at_is_the_highest_recall_within_the_false_alarms(seed: int) -> None:
    rows = random_rows(seed)
    tried = [scored(rows, threshold) for threshold in np.linspace(0, 1.001, 2003)]
    allowed = [one for one in tried if one[2] <= 0.1 and one[1] > one[2]]
    point = choose_operating_point(rows, config=RECALL_AT)
    if not allowed:
        assert point.flagged == THRESHOLD and point.reason
        return
    recall = max(one[1] for one in allowed)
    _, found, false_alarm = scored(rows, point.flagged)
    assert found == pytest.approx(recall) and point.rule == "recall at 0.1 false alarms"
    assert false_alarm == pytest.approx(min(one[2] for one in allowed if one[1] == recall))


def test_a_quiet_detector_gets_a_low_threshold_halfway_between_neighbours() -> None:
    point = choose_operating_point(rows_of([0.04, 0.05, 0.06], [0.01, 0.02, 0.02]))
    assert point.flagged == pytest.approx(0.03)
    assert figures_at(rows_of([0.04, 0.05], [0.01]), point.flagged, point.component).miss == 0


def test_of_equal_scores_the_lower_threshold_is_taken() -> None:
    # 2 of 3 flawed images without an alarm, or 3 of 3 with six: 10 / (10 + 4) = 15 / (15 + 6).
    rows = rows_of([0.9, 0.8, 0.2], [0.3] * 6 + [0.1] * 9)
    assert scored(rows, 0.5)[0] == pytest.approx(5 / 7) == scored(rows, 0.15)[0]
    assert choose_operating_point(rows, config=F2).flagged == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("flawed", "clean", "reason"),
    [
        ([], [], "no labelled validation images"),
        ([], [0.2, 0.9], "no validation image is flawed"),
        ([0.2, 0.9], [], "every validation image is flawed"),
        ([1.0, 1.0], [1.0], "the highest confidence is 1 in every validation image"),
        ([0.1, 0.2], [0.8, 0.9], "no threshold flags more of the flawed"),
        ([0.5, 0.7], [0.5, 0.7], "no threshold flags more of the flawed"),
    ],
)
def test_without_a_choice_one_half_holds_and_says_why(
    flawed: list[float], clean: list[float], reason: str
) -> None:
    for config in (None, F2, RECALL_AT):
        point = choose_operating_point(rows_of(flawed, clean), config=config)
        assert (point.flagged, point.component, point.rule) == (0.5, 0.5, "fixed")
        assert reason in point.reason and point.interval is None


def test_a_detector_that_saturates_eight_bits_is_still_told_apart() -> None:
    point = choose_operating_point(rows_of([0.99995, 0.99999], [0.9991, 0.9992]))
    assert 0.9992 < point.flagged < 0.99995
    next_up = float(np.nextafter(np.float64(0.7), 1))
    assert choose_operating_point(rows_of([next_up], [0.7])).flagged == next_up


def test_a_threshold_that_flags_everything_is_never_chosen() -> None:
    rows = rows_of([0.9] * 30 + [0.3], [0.2, 0.4])
    assert choose_operating_point(rows, config=F2).flagged == pytest.approx(0.25)
    assert choose_operating_point(rows).flagged == pytest.approx(0.65)


def test_the_choice_is_the_same_in_any_order_and_its_interval_holds_it() -> None:
    rows = random_rows(4, size=200)
    point, again = choose_operating_point(rows), choose_operating_point(rows[::-1])
    assert (point.flagged, point.component) == (again.flagged, again.component)
    assert choose_operating_point(rows) == point and point.interval is not None
    assert point.interval[0] <= point.flagged <= point.interval[1]


def blob(size: int, *places: tuple[int, int, int, float]) -> np.ndarray:
    """A map with squares of that side and confidence at these rows and columns."""
    found = np.zeros((size, size))
    for top, left, side, value in places:
        found[top : top + side, left : left + side] = value
    return found


def test_components_are_counted_at_every_candidate() -> None:
    p = blob(16, (2, 2, 4, 1.0))
    q = np.maximum(blob(16, (2, 2, 4, 0.8), (10, 10, 3, 0.3)), 0.05)
    counts = count_components(p, q)
    for threshold, predicted, right in zip(CANDIDATES, counts.predicted, counts.right, strict=True):
        # Below 0.05 the whole image is one component, of which the flaw is 16 of 256 pixels.
        expected = (1, 0) if threshold <= 0.05 else (2, 1) if threshold <= 0.3 else (1, 1)
        assert (predicted, right) == (expected if threshold <= 0.8 else (0, 0))


def test_the_component_threshold_has_their_highest_f2_and_never_exceeds_the_images() -> None:
    truth = blob(16, (2, 2, 4, 1.0))
    maps = [np.maximum(blob(16, (2, 2, 4, high), (10, 10, 3, 0.1)), 0.02) for high in (0.4, 0.5, 0.9)]
    clean = [np.full((16, 16), 0.05)] * 3
    pairs = [(truth, q) for q in maps] + [(np.zeros((16, 16)), q) for q in clean]
    rows = [image_metrics(p, q) for p, q in pairs]
    point = choose_operating_point(rows, [count_components(p, q) for p, q in pairs])
    # Above the second square's 0.1 every component is right; up to 0.4 every flaw is found.
    assert point.flagged == pytest.approx((0.05 + 0.4) / 2)
    assert 0.1 < point.component <= point.flagged
    assert choose_operating_point(rows).component == point.flagged


def test_figures_count_images_and_components_of_each_class() -> None:
    label_map = np.zeros((16, 16), dtype=np.uint8)
    label_map[1:3, 1:3], label_map[8:10, 8:10], label_map[12:14, 1:3] = 1, 2, 2
    q = blob(16, (2, 2, 1, 0.9), (8, 8, 1, 0.2), (5, 12, 1, 0.95))
    flawed = image_metrics((label_map > 0).astype(float), q, label_map=label_map)
    quiet = image_metrics((label_map > 0).astype(float), q * 0.1, label_map=label_map)
    rows = [flawed, quiet, row(False, 0.6), row(False, 0.1), row(False, 0.0)]
    found = figures_at(rows, flagged=0.5, component=0.3)
    assert (found.flawed, found.clean, found.miss, found.false_alarm) == (2, 3, 0.5, 1 / 3)
    assert found.intervals == {"miss": wilson(1, 2), "false_alarm": wilson(1, 3)}
    assert {name: (one.components, one.miss) for name, one in found.classes.items()} == {
        "1": (2, 0.5),
        "2": (4, 1.0),
    }
    assert found.classes["2"].interval == wilson(2, 2)
    lower = figures_at(rows, flagged=0.095, component=0.2)
    assert (lower.miss, lower.false_alarm, lower.classes["2"].miss) == (0.0, 2 / 3, 0.75)
    low, high = lower.classes["2"].interval
    assert low <= 0.75 <= high


def test_a_rate_over_no_images_is_none() -> None:
    assert figures_at(rows_of([], [0.1]), 0.5, 0.5).miss is None
    found = figures_at(rows_of([0.1], []), 0.5, 0.5)
    assert found.miss == 1 and found.false_alarm is None and list(found.intervals) == ["miss"]


def test_two_detectors_are_compared_each_at_its_own_point() -> None:
    before = rows_of([0.9] * 40, [0.2] * 40)
    quiet = rows_of([0.09] * 40, [0.02] * 40)
    half, low = OperatingPoint(), OperatingPoint(flagged=0.05, component=0.05)
    same = compare_at(before, quiet, (half, low))
    assert (same["miss"].before, same["miss"].after, same["miss"].verdict) == (0, 0, "within noise")
    fixed = compare_at(before, quiet, (half, half))
    assert (fixed["miss"].after, fixed["miss"].interval, fixed["miss"].verdict) == (1, (1, 1), "worse")
    assert fixed["false_alarm"].verdict == "within noise"


def test_a_threshold_that_is_too_low_is_told_from_a_worse_ranking() -> None:
    """The second detector has six false alarms of ten at its point. Moved to the first one's two of ten, it
    misses the same two of ten, or with the other ranking six."""
    clean = [0.7, 0.6, *[0.1] * 8]
    before = rows_of([0.9] * 8 + [0.2] * 2, clean) * 5
    lenient = OperatingPoint(flagged=0.3, component=0.3)
    for flawed, missed in (([0.9] * 8 + [0.4] * 2, 0.2), ([0.9] * 4 + [0.5] * 6, 0.6)):
        after = rows_of(flawed, [0.8, 0.6, *[0.5] * 4, *[0.1] * 4]) * 5
        found = compare_at(before, after, (OperatingPoint(), lenient))
        assert (found["false_alarm"].before, found["false_alarm"].after) == pytest.approx((0.2, 0.6))
        equal = found["miss_at_equal_alarms"]
        assert (equal.before, equal.after) == pytest.approx((0.2, missed))
        assert equal.verdict == ("within noise" if missed == 0.2 else "worse")


def test_one_miss_more_is_noise_and_ten_are_not() -> None:
    point = OperatingPoint()
    before = rows_of([0.9] * 50, [0.2] * 50)
    for missed, verdict in ((1, "within noise"), (10, "worse")):
        after = rows_of([0.1] * missed + [0.9] * (50 - missed), [0.2] * 50)
        found = compare_at(before, after, (point, point))["miss"]
        assert found.after == missed / 50 and found.verdict == verdict
        assert compare_at(after, before, (point, point))["miss"].verdict == verdict.replace("worse", "better")


def test_what_is_undefined_is_not_compared() -> None:
    point, rows = OperatingPoint(), rows_of([0.9, 0.8], [])
    assert set(compare_at(rows, rows, (point, point))) == {"mse", "kl", "kl1m", "miss", "pixel_ap"}
