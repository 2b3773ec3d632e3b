"""Promote: a better candidate passes, a regression is refused and written down."""

from typing import Any

import pytest

from dataengine.statistics import wilson
from pipelines.config import PromoteConfig
from pipelines.detectors.promotion import regressions, sentence, verdicts
from pipelines.stages.promote import STAGE, promote
from tests.pipelines.conftest import Played, play


def figures(mse: float, clean: float) -> dict[str, Any]:
    return {"validation": {"mse": mse, "kl": 0.0, "kl1m": 0.0}, "validation_real": {"mse": clean}}


@pytest.mark.parametrize(
    ("candidate", "objection"),
    [
        (figures(0.01, 0.001), None),
        (figures(0.02, 0.001), None),
        (figures(0.021, 0.001), "validation MSE 0.02100 exceeds the limit"),
        (figures(0.01, 0.0012), "MSE on real validation photos 0.00120 exceeds the limit"),
        ({}, "no validation image has a label"),
    ],
)
def test_the_gate(candidate: dict[str, Any], objection: str | None) -> None:
    found = regressions(PromoteConfig(real_slack=0.0), figures(0.02, 0.001), candidate)
    assert found == [] if objection is None else objection in found[0]


def test_tiny_errors_on_clean_pictures_are_forgiven() -> None:
    before, after = figures(0.02, 1e-6), figures(0.01, 5e-5)
    assert regressions(PromoteConfig(real_slack=1e-4), before, after) == []


def test_the_benchmark_has_no_say() -> None:
    after = {**figures(0.01, 0.001), "benchmark": {"mse": 9.0}}
    assert regressions(PromoteConfig(), {**figures(0.02, 0.001), "benchmark": {"mse": 0.0}}, after) == []


def test_the_better_candidate_is_champion(played: Played) -> None:
    with played.context.workspace.catalog(read_only=True) as catalog:
        champion = catalog.detectors.champion()
    assert champion is not None and champion.id == played.results["promote"]["champion"]
    assert champion.id == played.results["retrain"]["detector"]


def test_a_regression_is_refused_and_recorded(fresh: Any) -> None:
    context, round_id = fresh
    play(context, round_id, until="evaluate")
    with context.workspace.catalog() as catalog:
        candidate = catalog.rounds.get(round_id).results["retrain"]["detector"]
        measured = {
            "before": "first",
            "after": candidate,
            "champion": figures(0.01, 0.001),
            "candidate": figures(0.02, 0.001),
        }
        catalog.rounds.advance(round_id, "evaluate", measured, "promote")
        catalog.commit()
    answer = promote(context, round_id)
    assert (answer["promoted"], answer["champion"]) == (False, "first") and answer["reasons"]
    with context.workspace.catalog(read_only=True) as catalog:
        champion = catalog.detectors.champion()
        events = [event for event in catalog.audit.list() if event.action == "detector.promote.refused"]
    assert champion is not None and champion.id == "first"
    assert [event.subject for event in events] == [candidate]


def sighted(
    miss: float, false_alarm: float = 0.1, pixel_ap: float = 0.5, images: int = 200
) -> dict[str, Any]:
    """Better errors than `figures(0.02, …)`, with rates of `images` flawed and as many clean ones."""
    count = {"miss": round(miss * images), "false_alarm": round(false_alarm * images)}
    rates = {name: number / images for name, number in count.items()}
    intervals = {name: wilson(number, images) for name, number in count.items()}
    validation = figures(0.01, 0.001)["validation"] | {
        "pixel_ap": pixel_ap,
        "operating": {**rates, "intervals": intervals},
        "intervals": {"pixel_ap": (pixel_ap - 0.03, pixel_ap + 0.03)},
    }
    return {"validation": validation}


@pytest.mark.parametrize(
    ("candidate", "objection"),
    [
        (sighted(0.08), None),
        (sighted(0.11), None),
        (sighted(0.36), "misses 0.08 → 0.36"),
        (sighted(0.08, pixel_ap=0.4), "pixel AP 0.5 → 0.4"),
        (sighted(0.08, pixel_ap=0.49), None),
        (sighted(0.08, false_alarm=0.3), "false alarms 0.1 → 0.3"),
        (sighted(0.08, false_alarm=0.12), None),
        # An operating point trades one for the other.
        (sighted(0.0, false_alarm=0.3), None),
    ],
)
def test_squared_error_does_not_excuse_a_detector_that_went_blind(
    candidate: dict[str, Any], objection: str | None
) -> None:
    """Desks 4.2: misses rose from 30 to 60 %, and the gate said "Better on validation"."""
    found = regressions(PromoteConfig(), sighted(0.08), candidate)
    assert found == [] if objection is None else len(found) == 1 and objection in found[0]
    if objection:
        assert "95 % interval" in found[0] and "worse on validation" in found[0]


def test_the_paired_comparison_counts_where_there_is_one() -> None:
    change = {"before": 0.08, "after": 0.11, "interval": [0.01, 0.05], "verdict": "worse"}
    assert regressions(PromoteConfig(), sighted(0.08), sighted(0.11)) == []
    assert regressions(PromoteConfig(), sighted(0.08), sighted(0.11), {"miss": change})
    assert list(verdicts(sighted(0.08), sighted(0.11), {"miss": change})) == ["miss"]


@pytest.mark.parametrize(
    ("at_equal_alarms", "objects"),
    [("within noise", False), ("better", False), ("worse", True), (None, True)],
)
def test_more_false_alarms_count_unless_the_threshold_alone_makes_them(
    at_equal_alarms: str | None, objects: bool
) -> None:
    change = {"before": 0.1, "after": 0.3, "interval": [0.1, 0.3], "verdict": "worse"}
    compared = {"false_alarm": change}
    if at_equal_alarms:
        compared["miss_at_equal_alarms"] = change | {"verdict": at_equal_alarms}
    found = regressions(PromoteConfig(), sighted(0.08), sighted(0.08), compared)
    assert [text.split(" 0.1")[0] for text in found] == ["false alarms"] * objects


def test_every_figure_has_a_verdict_and_unmeasured_ones_have_none() -> None:
    found = verdicts(sighted(0.3, 0.3), sighted(0.1, 0.31))
    assert {name: one["verdict"] for name, one in found.items()} == {
        "miss": "better",
        "false_alarm": "within noise",
        "pixel_ap": "within noise",
    }
    assert verdicts(figures(0.02, 0.001), sighted(0.1)) == {}
    assert sentence("miss", found["miss"]).startswith("misses 0.3 → 0.1 (-0.2, 95 % interval -0.2")


def test_a_round_compares_on_the_same_images_and_shows_it(played: Played) -> None:
    compared = played.results["evaluate"]["comparison"]["validation"]
    assert {"mse", "kl", "kl1m", "miss", "false_alarm", "pixel_ap"} <= compared.keys()
    champion, candidate = (
        played.results["evaluate"][name]["validation"] for name in ("champion", "candidate")
    )
    for name, one in compared.items():
        if name in ("mse", "kl", "kl1m", "pixel_ap"):
            assert (one["before"], one["after"]) == pytest.approx((champion[name], candidate[name]))
        if name in ("miss", "false_alarm"):
            rates = champion["operating"][name], candidate["operating"][name]
            assert (one["before"], one["after"]) == pytest.approx(rates)
    shown = played.results["promote"]["verdicts"]
    assert shown == {name: one for name, one in compared.items() if name in shown} and "miss" in shown
    assert "misses" in STAGE.found(played.results["promote"])
    with played.context.workspace.catalog(read_only=True) as catalog:
        beside = catalog.detectors.get(played.results["retrain"]["detector"]).metrics["beside"]
    assert beside["detector"] == "first" and beside["comparison"]["validation"] == compared
