"""What tests of durable work share: a workspace on either database, workers, and waiting with an end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.opening import create_workspace
from storage.workspace import BLOB_VARIABLE, Workspace

REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = {"CLINIC_LEASE_SECONDS": "4", "OMP_NUM_THREADS": "1"}
TOYS = ("tests.pipelines.toys:STAGES", "tests.pipelines.toys:no_models")
FAKES = ("pipelines.round:ROUND", "tests.fakes:fake_models")
SLEEPY = ("tests.pipelines.toys:SLEEPY", "tests.pipelines.toys:no_models")


def until(condition: Callable[[], object], seconds: float = 120.0, why: str = "") -> None:
    """Wait for a condition; fail when it has not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {why or condition}"
        time.sleep(0.03)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Crew:
    """Worker processes of one test."""

    def __init__(self, workspace: Workspace, environment: dict[str, str] | None = None) -> None:
        self.workspace = workspace
        self.environment = environment or {}
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, spec: tuple[str, str], version: str = "", **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker over the stages and models of `spec`."""
        command = [sys.executable, "-m", "tests.pipelines.one_worker", str(self.workspace.path), *spec]
        log = (self.workspace.path / "worker.log").open("a")
        process = subprocess.Popen(
            [*command, *([version] if version else [])],
            cwd=REPOSITORY,
            env={**self.all_environment(), **environment},
            stdout=log,
            stderr=log,
        )
        log.close()
        self.processes.append(process)
        return process

    def all_environment(self) -> dict[str, str]:
        """The environment of the workers."""
        return {**os.environ, **QUICK, **self.environment}

    def keep_one(self, spec: tuple[str, str], **environment: str) -> subprocess.Popen[bytes]:
        """The last worker, or a new one if that died."""
        if self.processes and self.processes[-1].poll() is None:
            return self.processes[-1]
        return self.start(spec, **environment)

    def round_is(self, round_id: str, *states: str) -> bool:
        """Whether the round is in one of the states."""
        with self.workspace.catalog(read_only=True) as catalog:
            return catalog.rounds.get(round_id).state in states

    def log(self) -> str:
        """What the workers wrote."""
        log = self.workspace.path / "worker.log"
        return log.read_text() if log.exists() else ""


@contextmanager
def crew(path: Path, database_url: str, **environment: str) -> Iterator[Crew]:
    """A workspace with its catalog in that database, and no worker left behind at the end."""
    own = database_url.startswith("sqlite")
    workspace = create_workspace(path, None if own else database_url, environment.get(BLOB_VARIABLE))
    if not workspace.own_database:
        environment["CLINIC_DATABASE_URL"] = workspace.database_url
    team = Crew(workspace, environment)
    try:
        yield team
    except AssertionError as error:
        error.add_note(f"the workers wrote:\n{team.log()[-4000:]}")
        raise
    finally:
        for process in team.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait(10)
        workspace.close()
