"""Findings: figures against their goals, galleries, and the report's data; with a judge who sees redness."""

import json
from typing import Any

import numpy as np
import pytest

from pipelines.demo import results
from pipelines.demo.figures import Figure, sight_figures
from pipelines.demo.report import render_page
from tests.fakes import TinyDetector
from tests.pipelines.conftest import Played

SIGHT = {
    "miss_before",
    "miss_after",
    "miss_after_minus_before",
    "pixel_ap_gain",
    "miss_before_at_half",
    "miss_after_at_half",
    "miss_after_minus_before_at_half",
}
"""What the detector misses; the fakes' benchmark holds neither clean images nor unreasonable content."""
MARKS = {"mended": (True, False), "still": (True, True), "broken": (False, True), "intact": (False, False)}


def judge(images: np.ndarray) -> np.ndarray:
    return np.stack([TinyDetector(0.6).find_artifacts(image) for image in images])


def by_id(figures: list[Figure]) -> dict[str, Figure]:
    return {figure.id: figure for figure in figures}


def test_every_figure_of_the_issue_is_there_with_its_goal(played: Played) -> None:
    evidence = results.judge_pairs(played.context, played.round_id, judge)
    found = by_id(results.figures(played.context, played.round_id, evidence, ("hand", "face"), "first"))
    assert set(found) == {
        "mse_ratio",
        "kl1m_ratio",
        "mse_clean_ratio",
        "hard_categories_exact",
        "mean_conf_ratio",
        "true_freq_ratio",
        "detail_ratio",
        "diversity_ratio",
        "attribute_drop",
        *SIGHT,
    }
    assert found["hard_categories_exact"].value is True
    assert found["mse_clean_ratio"].value < 1, "the fakes' new detector has fewer false alarms"
    true = found["true_freq_ratio"]
    assert true.met and true.interval is not None and true.interval[1] < 1


def test_misses_are_those_of_the_benchmark(played: Played) -> None:
    measured = played.results["evaluate"]["candidate"]["benchmark"]
    found = by_id(results.figures(played.context, played.round_id, None, ("hand",), "first"))
    for point, ending in (("operating", ""), ("at_half", "_at_half")):
        assert found[f"miss_after{ending}"].value == measured[point]["miss"]
        assert found[f"miss_after{ending}"].n == measured[point]["flawed"]
    change = found["miss_after"].value - found["miss_before"].value
    assert found["miss_after_minus_before"].value == pytest.approx(change)


def benchmark_with(miss: float, false_alarm: float, unreasonable: float, pixel_ap: float) -> dict[str, Any]:
    at = {
        "miss": miss,
        "false_alarm": false_alarm,
        "flawed": 50,
        "clean": 100,
        "classes": {"2": {"miss": unreasonable, "components": 20, "interval": [0.0, 1.0]}},
        "intervals": {"miss": [miss - 0.1, miss + 0.1], "false_alarm": [0.0, 1.0]},
    }
    intervals = {"pixel_ap": [pixel_ap - 0.05, pixel_ap + 0.05]}
    figures = {"operating": at, "at_half": at, "images": 150, "pixel_ap": pixel_ap, "intervals": intervals}
    return {"benchmark": figures}


@pytest.mark.parametrize(
    ("before", "after", "missed"),
    [
        ((0.1, 0.5, 0.3, 0.3), (0.12, 0.08, 0.3, 0.6), set()),
        ((0.2, 0.5, 0.3, 0.3), (0.13, 0.08, 0.3, 0.6), {"miss_after"}),
        ((0.05, 0.5, 0.3, 0.3), (0.1, 0.08, 0.3, 0.6), {"miss_after_minus_before"}),
        ((0.1, 0.5, 0.3, 0.3), (0.1, 0.09, 0.31, 0.5), {"false_alarm_after", "miss_unreasonable_after"}),
    ],
)
def test_a_detector_that_went_quiet_misses_its_goals(
    before: tuple[float, ...], after: tuple[float, ...], missed: set[str]
) -> None:
    evaluated = {"champion": benchmark_with(*before), "candidate": benchmark_with(*after)}
    found = by_id(sight_figures(evaluated, promoted=True))
    wrong = {id for id, figure in found.items() if figure.met is False}
    gain = {"pixel_ap_gain"} if after[3] - before[3] < 0.3 - 1e-9 else set()
    assert wrong == missed | {f"{id}_at_half" for id in missed} | gain
    assert found["miss_before"].met is None and found["miss_before"].value == before[0]
    low, high = found["miss_after_minus_before"].interval or (0.0, 0.0)
    assert low < after[0] - before[0] < high


def test_a_refused_candidate_changes_nothing() -> None:
    evaluated = {"champion": benchmark_with(0.1, 0.2, 0.3, 0.4), "candidate": benchmark_with(0, 0, 0, 1)}
    found = by_id(sight_figures(evaluated, promoted=False))
    assert (found["miss_after"].value, found["false_alarm_after"].value) == (0.1, 0.2)
    assert found["miss_after_minus_before"].value == found["pixel_ap_gain"].value == 0


def test_the_true_frequency_is_the_judges(played: Played) -> None:
    evidence = results.judge_pairs(played.context, played.round_id, judge)
    assert evidence is not None
    before = np.mean(evidence.before.max((1, 2)) >= 0.5)
    after = np.mean(evidence.after.max((1, 2)) >= 0.5)
    found = by_id(results.treatment_figures(played.results["judge"], evidence))
    assert found["true_freq_ratio"].value == pytest.approx(after / before)


def test_a_wrong_category_is_told(played: Played) -> None:
    found = by_id(results.figures(played.context, played.round_id, None, ("hand",), "first"))
    assert found["hard_categories_exact"].met is False
    assert "true_freq_ratio" not in found


@pytest.mark.parametrize(
    ("ratio", "interval", "met"),
    [(0.4, (0.3, 0.6), True), (0.6, (0.45, 0.8), False), (0.6, (0.55, 0.8), False)],
)
def test_the_value_decides_whether_a_goal_is_met(
    ratio: float, interval: tuple[float, float], met: bool
) -> None:
    found = {"ratio": ratio, "interval": list(interval), "before": 1.0, "after": ratio}
    assert results._within("id", "title", found, (0.0, 0.5), "≤ 0.5", 9).met is met


def test_the_report_is_plain_json_and_makes_a_page(played: Played) -> None:
    evidence = results.judge_pairs(played.context, played.round_id, judge)
    figures = results.figures(played.context, played.round_id, evidence, ("hand", "face"), "first")
    data = results.report_data(played.context, played.round_id, figures, {"generate": 1.5}, 61.0)
    assert json.loads(json.dumps(data))["stages"][0]["seconds"] == 1.5
    galleries = results.galleries(played.context, played.round_id, evidence, "first")
    assert {"labels", "mended"} <= {gallery.name for gallery in galleries}
    html = render_page({**data, "made_with": []}, galleries)
    assert "1 min 1 s" in html and "mse_ratio" in html


def test_pairs_are_sorted_by_what_the_judge_saw(played: Played) -> None:
    evidence = results.judge_pairs(played.context, played.round_id, judge)
    assert evidence is not None
    for gallery in results.galleries(played.context, played.round_id, evidence, "first"):
        if gallery.name in MARKS:
            wanted = {
                "mended": (True, False),
                "still": (True, True),
                "broken": (False, True),
                "intact": (False, False),
            }
            assert all((row[0].marked, row[1].marked) == wanted[gallery.name] for row in gallery.rows)
