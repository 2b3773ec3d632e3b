"""What a process counts of its running jobs."""

import time
from pathlib import Path

import pytest

from dataengine.records import Job
from pipelines.worker.running import RunningJobs
from storage.opening import create_workspace
from storage.queries.costs import costs


def test_device_time_is_recorded_by_heartbeats_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    workspace = create_workspace(tmp_path)
    with workspace.catalog() as catalog:
        catalog.jobs.add(Job(id="j", kind="retrain"))
        assert catalog.jobs.claim("j", "me")
        catalog.commit()

    def spent() -> dict[str, float]:
        with workspace.catalog(read_only=True) as catalog:
            return dict(costs(catalog)[0].device_seconds) if costs(catalog) else {}

    running = RunningJobs(workspace, "me", "cpu")
    with running.holding("j") as active:
        moment[0] += 50  # waiting for the device costs nothing
        running.beat()
        assert spent() == {}
        active.hold_device("cpu")
        moment[0] += 2
        running.beat()
        assert spent() == {"cpu": 2.0}
        moment[0] += 3
        active.hold_device("")
        moment[0] += 50
    assert spent() == {"cpu": 5.0}
