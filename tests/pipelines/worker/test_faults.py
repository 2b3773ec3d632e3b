"""Rounds in spite of silent stores, lost threads, crashes alike, wrong clocks and dead commands."""

import json
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from dataengine.errors import Conflict
from dataengine.records import STAGE_JOB, Job, Round
from pipelines.services import queue
from pipelines.services.rounds import resume_round, start_round
from pipelines.worker.running import ALIKE, RunningJobs
from storage.opening import create_workspace
from storage.workspace import BLOB_VARIABLE, Workspace
from tests import faulty_store
from tests.faults import (
    full_disk,
    locked_sqlite,
    paused_postgres,
    small_disk,
    stopped_postgres,
    why_no_disk,
)
from tests.pipelines import toys
from tests.pipelines.rig import REPOSITORY, TOYS, Crew, crew, until
from tests.services import database, postgres_cluster

STORING = ("tests.pipelines.toys:STORING", "tests.pipelines.toys:no_models")
CRASHING = ("tests.pipelines.toys:CRASHING", "tests.pipelines.toys:no_models")


def only_job(workspace: Workspace) -> Job:
    with workspace.catalog(read_only=True) as catalog:
        return catalog.jobs.list()[0]


@pytest.mark.parametrize("kind", ["silent", "refusing"])
def test_a_round_waits_for_its_blob_store_and_says_so(tmp_path: Path, kind: str) -> None:
    store = tmp_path / "store"
    environment = {BLOB_VARIABLE: faulty_store.url(store), "CLINIC_STORE_SECONDS": "0.5"}
    with crew(tmp_path / "w", "sqlite", **environment) as team:
        row = start_round(team.workspace, {}, stages=toys.STORING)
        team.start(STORING)
        until(lambda: only_job(team.workspace).progress > 0, 60, "the stage is under way")
        with faulty_store.fault(store, kind):
            waits = "waiting for the blob store, attempt "
            until(lambda: only_job(team.workspace).message.startswith(waits), 60, "the page says so")
        until(lambda: team.round_is(row.id, "done", "failed"), 60, "it goes on by itself")
        assert team.round_is(row.id, "done")
        assert only_job(team.workspace).id == f"{row.id}.store.1", "nobody resumed it"


def only_attempt(team: Crew, fault: AbstractContextManager[None]) -> Job:
    """The job of a round that met the fault for six seconds, more than a lease, and ended by itself."""
    row = start_round(team.workspace, {}, stages=toys.STORING)
    team.start(STORING)
    until(lambda: only_job(team.workspace).progress > 0, 60, "the stage is under way")
    with fault:
        time.sleep(6)

    def over() -> bool:
        team.keep_one(STORING)
        return team.round_is(row.id, "done", "failed")

    until(over, 90, "it goes on by itself")
    assert team.round_is(row.id, "done")
    return only_job(team.workspace)


def test_a_full_disk_passes_by_itself(tmp_path: Path) -> None:
    if reason := why_no_disk():
        pytest.skip(reason)
    with small_disk(tmp_path / "disk", mib=32) as disk, crew(disk / "w", "sqlite") as team:
        assert only_attempt(team, full_disk(disk)).id.endswith(".store.1")


def test_a_database_that_another_holds_passes_by_itself(tmp_path: Path) -> None:
    with crew(tmp_path / "w", "sqlite") as team:
        path = team.workspace.path
        fault = locked_sqlite(path / "catalog.sqlite", path / "jobs.sqlite")
        assert only_attempt(team, fault).id.endswith(".store.1")


@pytest.mark.postgres
@pytest.mark.parametrize("fault", [stopped_postgres, paused_postgres])
def test_a_postgresql_server_that_is_away_passes_by_itself(
    tmp_path: Path, fault: Callable[[str], AbstractContextManager[None]]
) -> None:
    with postgres_cluster() as server, database(server) as url, crew(tmp_path / "w", url) as team:
        assert only_attempt(team, fault(server)).id.endswith(".store.1")


def test_a_store_that_stays_away_fails_the_round_with_the_cause(tmp_path: Path) -> None:
    store = tmp_path / "store"
    limits = {"CLINIC_STORE_SECONDS": "0.3", "CLINIC_RETRY_SECONDS": "1"}
    with crew(tmp_path / "w", "sqlite", **{BLOB_VARIABLE: faulty_store.url(store)}, **limits) as team:
        row = start_round(team.workspace, {}, stages=toys.STORING)
        team.start(STORING)
        until(lambda: only_job(team.workspace).progress > 0, 60, "the stage is under way")
        with faulty_store.fault(store, "silent"):
            until(lambda: team.round_is(row.id, "failed"), 60, "it gives up")
        assert "has not answered" in only_job(team.workspace).error
        resume_round(team.workspace, row.id, stages=toys.STORING)
        until(lambda: team.round_is(row.id, "done"), 60, "and can be resumed")


def test_a_workflow_without_a_thread_is_found_and_started_again(tmp_path: Path) -> None:
    """As a full disk leaves it: the engine says that this living worker runs it, and nobody does."""
    with crew(tmp_path, "sqlite") as team:
        (tmp_path / "people-are-done").touch()
        team.start(TOYS)
        until(lambda: "takes jobs" in team.log(), 60, "the worker lives")
        (worker,) = queue.workers_alive(team.workspace)
        plant_lost(tmp_path / "jobs.sqlite", "r.draw.1", worker.id)
        with team.workspace.catalog() as catalog:
            catalog.rounds.add(Round(id="r", recipe={}, stage="draw"))
            catalog.jobs.add(Job(id="r.draw.1", kind=STAGE_JOB, args={"round_id": "r", "stage": "draw"}))
            assert catalog.jobs.claim("r.draw.1", worker.id)
            catalog.commit()
        until(lambda: team.round_is("r", "done"), 60, "the round does not stay at 0 %")
        assert "has no thread any more" in team.log()
        begun = Counter((id, what) for id, _, what in toys.traces(tmp_path))
        assert set(begun.values()) == {1}, "nothing was done twice"


def plant_lost(jobs: Path, job_id: str, worker: str) -> None:
    """A row of the queue that this worker is said to run."""
    inputs = json.dumps({"positionalArgs": [job_id], "namedArgs": {}})
    with sqlite3.connect(jobs, timeout=30) as raw:
        (version,) = raw.execute("SELECT version_name FROM application_versions").fetchone()
        raw.execute(
            "INSERT INTO workflow_status (workflow_uuid, status, name, queue_name, inputs, serialization, "
            "created_at, updated_at, priority, recovery_attempts, application_name, executor_id, "
            "application_version, owner_xid) VALUES (?, 'PENDING', 'job', 'jobs', ?, 'portable_json', "
            "1, 1, 0, 0, 'artifact-clinic', ?, ?, 'nobody')",
            (job_id, inputs, worker, version),
        )


def test_what_crashes_in_the_same_way_is_given_up_and_can_be_resumed(tmp_path: Path) -> None:
    with crew(tmp_path, "sqlite") as team:
        row = start_round(team.workspace, {}, stages=toys.CRASHING)
        team.start(CRASHING)
        until(lambda: team.round_is(row.id, "failed"), 120, "it is given up")
        assert len(toys.traces(tmp_path)) == ALIKE
        error = only_job(team.workspace).error
        assert f"failed the same way {ALIKE} times" in error and "signal 9" in error and "resume" in error
        (tmp_path / "mended").touch()
        resume_round(team.workspace, row.id, stages=toys.CRASHING)
        until(lambda: team.round_is(row.id, "done"), 120, "the resumed round ends")


def test_a_restarted_worker_goes_on_counting(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path)
    with workspace.catalog() as catalog:
        catalog.jobs.add(Job(id="j", kind="stage"))
        catalog.commit()
    reasons = [
        RunningJobs(workspace, f"w{number}", "cpu").fails_alike("j", "dead", 0.1) for number in range(ALIKE)
    ]
    assert reasons[:-1] == [""] * (ALIKE - 1) and reasons[-1].startswith(
        f"failed the same way {ALIKE} times: dead"
    )


def test_wrong_clocks_adopt_nothing(tmp_path: Path) -> None:
    with crew(tmp_path, "sqlite") as team:
        (tmp_path / "people-are-done").touch()
        for skew in ("-300", "0", "30"):
            team.start(TOYS, CLINIC_TEST_SKEW=skew)
        until(lambda: team.log().count(" takes jobs ") == 3, 120, "all workers take jobs")
        assert len(queue.workers_alive(team.workspace)) == 3
        rounds = [start_round(team.workspace, {}, stages=toys.STAGES).id for _ in range(3)]
        until(lambda: all(team.round_is(id, "done", "failed") for id in rounds), 240, "all rounds end")
        assert all(team.round_is(id, "done") for id in rounds)
        begun = Counter((id, what) for id, _, what in toys.traces(tmp_path))
        assert set(begun.values()) == {1} and len(begun) == 3 * 6
        assert "adopting" not in team.log() and "restarted" not in team.log()


def test_an_outage_makes_nobody_look_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: moment)
    monkeypatch.setenv("CLINIC_LEASE_SECONDS", "10")
    running = RunningJobs(create_workspace(tmp_path), "w", "cpu")
    running.beat()
    assert running.trusts_leases()
    moment += 20
    assert not running.trusts_leases(), "our own heartbeats failed as well"
    running.beat()
    for _ in range(10):
        assert not running.trusts_leases(), "the others have not had the time of a lease yet"
        moment += 1
        running.beat()
    moment += 0.1
    assert running.trusts_leases()


HOLD = """
import sys
from pipelines.runtime.shards import run_sequentially
from pipelines.worker.local_runner import LocalRunner
from storage.opening import open_workspace
from tests.pipelines import toys

runner = LocalRunner(workspace=open_workspace(sys.argv[1]), models=toys.no_models("cpu"),
    report=lambda *a, **k: None, stages=toys.SLEEPY, run_shards=run_sequentially)
runner.advance(sys.argv[2])
"""


def test_a_round_whose_local_command_was_killed_is_resumed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLINIC_LEASE_SECONDS", "600")
    workspace = create_workspace(tmp_path)
    row = start_round(workspace, {}, stages=toys.SLEEPY)
    command = [sys.executable, "-c", HOLD, str(tmp_path), row.id]
    with subprocess.Popen(command, cwd=REPOSITORY) as holder:
        until(lambda: (tmp_path / "pids").exists(), 60, "the stage is under way")
        with pytest.raises(Conflict, match="is running"):
            resume_round(workspace, row.id, stages=toys.SLEEPY)
        holder.kill()
        holder.wait()
    again = resume_round(workspace, row.id, stages=toys.SLEEPY)
    assert again.id == f"{row.id}.sleep.2" and again.state == "queued"
    with workspace.catalog(read_only=True) as catalog:
        assert "died" in catalog.jobs.get(f"{row.id}.sleep.1").error
    subprocess.run(["kill", (tmp_path / "pids").read_text().split()[1]], check=True)


def test_a_round_whose_holder_elsewhere_is_silent_is_resumed_after_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLINIC_LEASE_SECONDS", "0.5")
    workspace = create_workspace(tmp_path)
    row = start_round(workspace, {}, stages=toys.SLEEPY)
    with workspace.catalog() as catalog:
        assert catalog.jobs.claim(f"{row.id}.sleep.1", "elsewhere-here-1")
        catalog.commit()
    with pytest.raises(Conflict, match="is running"):
        resume_round(workspace, row.id, stages=toys.SLEEPY)

    def resumed() -> bool:
        try:
            resume_round(workspace, row.id, stages=toys.SLEEPY)
        except Conflict:
            return False
        return True

    until(resumed, 10, "the lease ends")
