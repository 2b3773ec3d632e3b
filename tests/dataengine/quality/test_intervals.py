"""Bootstrap intervals: known values, groups that stay together, and coverage."""

import numpy as np
import pytest

from dataengine.quality.intervals import mean_difference, ratio_of_means


def test_a_constant_ratio_has_no_spread() -> None:
    value, (low, high) = ratio_of_means([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], ["a", "b", "c"])
    assert (value, low, high) == (0.5, pytest.approx(0.5), pytest.approx(0.5))


def test_the_ratio_is_that_of_the_means_not_the_mean_of_ratios() -> None:
    assert ratio_of_means([1.0, 3.0], [1.0, 1.0], ["a", "b"])[0] == 0.5


def test_nothing_before_stays_finite() -> None:
    value, interval = ratio_of_means([0.0, 0.0], [0.0, 0.0], ["a", "b"])
    assert value == 0.0 and all(np.isfinite(interval))


def test_a_group_is_drawn_as_a_whole() -> None:
    before, after = [1.0] * 8, [0.0, 2.0] * 4
    by_pair = ratio_of_means(before, after, ["a", "a", "b", "b", "c", "c", "d", "d"])[1]
    by_image = ratio_of_means(before, after, list("abcdefgh"))[1]
    assert by_pair == (pytest.approx(1.0), pytest.approx(1.0))
    assert by_image[0] < 0.75 < 1.25 < by_image[1]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        after = rng.normal(0.2, 1.0, 40)
        low, high = mean_difference(np.zeros(40), after, [str(i) for i in range(40)], seed=trial)[1]
        hits += low <= 0.2 <= high
    assert 0.86 <= hits / 100 <= 0.99
