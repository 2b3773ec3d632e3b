from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dataengine.diagnosis.metrics import artifact_frequency, image_metrics, iou, kl, kl1m, mse, summarise
from dataengine.errors import InputRefused

P = np.array([[1.0, 0.0], [0.5, 0.0]])
Q = np.array([[0.8, 0.2], [0.25, 0.0]])


def test_the_three_figures_of_table_1_by_hand() -> None:
    assert mse(P, Q) == pytest.approx((0.04 + 0.04 + 0.0625 + 0) / 4)
    assert kl(P, Q) == pytest.approx((log(1 / 0.8) + 0 + 0.5 * log(0.5 / 0.25) + 0) / 4)
    one_minus = [0.0, log(1 / 0.8), 0.5 * log(0.5 / 0.75), log(1 / (1 - 1e-6))]
    assert kl1m(P, Q) == pytest.approx(sum(one_minus) / 4)


def test_certain_mistakes_are_finite_through_the_clamp() -> None:
    missed, alarm = np.ones((2, 2)), np.zeros((2, 2))
    assert kl(missed, alarm) == pytest.approx(log(1e6))
    assert kl1m(alarm, missed) == pytest.approx(log(1e6))
    assert kl(alarm, missed) == 0
    assert kl1m(missed, alarm) == 0


def test_misses_and_false_alarms_fall_into_different_figures() -> None:
    truth = np.array([[1.0, 0.0]])
    miss, alarm = np.array([[0.1, 0.0]]), np.array([[1.0, 0.9]])
    assert kl(truth, miss) > 1 and kl1m(truth, miss) < 1e-5
    assert kl1m(truth, alarm) > 1 and kl(truth, alarm) < 1e-5


@given(arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)))
def test_a_perfect_prediction_costs_nothing(p: np.ndarray) -> None:
    assert mse(p, p) == 0
    assert abs(kl(p, p)) < 1e-5
    assert abs(kl1m(p, p)) < 1e-5
    assert iou(p, p) == 1


def test_intersection_over_union_by_hand() -> None:
    assert iou(np.array([[1, 1, 0, 0]]), np.array([[0, 0.5, 0.9, 0.49]])) == pytest.approx(1 / 3)
    assert iou(np.zeros((2, 2)), np.zeros((2, 2))) == 1
    assert iou(np.zeros((2, 2)), np.ones((2, 2))) == 0


def test_frequency_counts_from_one_half() -> None:
    assert artifact_frequency([0.5, 0.49, 0.9, 0.0]) == 0.5
    with pytest.raises(InputRefused):
        artifact_frequency([])


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (np.zeros((2, 2)), np.zeros((2, 3))),
        (np.zeros((0, 2)), np.zeros((0, 2))),
        (np.full((1, 1), np.nan), np.zeros((1, 1))),
        (np.zeros((1, 1)), np.full((1, 1), 1.5)),
    ],
)
def test_what_is_no_pair_of_maps_is_refused(p: np.ndarray, q: np.ndarray) -> None:
    with pytest.raises(InputRefused):
        mse(p, q)


def test_rates_per_category_by_hand() -> None:
    flaw, quiet, loud = np.array([[1.0, 0.0]]), np.array([[0.1, 0.1]]), np.array([[0.9, 0.1]])
    beside = np.array([[0.1, 0.9]])
    clean = np.zeros((1, 2))
    rows = [
        image_metrics(flaw, loud, "hand"),
        image_metrics(flaw, quiet, "hand"),
        image_metrics(flaw, beside, "hand"),
        image_metrics(clean, loud, "hand"),
        image_metrics(clean, quiet, "tree"),
        image_metrics(clean, quiet, "tree"),
    ]
    found = summarise(rows)
    assert found.categories["hand"].miss == pytest.approx(2 / 3)
    assert found.categories["hand"].false_alarm == 1
    assert found.categories["tree"].false_alarm == 0
    assert found.categories["tree"].miss is None
    assert (found.categories["hand"].images, found.categories["hand"].clean) == (4, 1)
    assert found.false_alarm == pytest.approx(1 / 3)
    assert found.frequency == pytest.approx(3 / 6)
    assert found.iou == pytest.approx((1 + 0 + 0 + 0) / (1 + 1 + 2 + 1))
    assert found.mse == pytest.approx(np.mean([row.mse for row in rows]))
    assert found.mse_clean == pytest.approx(((0.81 + 0.01) / 2 + 0.01 + 0.01) / 3)
    assert rows[2].alarm and not rows[2].hit


def test_metrics_of_nothing_are_refused() -> None:
    with pytest.raises(InputRefused):
        summarise([])
