"""Promote: a better candidate passes, a regression is refused and written down."""

from typing import Any

import pytest

from pipelines.config import PromoteConfig
from pipelines.detectors.promotion import regressions
from pipelines.stages.promote import promote
from tests.pipelines.conftest import Played, play


def figures(mse: float, clean: float) -> dict[str, Any]:
    return {"validation": {"mse": mse, "kl": 0.0, "kl1m": 0.0}, "validation_real": {"mse": clean}}


@pytest.mark.parametrize(
    ("candidate", "objection"),
    [
        (figures(0.01, 0.001), None),
        (figures(0.02, 0.001), None),
        (figures(0.021, 0.001), "mse on validation is 0.02100"),
        (figures(0.01, 0.0012), "mse on real validation images is 0.00120"),
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
