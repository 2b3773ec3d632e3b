"""Raters who fail the attention checks, and corrected answers, over HTTP."""

import csv
import io
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from storage.workspace import Workspace
from tests.ui.study.test_routes import judge_all, opened, study_of

Clients = Callable[..., TestClient]
TWO = {"questions": ["artifacts"], "raters_a_pair": 2, "checks": 2}


def test_a_failed_rater_gives_the_place_back(client_of: Clients, workspace: Workspace) -> None:
    """Desks 5.1: two raters who answer at random no longer block a study for ever."""
    engineer = client_of("engineer")
    study = study_of(workspace, opened(engineer, design=TWO | {"raters_a_pair": 1}))
    url = f"/api/studies/{study.id}"
    assert judge_all(client_of("rater"), study, "rater", lambda pair, question: "before") == 6
    found = engineer.get(url).json()
    assert (found["complete"], found["share"], found["votes"], found["raters"]) == (0, 0.0, 4, 1)
    assert judge_all(client_of("admin"), study, "admin", lambda pair, question: "after") == 6
    found = engineer.get(url).json()
    assert (found["complete"], found["share"], found["votes"], found["raters"]) == (4, 1.0, 8, 2)
    assert found["results"]["questions"][0]["after"] == 4
    assert judge_all(engineer, study, "engineer", lambda pair, question: "after") == 0, "it has enough"


@pytest.mark.parametrize("raters", [("rater",), ("rater", "admin")])
def test_a_study_whose_raters_all_fail_says_so_first(
    client_of: Clients, workspace: Workspace, raters: tuple[str, ...]
) -> None:
    """Desks 5.2: results, page and CSV, say in words that votes were thrown out, and the study stays open."""
    engineer = client_of("engineer")
    study = study_of(workspace, opened(engineer, design=TWO))
    for rater in raters:
        client = client_of(rater)
        judge_all(client, study, rater, lambda pair, question: "before")
        told = client.get("/api/study").text
        assert "check" not in told and "left out" not in told, "no rater is told"
    found = engineer.get(f"/api/studies/{study.id}").json()
    text = found["results"]["left_out_text"]
    assert text.startswith(f"All {len(raters)} rater") and f"{4 * len(raters)} answers are stored" in text
    assert found["complete"] == 0 and found["results"]["questions"][0]["win_rate"] is None
    rows = list(csv.DictReader(io.StringIO(engineer.get(f"/api/studies/{study.id}/results.csv").text)))
    assert {row["left_out"] for row in rows} == {text}
    assert judge_all(engineer, study, "engineer", lambda pair, question: "after") == 6, "places are free"


def test_nothing_is_left_out_of_a_careful_study(client_of: Clients, workspace: Workspace) -> None:
    engineer = client_of("engineer")
    study = study_of(workspace, opened(engineer, design=TWO))
    judge_all(client_of("rater"), study, "rater", lambda pair, question: "after")
    found = engineer.get(f"/api/studies/{study.id}").json()
    assert found["results"]["left_out_text"] == "" and found["share"] == 0.5
