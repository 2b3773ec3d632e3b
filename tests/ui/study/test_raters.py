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


def test_a_margin_that_no_pair_can_reach_is_refused(client_of: Clients) -> None:
    """Desks 5.5."""
    engineer = client_of("engineer")
    for raters, margin in ((2, 3), (1, 2), (11, 12)):
        design = {"questions": ["artifacts"], "raters_a_pair": raters, "margin": margin}
        wanted = {"name": "n", "before": "base", "after": "treated", "design": design}
        refused = engineer.post("/api/studies", json=wanted)
        assert refused.status_code == 422 and f"lower the margin to {raters} or less" in refused.text


def test_a_margin_that_nobody_set_follows_the_raters(client_of: Clients, workspace: Workspace) -> None:
    """Desks 5.5: the default of three votes is lowered where only two people judge a pair."""
    assert study_of(workspace, opened(client_of("engineer"), design=TWO)).design["margin"] == 2


def test_an_earlier_answer_can_be_corrected(client_of: Clients, workspace: Workspace) -> None:
    """Desks 5.4: a rater goes back to judged pairs; the new answer counts, the audit keeps the old one."""
    rater = client_of("rater")
    study = study_of(workspace, opened(client_of("engineer"), design=TWO | {"checks": 0}))
    judge_all(rater, study, "rater", lambda pair, question: "before")
    url = f"/api/study/{study.id}"
    tasks = rater.get(f"{url}/judged").json()["tasks"]
    assert len(tasks) == len(set(tasks)) == 4
    again = rater.get(f"{url}/judged/{tasks[0]}").json()
    said = again["answers"]["artifacts"]
    other = {"left": "right", "right": "left"}[said]
    body = {"task": tasks[0], "answers": {"artifacts": other}, "seconds": 3.0}
    assert rater.post(f"{url}/answer", json=body).json() == {"new": 0}, "sent twice is no correction"
    assert rater.post(f"{url}/answer", json=body | {"corrects": True}).json() == {"new": 1}
    assert rater.post(f"{url}/answer", json=body | {"corrects": True}).json() == {"new": 0}
    assert rater.get(f"{url}/judged/{tasks[0]}").json()["answers"] == {"artifacts": other}
    with workspace.catalog(read_only=True) as catalog:
        votes = catalog.votes.of_study(study.id)
        (event,) = [one for one in catalog.audit.list() if one.action == "study.correct"]
    assert sorted(vote.choice for vote in votes) == ["after", "before", "before", "before"]
    assert event.details["replaced"] == {"artifacts": "before"}
    assert event.details["said_at"] < max(vote.created for vote in votes)


def test_only_own_judged_pairs_can_be_opened_again(client_of: Clients, workspace: Workspace) -> None:
    rater, admin = client_of("rater"), client_of("admin")
    study = study_of(workspace, opened(client_of("engineer"), design=TWO | {"checks": 0}))
    url = f"/api/study/{study.id}/judged"
    waiting = rater.get(f"/api/study/{study.id}/next").json()["task"]
    judge_all(admin, study, "admin", lambda pair, question: "tie")
    theirs = admin.get(url).json()["tasks"][0]
    for task in (waiting, theirs, "x" * 10_000, "0" * 32):
        assert rater.get(f"{url}/{task}").status_code == 404
    client_of("engineer").post(f"/api/studies/{study.id}/close", json={})
    assert admin.get(f"{url}/{theirs}").status_code == 409, "a closed study is settled"
