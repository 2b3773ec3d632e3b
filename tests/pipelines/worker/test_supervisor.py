"""The web app's own worker: started again when it dies, gone when the app is."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dataengine.records import WorkerBeat
from pipelines.services.queue import workers_alive
from pipelines.worker import supervisor as worker_supervisor
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.pipelines.rig import REPOSITORY, alive, until


def the_worker(workspace: Workspace, other_than: int = 0) -> WorkerBeat | None:
    beats = [beat for beat in workers_alive(workspace) if beat.pid != other_than and alive(beat.pid)]
    return beats[0] if beats else None


def test_a_worker_that_dies_is_started_again_and_ends_with_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_supervisor, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(worker_supervisor, "LONGEST_PAUSE", 0.2)
    workspace = create_workspace(tmp_path)
    with worker_supervisor.supervised_worker(workspace, ["--no-inference", "--device", "cpu"]):
        until(lambda: the_worker(workspace))
        first = the_worker(workspace)
        assert first
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: the_worker(workspace, other_than=first.pid), why="another worker")
        second = the_worker(workspace, other_than=first.pid)
        assert second and second.id == first.id, "it is the same worker, started again"
        until(lambda: "takes jobs" in (tmp_path / "worker.log").read_text())
    assert not alive(second.pid)


def test_a_worker_ends_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path)
    code = f"""
        import time
        from pipelines.worker.supervisor import supervised_worker
        from storage.workspace import Workspace
        from storage.opening import create_workspace, open_workspace
        with supervised_worker(open_workspace({str(tmp_path)!r}), ["--no-inference", "--device", "cpu"]):
            time.sleep(600)
    """
    supervisor = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=REPOSITORY)
    until(lambda: "takes jobs" in log(tmp_path))
    worker = the_worker(workspace)
    assert worker
    supervisor.kill()
    supervisor.wait()
    until(lambda: not alive(worker.pid), 20, "the worker ends")


def log(path: Path) -> str:
    file = path / "worker.log"
    return file.read_text() if file.exists() else ""
