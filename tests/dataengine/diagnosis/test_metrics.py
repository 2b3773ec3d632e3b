from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import mannwhitneyu

from dataengine.diagnosis.image_metrics import (
    ImageMetrics,
    artifact_frequency,
    covered_components,
    image_metrics,
    kl,
    kl1m,
    mse,
)
from dataengine.diagnosis.intervals import FIGURES, bootstrap_intervals
from dataengine.diagnosis.metrics import summarise
from dataengine.diagnosis.ranking import area_under_roc, average_precision, counts_by_score, levels_of
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


def test_components_count_when_a_quarter_of_them_is_covered() -> None:
    truth = np.zeros((6, 8))
    truth[0:2, 0:2] = truth[4:6, 0:4] = 1
    predicted = np.zeros((6, 8))
    predicted[0, 0] = predicted[4, 3] = predicted[0, 7] = 1
    assert covered_components(truth >= 0.5, predicted >= 0.5) == (1, 2)
    assert covered_components(predicted >= 0.5, truth >= 0.5) == (2, 3)
    assert covered_components(np.zeros((2, 2), bool), np.ones((2, 2), bool)) == (0, 0)
    diagonal = np.eye(3, dtype=bool)
    assert covered_components(diagonal, diagonal) == (1, 1)
    found = summarise([image_metrics(truth, predicted), image_metrics(np.zeros((6, 8)), np.zeros((6, 8)))])
    assert found.component_precision == pytest.approx(2 / 3) and found.component_recall == 0.5


def naive_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """From its definition: over thresholds from high to low, the gain in recall times the precision."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        precision, now = labels[chosen].mean(), labels[chosen].sum() / labels.sum()
        total, recall = total + (now - recall) * precision, now
    return total


@pytest.mark.parametrize("seed", range(5))
def test_ranking_figures_agree_with_their_definitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random(300) < 0.2
    scores = np.round((0.3 * labels + rng.random(300)) / 1.3 * 40) / 40
    inside, outside = levels_of(scores[labels]), levels_of(scores[~labels])
    assert float(average_precision(inside, outside)) == pytest.approx(naive_average_precision(labels, scores))
    above = scores[labels][:, None] - scores[~labels][None]
    expected = ((above > 0) + 0.5 * (above == 0)).mean()
    assert float(area_under_roc(inside, outside)) == pytest.approx(expected)
    assert np.isnan(average_precision(np.zeros(256), outside)) and np.isnan(
        area_under_roc(inside, outside * 0)
    )


def pair_count(flawed: np.ndarray, scores: np.ndarray) -> float:
    """AUROC from its definition, pair by pair: a win counts 1, a tie one half."""
    wins = sum(
        1.0 if high > low else 0.5 if high == low else 0.0
        for high in scores[flawed].tolist()
        for low in scores[~flawed].tolist()
    )
    return wins / (int(flawed.sum()) * int((~flawed).sum()))


def rows_of(scores: np.ndarray, flawed: np.ndarray) -> list[ImageMetrics]:
    """Images of one pixel with these maximums."""
    return [
        image_metrics(np.full((1, 1), float(truth)), np.full((1, 1), score))
        for score, truth in zip(scores, flawed, strict=True)
    ]


SCORES = {
    "distinct": lambda rng, flawed: 0.3 * flawed + 0.7 * rng.random(len(flawed)),
    "ties": lambda rng, flawed: np.round((flawed + 2 * rng.random(len(flawed))) / 3 * 8) / 8,
    "all in the highest level": lambda rng, flawed: 1 - 1e-3 * (1 - 0.2 * flawed) * rng.random(len(flawed)),
    "all in the lowest level": lambda rng, flawed: 1e-4 * (flawed + rng.random(len(flawed))),
    "many exactly 1": lambda rng, flawed: np.minimum(1.0, 0.6 + 0.3 * flawed + 0.4 * rng.random(len(flawed))),
    "constant": lambda rng, flawed: np.full(len(flawed), 0.7),
    "constant 0": lambda rng, flawed: np.zeros(len(flawed)),
}


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("seed", range(3))
def test_auroc_counts_pairs_of_images_by_their_exact_scores(kind: str, seed: int) -> None:
    rng = np.random.default_rng(10 + seed)  # another one than the bootstrap's
    flawed = rng.random(80) < (0.2, 0.5, 0.8)[seed]
    scores = SCORES[kind](rng, flawed)
    found = summarise(rows_of(scores, flawed))
    expected = pair_count(flawed, scores)
    assert found.auroc == pytest.approx(expected, abs=1e-12)
    low, high = found.intervals["auroc"]
    assert low <= expected <= high
    if kind.startswith("constant"):
        assert found.auroc == low == high == 0.5
    elif kind.startswith("all in"):
        assert abs(expected - 0.5) > 0.04 and (low, high) != (0.5, 0.5)


def test_auroc_is_mann_whitneys_u_over_the_pairs() -> None:
    """By SciPy's average ranks, as scikit-learn's."""
    rng = np.random.default_rng(5)
    flawed = rng.random(200) < 0.3
    for make in SCORES.values():
        scores = make(rng, flawed)
        u = mannwhitneyu(scores[flawed], scores[~flawed], method="asymptotic").statistic
        found = summarise(rows_of(scores, flawed)).auroc
        assert found == pytest.approx(u / (flawed.sum() * (~flawed).sum()), abs=1e-12)


def test_counts_by_score_add_up_equal_scores() -> None:
    weights = np.array([[1.0, 2.0, 4.0, 8.0], [0.0, 1.0, 0.0, 1.0]])
    assert counts_by_score(np.array([0.5, 0.1, 0.5, 0.9]), weights).tolist() == [[2, 5, 8], [1, 0, 1]]
    assert counts_by_score(np.array([0.3]), np.array([3.0])).tolist() == [3]


def test_a_perfect_detector_has_every_figure_at_its_best() -> None:
    flaw = np.zeros((8, 8))
    flaw[2:5, 2:5] = 1
    found = summarise([image_metrics(flaw, flaw), image_metrics(flaw * 0, flaw * 0)])
    best = (found.pixel_ap, found.auroc, found.iou, found.component_precision, found.component_recall)
    assert best == (1, 1, 1, 1, 1)
    clean = summarise([image_metrics(flaw * 0, flaw * 0)])
    assert (clean.pixel_ap, clean.auroc, clean.component_precision, clean.miss) == (None, None, None, None)


def test_classes_are_told_apart_where_the_label_map_is_known() -> None:
    label_map = np.zeros((4, 4), np.uint8)
    label_map[0], label_map[3, 0] = 1, 3
    target = (label_map > 0).astype(float)
    predicted = np.zeros((4, 4))
    predicted[0, :2] = 0.9
    classes = summarise([image_metrics(target, predicted, label_map=label_map)]).classes
    assert set(classes) == {"1", "3"}
    assert (classes["1"].pixels, classes["1"].recall, classes["1"].miss) == (4, 0.5, 0)
    assert (classes["3"].pixels, classes["3"].recall, classes["3"].miss) == (1, 0, 1)


def test_intervals_hold_the_figures_and_narrow_with_more_images() -> None:
    rng = np.random.default_rng(0)

    def rows(count: int) -> list:
        made = []
        for i in range(count):
            truth = np.zeros((8, 8))
            truth[:3, :3] = i % 2
            made.append(image_metrics(truth, np.clip(0.6 * truth + 0.5 * rng.random((8, 8)), 0, 1)))
        return made

    few, many = rows(20), rows(320)
    summary = summarise(many)
    assert set(summary.intervals) == set(FIGURES)
    for name, (low, high) in summary.intervals.items():
        value = getattr(summary, name)
        assert low - 1e-9 <= value <= high + 1e-9, name
    width = {name: high - low for name, (low, high) in bootstrap_intervals(few).items()}
    assert width["mse"] > 2 * (summary.intervals["mse"][1] - summary.intervals["mse"][0])
    assert bootstrap_intervals(few) == bootstrap_intervals(few)
    assert "mse_clean" not in bootstrap_intervals(few[1::2])
