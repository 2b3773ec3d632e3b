"""Workers killed, doubled, upgraded and lied to: nothing is lost, nothing doubled, no process left."""

import base64
import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import pytest

from dataengine.errors import Conflict
from dataengine.records import Job
from pipelines.services import queue, runs
from pipelines.services.jobs import cancel_job, pause_job, read_log, request_job
from pipelines.services.rounds import cancel_round, resume_round, start_round
from pipelines.worker.worker import WorkerSettings
from storage.opening import create_workspace
from storage.stores.job_files import METRICS
from storage.workspace import Workspace
from tests.pipelines import toys
from tests.pipelines.rig import REPOSITORY, SLEEPY, TOYS, Crew, alive, crew, until
from tests.services import database_url, postgres, postgres_url

__all__ = ["database_url", "postgres", "postgres_url"]

OLD = "0.1.0"
"""The version of every worker before formats of work were counted."""
UNDISTURBED = {"draw": {"images": 20}, "count": {"prompts": 20}, "ask": {"asked": 1}, "train": {"steps": 10}}


def results(workspace: Workspace, round_id: str) -> dict[str, object]:
    with workspace.catalog(read_only=True) as catalog:
        row = catalog.rounds.get(round_id)
        stored = [len(catalog.prompts.of_round(round_id, purpose)) for purpose in ("survey", "hard")]
        unfinished = [job for job in catalog.jobs.list() if job.state not in ("succeeded", "failed")]
    assert (row.state, row.stage) == ("done", "done")
    assert stored == [20, 10] and not unfinished
    return row.results


def test_a_worker_killed_inside_every_stage_loses_nothing(tmp_path: Path) -> None:
    fails = {
        "CLINIC_FAIL_AT": "survey:half,count:start,ask:looked,hard:half",
        "CLINIC_FAIL_DIR": str(tmp_path),
        "CLINIC_FAIL_VICTIM": "worker",
    }
    with crew(tmp_path / "w", "sqlite", **fails) as team:
        (team.workspace.path / "people-are-done").touch()
        row = start_round(team.workspace, {}, stages=toys.STAGES)
        until(
            lambda: (team.keep_one(TOYS), team.round_is(row.id, "done", "failed"))[1], 240, "the round ends"
        )
        assert results(team.workspace, row.id) == UNDISTURBED
        assert len(list(tmp_path.glob("*.*"))) == 4, "every fail point fired once"
        assert len(team.processes) == 5


def test_two_workers_never_run_one_job(tmp_path: Path, database_url: str) -> None:
    with crew(tmp_path, database_url, CLINIC_LEASE_SECONDS="60") as team:
        (team.workspace.path / "people-are-done").touch()
        for _ in range(2):
            team.start(TOYS)
        until(lambda: team.log().count(" takes jobs ") == 2, 120, "both workers take jobs")
        rounds = [start_round(team.workspace, {}, stages=toys.STAGES).id for _ in range(3)]
        until(lambda: all(team.round_is(id, "done", "failed") for id in rounds), 240, "all rounds end")
        assert all(results(team.workspace, id) == UNDISTURBED for id in rounds)
        begun = Counter((id, what) for id, _, what in toys.traces(team.workspace.path))
        assert set(begun.values()) == {1} and len(begun) == 3 * 6
        workers = {worker for _, worker, _ in toys.traces(team.workspace.path)}
        assert len(workers) == 2, "both workers took part"


def test_a_dead_workers_job_is_adopted_by_another(tmp_path: Path) -> None:
    with crew(tmp_path, "sqlite") as team:
        first = team.start(SLEEPY)
        row = start_round(team.workspace, {}, stages=toys.SLEEPY)
        until(lambda: (tmp_path / "pids").exists(), 120, "the job is under way")
        second = team.start(SLEEPY)
        until(lambda: len(queue.workers_alive(team.workspace)) == 2, 120, "the second worker lives")
        (tmp_path / "pids").unlink()
        first.kill()
        first.wait()
        until(lambda: (tmp_path / "pids").exists(), 120, "the second worker began the stage anew")
        with team.workspace.catalog(read_only=True) as catalog:
            job = catalog.jobs.list(states=["running"])[0]
            holder = {beat.id: beat.pid for beat in catalog.workers.alive(2)}
        assert job.args["round_id"] == row.id and holder[job.worker or ""] == second.pid


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_leaves_no_child_and_no_grandchild(tmp_path: Path, how: int) -> None:
    with crew(tmp_path, "sqlite") as team:
        worker, pids = under_way(team)
        worker.send_signal(how)
        worker.wait()
        until(lambda: not any(alive(pid) for pid in pids), 2, "child and grandchild end with the worker")


def jobs_of(team: Crew) -> list[Job]:
    with team.workspace.catalog(read_only=True) as catalog:
        return catalog.jobs.list()


def test_a_worker_that_is_ended_hands_its_task_back_at_a_checkpoint(tmp_path: Path) -> None:
    stages = ("tests.pipelines.toys:CHECKPOINTED", "tests.pipelines.toys:no_models")
    with crew(tmp_path, "sqlite", CLINIC_TEST_GRACE="30") as team:
        first = team.start(stages)
        row = start_round(team.workspace, {}, stages=toys.CHECKPOINTED)
        until(lambda: (tmp_path / "trace").exists(), 120, "the task is under way")
        first.terminate()
        assert first.wait(30) == 0
        counted = int((tmp_path / "counted").read_text())
        assert not team.round_is(row.id, "failed", "cancelled"), "nobody has to resume it"
        team.start(stages)
        until(lambda: team.round_is(row.id, "done"), 120, "another worker goes on")
        assert [what for _, _, what in toys.traces(tmp_path)] == ["from 0", f"from {counted}"]


def test_nobody_takes_a_task_while_its_worker_has_time_to_end_it(tmp_path: Path) -> None:
    """The grace time may be longer than a lease."""
    stages = ("tests.pipelines.toys:STUBBORN", "tests.pipelines.toys:no_models")
    with crew(tmp_path, "sqlite", CLINIC_TEST_GRACE="60", CLINIC_LEASE_SECONDS="2") as team:
        first = team.start(stages)
        row = start_round(team.workspace, {}, stages=toys.STUBBORN)
        until(lambda: (tmp_path / "trace").exists(), 120, "the task is under way")
        team.start(stages)
        until(lambda: team.log().count(" takes jobs ") == 2, 120, "another worker is there")
        first.terminate()
        assert first.wait(60) == 0
        until(lambda: team.round_is(row.id, "done"), 60, "its result was recorded")
        assert len(toys.traces(tmp_path)) == 1


def test_a_short_task_ends_within_the_grace_time(tmp_path: Path) -> None:
    with crew(tmp_path, "sqlite", CLINIC_TEST_GRACE="30") as team:
        worker = team.start(("tests.pipelines.toys:STORING", "tests.pipelines.toys:no_models"))
        row = start_round(team.workspace, {}, stages=toys.STORING)
        until(lambda: any(job.progress for job in jobs_of(team)), 120, "the task is under way")
        worker.terminate()
        assert worker.wait(30) == 0
        assert team.round_is(row.id, "done"), "its result was recorded"


def test_a_cancelled_job_stops_within_two_seconds(tmp_path: Path) -> None:
    with crew(tmp_path, "sqlite") as team:
        worker, pids = under_way(team)
        with team.workspace.catalog(read_only=True) as catalog:
            job = catalog.jobs.list(states=["running"])[0]
        began = time.monotonic()
        cancel_job(team.workspace, job.id, "somebody")
        until(lambda: not any(alive(pid) for pid in pids), 2, "child and grandchild stop")
        assert time.monotonic() - began < 2
        until(lambda: state_of(team, job.id) == "cancelled", 30, "the job's row says so")
        assert team.round_is(job.args["round_id"], "cancelled")
        assert worker.poll() is None, "the worker itself goes on"
        (tmp_path / "pids").unlink()
        again = resume_round(team.workspace, job.args["round_id"], stages=toys.SLEEPY)
        assert again.id != job.id
        until(lambda: (tmp_path / "pids").exists(), 120, "a resumed round works again")


def test_a_job_that_waits_is_cancelled_at_once(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path)
    row = start_round(workspace, {}, stages=toys.STAGES)
    assert cancel_round(workspace, row.id).state == "cancelled"
    with workspace.catalog(read_only=True) as catalog:
        assert [job.state for job in catalog.jobs.list()] == ["cancelled"]


def test_an_upgrade_between_two_stages_continues_the_round(tmp_path: Path) -> None:
    with crew(tmp_path, "sqlite") as team:
        row = start_round(team.workspace, {}, stages=toys.STAGES)
        old = team.start(TOYS, "1.0")
        until(lambda: team.round_is(row.id, "waiting"), 120, "the old version reaches the people")
        old.kill()
        old.wait()
        (tmp_path / "people-are-done").touch()
        team.start(TOYS, "2.0")
        until(lambda: team.round_is(row.id, "done"), 120, "the new version ends the round")
        assert results(team.workspace, row.id) == UNDISTURBED


def test_an_upgrade_within_a_stage_repeats_that_stage_alone(tmp_path: Path) -> None:
    fails = {
        "CLINIC_FAIL_AT": "count:start",
        "CLINIC_FAIL_DIR": str(tmp_path),
        "CLINIC_FAIL_VICTIM": "worker",
    }
    with crew(tmp_path / "w", "sqlite", **fails) as team:
        (team.workspace.path / "people-are-done").touch()
        row = start_round(team.workspace, {}, stages=toys.STAGES)
        team.start(TOYS, "1.0").wait(120)
        team.start(TOYS, "2.0")
        until(lambda: team.round_is(row.id, "done"), 120, "the new version ends the round")
        assert results(team.workspace, row.id) == UNDISTURBED
        begun = Counter(what for _, _, what in toys.traces(team.workspace.path))
        assert begun.pop("count") == 2 and set(begun.values()) == {1}


def test_an_old_worker_beside_a_new_one_takes_no_new_work(tmp_path: Path) -> None:
    new = WorkerSettings(workspace=tmp_path).application_version
    assert new != OLD
    with crew(tmp_path, "sqlite") as team:
        (tmp_path / "people-are-done").touch()
        team.start(TOYS, OLD)
        until(lambda: "takes jobs" in team.log(), 60, "the old one is there")
        time.sleep(1.1)  # the engine dates versions by the second
        worker = team.start(TOYS)
        until(lambda: team.log().count("takes jobs") == 2, 60, "the new one is there")
        row = start_round(team.workspace, {}, stages=toys.STAGES)
        until(lambda: team.round_is(row.id, "done"), 120, "the new one does it all")
        assert results(team.workspace, row.id) == UNDISTURBED
        assert versions(team.workspace) == {new}
        worker.kill()
        worker.wait()
        waiting = start_round(team.workspace, {}, stages=toys.STAGES)
        time.sleep(2)  # ten sweeps of the old one
        assert team.round_is(waiting.id, "running") and versions(team.workspace) == {new, None}
        team.start(TOYS)
        until(lambda: team.round_is(waiting.id, "done"), 120, "a new one takes it")
        assert versions(team.workspace) == {new}


def versions(workspace: Workspace) -> set[str | None]:
    """Of which versions the queue's workflows are; None before a worker has taken them."""
    with queue.jobs_client(workspace) as client:
        return {flow.app_version for flow in client.list_workflows()}


def test_a_planted_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    proof = tmp_path / "code-ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {proof}",)

    payload = base64.b64encode(pickle.dumps({"args": (Evil(),), "kwargs": {}})).decode()
    with crew(tmp_path / "w", "sqlite") as team:
        (team.workspace.path / "people-are-done").touch()
        before = team.start(TOYS)
        jobs = tmp_path / "w" / "jobs.sqlite"
        until(lambda: "takes jobs" in team.log(), 120, "the queue exists")
        plant(jobs, "planted-live", payload)
        until(lambda: refused(team.workspace) == {"planted-live"}, 60, "a living worker refuses the row")
        before.kill()
        before.wait()
        plant(jobs, "planted-at-rest", payload)
        row = start_round(team.workspace, {}, stages=toys.STAGES)
        team.start(TOYS)
        until(lambda: team.round_is(row.id, "done"), 120, "honest work goes on")
        assert refused(team.workspace) == {"planted-live", "planted-at-rest"}
        with sqlite3.connect(jobs) as raw:
            assert not raw.execute(
                "SELECT 1 FROM workflow_status WHERE serialization = 'py_pickle'"
            ).fetchall()
    assert not proof.exists()


def plant(jobs: Path, workflow_id: str, payload: str) -> None:
    """A queue entry as DBOS's default serializer would write it."""
    with sqlite3.connect(jobs, timeout=30) as raw:
        raw.execute(
            "INSERT INTO workflow_status (workflow_uuid, status, name, queue_name, inputs, serialization, "
            "created_at, updated_at, priority, recovery_attempts, application_name) "
            "VALUES (?, 'ENQUEUED', 'job', 'jobs', ?, 'py_pickle', 1, 1, 0, 0, 'artifact-clinic')",
            (workflow_id, payload),
        )


def refused(workspace: Workspace) -> set[str]:
    with workspace.catalog(read_only=True) as catalog:
        return {event.subject for event in catalog.audit.list(action="job.refuse-pickled")}


def test_a_row_that_was_never_enqueued_is_swept_up(tmp_path: Path) -> None:
    with crew(tmp_path, "sqlite") as team:
        (tmp_path / "people-are-done").touch()
        team.start(TOYS)
        until(lambda: "takes jobs" in team.log(), 120, "the queue exists")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipelines.services.rounds.enqueue", lambda workspace, *ids: None)
            row = start_round(team.workspace, {}, stages=toys.STAGES)
        until(lambda: team.round_is(row.id, "done"), 120, "the sweep found the row")
        assert results(team.workspace, row.id) == UNDISTURBED


def test_a_stage_that_raises_fails_the_round_with_its_message_and_can_be_resumed(tmp_path: Path) -> None:
    with crew(tmp_path, "sqlite") as team:
        (tmp_path / "people-are-done").touch()
        (tmp_path / "trace").mkdir()  # every toy stage writes a file of that name
        row = start_round(team.workspace, {}, stages=toys.STAGES)
        team.start(TOYS)
        until(lambda: team.round_is(row.id, "failed"), 120, "the round fails")
        with team.workspace.catalog(read_only=True) as catalog:
            failed = catalog.jobs.list(states=["failed"])[0]
            assert "IsADirectoryError" in failed.error and "draw" in catalog.rounds.get(row.id).message
        assert "Traceback" in read_log(team.workspace, failed.id)
        (tmp_path / "trace").rmdir()
        resume_round(team.workspace, row.id, stages=toys.STAGES)
        until(lambda: team.round_is(row.id, "done"), 120, "the resumed round ends")
        assert results(team.workspace, row.id) == UNDISTURBED
        metrics = team.workspace.job_files.read(f"{row.id}.draw.2", METRICS).read_text().splitlines()
        assert [json.loads(line)["loss"] for line in metrics] == [0.5] * 4


def test_the_worker_process_stays_free_of_torch() -> None:
    modules = "pipelines.worker.worker, pipelines.worker.workflows, pipelines.round"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def under_way(team: Crew) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A worker in the middle of the sleepy stage, and the ids of its child and grandchild."""
    worker = team.start(SLEEPY)
    start_round(team.workspace, {}, stages=toys.SLEEPY)
    until(lambda: (team.workspace.path / "pids").exists(), 120, "the job is under way")
    pids = [int(pid) for pid in (team.workspace.path / "pids").read_text().split()]
    assert all(alive(pid) for pid in pids)
    return worker, pids


def state_of(team: Crew, job_id: str) -> str:
    with team.workspace.catalog(read_only=True) as catalog:
        return catalog.jobs.get(job_id).state


def test_a_worker_elsewhere_needs_only_the_two_addresses(tmp_path: Path, postgres_url: str) -> None:
    """Its folder is its own; what it works on comes from PostgreSQL and from the blob store."""
    objects = (tmp_path / "objects").as_uri()
    office = create_workspace(tmp_path / "office", postgres_url, objects)
    picture = office.blobs.put(b"something that only the blob store holds")
    with crew(tmp_path / "elsewhere", postgres_url, CLINIC_BLOB_URL=objects) as team:
        (team.workspace.path / "people-are-done").touch()
        team.start(TOYS)
        row = start_round(office, {}, "engineer", stages=toys.STAGES)
        kept = request_job(office, "backup", {}, "admin")
        until(lambda: team.round_is(row.id, "done", "failed"), 120, "the round ends")
        assert results(office, row.id) == UNDISTURBED
        until(lambda: state_of(team, kept.id) in ("succeeded", "failed"), 60, "the backup ends")
        with office.catalog(read_only=True) as catalog:
            backup = catalog.jobs.get(kept.id)
            workers = {job.worker for job in catalog.jobs.list()}
        assert backup.state == "succeeded", backup.error
        made = Path(backup.result["path"])
        assert made.parent == team.workspace.path / "backups"
        with tarfile.open(made) as archive:
            assert f"blobs/{picture}" in archive.getnames()
        assert workers == {next(iter(queue.workers_alive(office))).id}
        assert not (office.path / "jobs").exists(), "nothing was done in the office's own folder"
    office.close()


def waiting_run(workspace: Workspace, name: str) -> runs.Run:
    """A training that waits for its turn; what it would do does not matter."""
    request_job(workspace, runs.TRAINING, {"run": name, "settings": {}}, "eve")
    return runs.run_of(workspace, runs.TRAINING, name)


def test_the_line_is_paused_resumed_reordered_and_left(tmp_path: Path, database_url: str) -> None:
    """While the one device is in use: ten wait, which is more than a worker looks at."""
    with crew(tmp_path, database_url) as team:
        under_way(team)
        space = team.workspace
        names = [waiting_run(space, f"run-{number}").id for number in range(10)]

        def line() -> list[str]:
            with space.catalog(read_only=True) as catalog:
                return [catalog.jobs.get(job_id).args["run"] for job_id in runs.jobs_in_line(space)]

        def run(name: str) -> runs.Run:
            return runs.run_of(space, runs.TRAINING, name)

        until(lambda: line() == names, 30, "all ten stand in line as they came")
        until(lambda: runs.run_status(space, run("run-9"))["position"] == 10, 30, "it is the last")
        runs.pause_run(space, run("run-2"), "eve")
        until(lambda: run("run-2").job.state == "paused", 30, "what waits pauses at once")
        until(lambda: line() == [name for name in names if name != "run-2"], 30, "it left the line")
        with pytest.raises(Conflict, match="already paused"):
            runs.pause_run(space, run("run-2"), "eve")
        runs.resume_run(space, run("run-2"), "eve")
        until(lambda: line() == names, 30, "it stands where it stood")
        assert len(run("run-2").jobs) == 2

        def moved() -> bool:
            try:
                runs.move_run_first(space, run("run-5"), "ada")
            except Conflict:  # for a moment a job is between the two queues
                return False
            return True

        until(moved, 30, "it is moved")
        until(lambda: line()[0] == "run-5", 30, "it keeps its place in the second queue")
        runs.cancel_run(space, run("run-0"), "eve")
        until(lambda: run("run-0").job.state == "cancelled", 30, "what waits is cancelled at once")
        runs.pause_run(space, run("run-9"), "eve")
        assert run("run-9").job.state == "paused"
        runs.cancel_run(space, run("run-9"), "eve")
        assert run("run-9").job.state == "cancelled"


def test_a_pause_outlives_the_worker(tmp_path: Path) -> None:
    """Asked of a worker that dies before it can heed it, the run is paused all the same, and not begun
    again."""
    with crew(tmp_path, "sqlite") as team:
        job = request_job(team.workspace, runs.TRAINING, {"run": "r", "settings": {}})
        with team.workspace.catalog() as catalog:
            assert catalog.jobs.claim(job.id, "a worker that is gone")
            catalog.commit()
        assert pause_job(team.workspace, job.id, "eve").state == "running"
        team.start(TOYS, CLINIC_LEASE_SECONDS="1")
        until(lambda: state_of(team, job.id) == "paused", 60, "a worker that comes later says so")
        backup = request_job(team.workspace, "backup", {})
        with pytest.raises(Conflict, match="cannot be paused; cancel it"):
            pause_job(team.workspace, backup.id)
