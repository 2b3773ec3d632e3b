"""What a task does in a child, its files, devices and requests; without processes."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataengine.devices import default_device
from dataengine.errors import ConfigRefused, Conflict, NotFound
from dataengine.records import Job
from pipelines.runtime.devices import device_lock, lock_file
from pipelines.runtime.loading import import_object
from pipelines.runtime.progress import Reporter, output_to
from pipelines.services import jobs, queue, rounds, runs
from pipelines.worker.handlers import handler_of
from pipelines.worker.task_runner import Runner
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.pipelines import toys
from tests.pipelines.rig import until


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return create_workspace(tmp_path)


def stage_task(round_id: str, stage: str, action: str, payload: Any = None) -> dict[str, Any]:
    args = {"round_id": round_id, "stage": stage}
    return {"job": "job", "kind": "stage", "args": args, "action": action, "payload": payload}


def test_a_sharded_stage_part_by_part(workspace: Workspace) -> None:
    row = rounds.start_round(workspace, {}, stages=toys.STAGES)
    runner = Runner(workspace=workspace, models=toys.no_models("cpu"), stages=toys.STAGES)
    events: list[dict[str, Any]] = []
    shards = runner.run(stage_task(row.id, "draw", "shards"), events.append)["shards"]
    answers = [
        runner.run(
            {**stage_task(row.id, "draw", "shard", shard), "part": i, "parts": len(shards)}, events.append
        )
        for i, shard in enumerate(shards)
    ]
    assert runner.run(stage_task(row.id, "draw", "finish", answers), events.append) == {"images": 20}
    assert {event["device"] for event in events if event["event"] == "device"} == {"cpu"}
    assert [event["progress"] for event in events if event["event"] == "progress"] == [
        0.125,
        0.375,
        0.625,
        0.875,
    ]
    assert [line["loss"] for line in metrics(workspace)] == [0.5] * 4


def test_what_native_code_prints_lands_in_the_log(workspace: Workspace) -> None:
    workspace.job_files.folder("job").mkdir(parents=True)
    with output_to(workspace.job_files.folder("job") / "log.txt"):
        os.write(2, b"from native code\n")
        subprocess.run([sys.executable, "-c", "print('from a grandchild')"], check=True)
    os.write(2, b"not in the log\n")
    assert jobs.read_log(workspace, "job") == "from native code\nfrom a grandchild\n"


def test_a_log_is_told_without_what_was_written_over(workspace: Workspace) -> None:
    folder = workspace.job_files.folder("job")
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("begin\n  0%|  |\r 50%|# |\r100%|##|\r\n\x1b[A\x1b[31mend\n")
    assert jobs.read_log(workspace, "job") == "begin\n100%|##|\nend\n"


def metrics(workspace: Workspace, points: int = 1000) -> list[dict[str, Any]]:
    return runs.thinned(runs.metrics_file(workspace, Job(id="job", kind="stage")), points)


def test_metrics_are_thinned_and_a_torn_line_is_left_out(workspace: Workspace) -> None:
    assert metrics(workspace) == [] and jobs.read_log(workspace, "absent") == ""
    folder = workspace.job_files.folder("job")
    folder.mkdir(parents=True)
    lines = "".join(json.dumps({"loss": number}) + "\n" for number in range(100))
    (folder / "metrics.jsonl").write_text(lines + '{"los')
    assert len(metrics(workspace)) == 100
    assert [line["loss"] for line in metrics(workspace, 10)] == [*range(0, 100, 10), 99]


def test_reports_are_throttled_but_the_last_is_kept() -> None:
    sent: list[dict[str, Any]] = []
    written: list[str] = []
    report = Reporter(sent.append, written.append)
    for step in range(1000):
        report(step, 1000, "training", loss=0.1)
    report.flush()
    assert len(sent) < 20 and sent[-1]["progress"] == 0.999 and len(written) == 1000


def test_what_is_unknown_is_named(workspace: Workspace) -> None:
    with pytest.raises(ConfigRefused, match="kinds are stage, import"):
        handler_of("dance")
    with pytest.raises(ConfigRefused, match="module:name"):
        import_object("pipelines.round:NOTHING")
    with pytest.raises(ConfigRefused, match="dance"):
        jobs.request_job(workspace, "dance", {})
    with pytest.raises(NotFound, match="its stages are draw, count, ask, train"):
        rounds.start_round(workspace, {}, stages=toys.STAGES)
        Runner(workspace=workspace, models=toys.no_models("cpu"), stages=toys.STAGES).run(
            stage_task("round", "dance", "run"), lambda event: None
        )


def test_a_request_is_a_row_even_without_any_worker(workspace: Workspace) -> None:
    job = jobs.request_job(workspace, "import", {"path": "somewhere"}, "ada")
    with workspace.catalog(read_only=True) as catalog:
        kept = catalog.jobs.get(job.id)
        (event,) = catalog.audit.list(action="job.request")
    assert (kept.state, kept.args, kept.requested_by) == ("queued", {"path": "somewhere"}, "ada")
    assert (event.actor, event.subject) == ("ada", job.id)
    assert queue.workers_alive(workspace) == []
    assert jobs.cancel_job(workspace, job.id).state == "cancelled"
    assert jobs.resume_job(workspace, job.id).args == job.args


def test_a_round_is_resumed_by_a_new_attempt_under_a_deterministic_id(workspace: Workspace) -> None:
    row = rounds.start_round(workspace, {}, stages=toys.STAGES)
    with pytest.raises(Conflict, match="running"):
        rounds.resume_round(workspace, row.id, stages=toys.STAGES)
    rounds.cancel_round(workspace, row.id, "ada")
    with pytest.raises(Conflict, match="already cancelled"):
        rounds.cancel_round(workspace, row.id)
    again = rounds.resume_round(workspace, row.id, "ada", stages=toys.STAGES)
    assert again.id == f"{row.id}.draw.2"
    with workspace.catalog() as catalog:
        assert rounds.add_stage_job(catalog, catalog.rounds.get(row.id), toys.STAGES) == again
        assert len(catalog.jobs.list()) == 2


def test_a_round_that_is_still_stopping_is_not_resumed(workspace: Workspace) -> None:
    row = rounds.start_round(workspace, {}, stages=toys.STAGES)
    with workspace.catalog() as catalog:
        assert catalog.jobs.claim(f"{row.id}.draw.1", "somebody")
        catalog.commit()
    rounds.cancel_round(workspace, row.id)
    with pytest.raises(Conflict, match="still stopping"):
        rounds.resume_round(workspace, row.id, stages=toys.STAGES)


def test_cancelling_a_stage_that_has_just_ended_stops_the_next_one(workspace: Workspace) -> None:
    row = rounds.start_round(workspace, {}, stages=toys.STAGES)
    with workspace.catalog() as catalog:
        catalog.jobs.finish(f"{row.id}.draw.1", "succeeded")
        catalog.rounds.advance(row.id, "draw", {}, "count")
        rounds.add_stage_job(catalog, catalog.rounds.get(row.id), toys.STAGES)
        catalog.commit()
    jobs.cancel_job(workspace, f"{row.id}.draw.1", "ada")
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.rounds.get(row.id).state == "cancelled"
        assert catalog.jobs.get(f"{row.id}.count.1").state == "cancelled"


def test_one_claim_wins(workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        catalog.jobs.add(Job(id="job", kind="import"))
        assert [catalog.jobs.claim("job", worker) for worker in ("a", "b")] == [True, False]


def hold(device: str, folder: Path, ready: Path, go: Path) -> None:
    with device_lock(device, folder):
        ready.touch()
        until(go.exists, 30)


def test_one_lock_for_each_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ready, go = tmp_path / "ready", tmp_path / "go"
    holder = multiprocessing.get_context("spawn").Process(target=hold, args=("cpu", tmp_path, ready, go))
    holder.start()
    until(ready.exists, 60)
    waited: list[str] = []

    def note(message: str) -> None:
        waited.append(message)
        go.touch()

    with device_lock("cpu", tmp_path, note):
        assert waited[0] == f"waiting for cpu, in use by process {holder.pid}"
    holder.join()
    assert lock_file("cuda:1", tmp_path).name == "cuda-1.lock"
    assert lock_file("cuda:1", tmp_path) == lock_file("cuda:1", tmp_path / "other"), "one for the machine"
    assert lock_file("cpu", tmp_path) != lock_file("cpu", tmp_path / "other"), "one for the workspace"


def test_a_machine_without_gpu_works_on_its_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert default_device() == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setenv("CLINIC_DEVICE", "mps")
    assert default_device() == "mps", "a device that the environment names comes first"


def test_a_backup_asked_for_on_the_admin_desk_is_a_whole_file(workspace: Workspace) -> None:
    from storage.maintenance.read_backup import read_backup

    runner = Runner(workspace=workspace, models=toys.no_models("cpu"), stages=toys.STAGES)
    answer = runner.run({"job": "b", "kind": "backup", "args": {}, "action": "run"}, lambda event: None)
    assert Path(answer["path"]).parent == workspace.path / "backups" and answer["damaged"] == []
    assert read_backup(Path(answer["path"])).bytes == answer["bytes"]
