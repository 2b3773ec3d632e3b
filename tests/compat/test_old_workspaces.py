"""Workspaces that commit 8f1fbce left: opened, shown, and finished by today's code with a real worker."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import app
from pipelines.round import ROUND
from storage.opening import open_workspace
from storage.workspace import Workspace
from tests.compat.surface import KEEPER, ORIGIN, PASSWORD, keys_of
from tests.compat.workspaces import restore
from tests.pipelines.rig import crew, until
from tests.ui.world import REAL
from ui.server import create_app

ANSWERS = json.loads(Path(__file__).with_name("answers.json").read_text())
DESKS = ("annotate", "curate", "train", "treat", "study", "rounds")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    workspace = open_workspace(restore("finished", tmp_path_factory.mktemp("old") / "finished"))
    yield workspace
    workspace.close()


@pytest.fixture(scope="module")
def client(finished: Workspace) -> TestClient:
    """Signed in with the account that the older commit made."""
    client = TestClient(create_app(finished), base_url=ORIGIN)
    answer = client.post("/api/login", json={"name": KEEPER, "password": PASSWORD})
    assert answer.status_code == 200
    return client


@pytest.mark.parametrize("url", ANSWERS)
def test_what_answered_still_answers_with_the_same_keys(client: TestClient, url: str) -> None:
    answer = client.get(url)
    assert answer.status_code == 200, answer.text
    if ANSWERS[url]:
        assert not set(ANSWERS[url]) - keys_of(answer.json())


def test_every_desk_is_among_them() -> None:
    assert all(any(url.startswith(f"/api/{desk}") and ANSWERS[url] for url in ANSWERS) for desk in DESKS)


def test_the_command_line_shows_the_finished_round(
    finished: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["--workspace", str(finished.path), "--json", "status"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in told["rounds"]] == ["done"]


def test_a_round_that_the_old_version_had_begun_is_finished_by_this_one(tmp_path: Path) -> None:
    path = restore("stopped", tmp_path / "stopped")
    with crew(path, "sqlite") as team:
        with team.workspace.catalog(read_only=True) as catalog:
            row = catalog.rounds.list()[0]
            begun = [job.args["stage"] for job in catalog.jobs.list(states=["running"])]
        assert begun == [row.stage] == ["train_teacher"]
        team.start(REAL)
        until(lambda: team.round_is(row.id, "done", "failed"), 200, "the round ends")
        with team.workspace.catalog(read_only=True) as catalog:
            ended = catalog.rounds.get(row.id)
        assert ended.state == "done", ended.message
        assert set(ended.results) == {stage.name for stage in ROUND}
        assert "is restarted: it was started by version 0.1.0" in team.log()


def test_jobs_that_the_old_version_had_queued_are_done_by_this_one(tmp_path: Path) -> None:
    """They draw with the old LoRA, train on from the old champion, treat the old generator."""
    path = restore("finished", tmp_path / "finished")
    with crew(path, "sqlite") as team:
        with team.workspace.catalog(read_only=True) as catalog:
            queued = {job.id: job.kind for job in catalog.jobs.list(states=["queued"])}
        assert len(queued) == 6
        team.start(REAL)

        def ended() -> bool:
            with team.workspace.catalog(read_only=True) as catalog:
                return not catalog.jobs.list(states=["queued", "running"])

        until(ended, 200, "all jobs end")
        with team.workspace.catalog(read_only=True) as catalog:
            jobs = [catalog.jobs.get(id) for id in queued]
        assert {job.kind: job.error for job in jobs if job.state != "succeeded"} == {}
