"""Shared statistics against textbook values and plain loops."""

import numpy as np
import pytest

from dataengine.statistics import (
    adjusted,
    benjamini_hochberg,
    bootstrap_weights,
    difference_interval,
    holm,
    levels,
    percentile_interval,
    sign_test,
    verdict_of,
    wilson,
)


def test_sign_test() -> None:
    assert sign_test(9, 1) == pytest.approx(22 / 1024)
    assert sign_test(5, 5) == 1.0 and sign_test(0, 0) == 1.0
    assert sign_test(10, 0) == pytest.approx(2 / 1024)


def test_wilson() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4) and wilson(0, 0) == (0.0, 1.0)
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_the_difference_of_two_proportions_as_newcombe_prints_it() -> None:
    first, second = wilson(48, 80), wilson(56, 70)
    found = difference_interval(48 / 80, first, 56 / 70, second)
    assert found == pytest.approx((0.0524, 0.3339), abs=1e-4)
    back = difference_interval(56 / 70, second, 48 / 80, first)
    assert back == pytest.approx((-found[1], -found[0]))


def test_a_verdict_needs_an_interval_without_0_and_the_better_side() -> None:
    assert verdict_of((0.1, 0.2)) == "worse" and verdict_of((0.1, 0.2), lower_is_better=False) == "better"
    assert verdict_of((-0.2, -0.1)) == "better" and verdict_of((-0.2, -0.1), False) == "worse"
    assert {verdict_of(change) for change in ((-0.1, 0.0), (0.0, 0.1), (0.0, 0.0), (-1, 1))} == {
        "within noise"
    }


def test_every_resample_draws_as_many_units_as_there_are() -> None:
    weights = bootstrap_weights(7, draws=300, seed=1)
    assert weights.shape == (300, 7) and (weights.sum(1) == 7).all()
    assert np.array_equal(weights, bootstrap_weights(7, draws=300, seed=1))
    assert not np.array_equal(weights, bootstrap_weights(7, draws=300, seed=2))


def test_equal_units_may_be_counted_instead_of_listed() -> None:
    counts, values = np.array([30, 10, 0]), np.array([0.0, 1.0, 5.0])
    together = bootstrap_weights(counts, seed=0) @ values / 40
    single = bootstrap_weights(40, seed=1) @ np.repeat(values, counts) / 40
    assert together.mean() == pytest.approx(0.25, abs=0.01)
    assert together.std() == pytest.approx(single.std(), rel=0.1)
    assert together.std() == pytest.approx(np.sqrt(0.25 * 0.75 / 40), rel=0.1)


def test_the_middle_of_the_replicates() -> None:
    assert percentile_interval(np.arange(1001)) == pytest.approx((25, 975))


P = {"a": 0.01, "b": 0.04, "c": 0.03}


def test_holm_steps_down() -> None:
    assert holm(P) == {"a": pytest.approx(0.03), "c": pytest.approx(0.06), "b": pytest.approx(0.06)}


def test_benjamini_hochberg_by_hand() -> None:
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert benjamini_hochberg([]) == []


@pytest.mark.parametrize("correction", ["none", "holm", "benjamini-hochberg"])
def test_raw_values_against_levels_and_adjusted_ones_against_one_level_agree(correction: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = dict(zip("abcdef", (rng.random(6) ** 3).tolist(), strict=True))
        held_against = levels(p, 0.05, correction)  # type: ignore[arg-type]
        called = {name for name, value in adjusted(p, correction).items() if value <= 0.05}  # type: ignore[arg-type]
        assert called == {name for name, value in p.items() if value <= held_against[name]}
    assert levels({}, 0.05, correction) == {}  # type: ignore[arg-type]
