"""Findings: figures against their goals, galleries, and the report's data; with a judge who sees redness."""

import json

import numpy as np
import pytest

from pipelines.demo import results
from pipelines.demo.report import render_page
from pipelines.demo.results import Figure
from tests.fakes import TinyDetector
from tests.pipelines.conftest import Played

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
    }
    assert found["hard_categories_exact"].value is True
    assert found["mse_clean_ratio"].value < 1, "the fakes' new detector has fewer false alarms"
    true = found["true_freq_ratio"]
    assert true.met and true.interval is not None and true.interval[1] < 1


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
