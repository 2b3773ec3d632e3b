"""The running jobs of a process: sends their heartbeats, and polls for requests to cancel or pause them.

A worker and a command with `--local` hold their jobs in the same way, so that neither takes the other's.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dataengine.errors import Cancelled, ClinicError, Paused
from dataengine.records import WorkerBeat
from storage.repositories.work import StopRequest
from storage.workspace import Workspace

BEAT_SECONDS = 1.0
CANCEL_SECONDS = 0.25


@dataclass
class ActiveJob:
    """A running job: its progress, and a pending request to stop it."""

    progress: float = 0.0
    message: str = ""
    stop_request: StopRequest = ""
    holders: int = 0

    def raise_if_stopped(self) -> None:
        """Raise `Cancelled` or `Paused` if that was requested."""
        if self.stop_request == "cancel":
            raise Cancelled("cancelled on request")
        if self.stop_request == "pause":
            raise Paused("paused before it started")


@dataclass
class RunningJobs:
    """All running jobs of one process, which is listed among the workers while it sends heartbeats."""

    workspace: Workspace
    worker_id: str
    device: str
    active: dict[str, ActiveJob] = field(default_factory=dict)
    _counting: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def holding(self, job_id: str) -> Iterator[ActiveJob]:
        """While the block runs, send the job's heartbeats and poll for its cancellation."""
        with self._counting:
            active = self.active.setdefault(job_id, ActiveJob())
            active.holders += 1
        try:
            active.stop_request = self._stop_request(job_id)
            active.raise_if_stopped()
            yield active
        finally:
            with self._counting:
                active.holders -= 1
                if not active.holders:
                    self.active.pop(job_id, None)

    def beat_until(self, ending: threading.Event) -> None:
        """Send heartbeats and poll for cancellations until `ending` is set."""
        last_beat = 0.0
        while not ending.wait(CANCEL_SECONDS):
            with contextlib.suppress(ClinicError, OSError):
                if time.monotonic() - last_beat >= BEAT_SECONDS:
                    self.beat()
                    last_beat = time.monotonic()
                    for job_id in list(self.active):
                        self.workspace.job_files.send(job_id)
                for job_id, active in list(self.active.items()):
                    active.stop_request = self._stop_request(job_id)

    def beat(self) -> None:
        """Record one heartbeat of the process and of each of its jobs."""
        jobs = list(self.active.items())
        with self.workspace.catalog() as catalog:
            for job_id, active in jobs:
                catalog.jobs.heartbeat(job_id, active.progress, active.message)
            catalog.workers.beat(
                WorkerBeat(
                    id=self.worker_id,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    devices=(self.device,),
                    job_id=jobs[0][0] if jobs else None,
                )
            )
            catalog.commit()

    def forget(self) -> None:
        """Delete the process's row, so that its jobs can be taken over at once."""
        with self.workspace.catalog() as catalog:
            catalog.workers.forget(self.worker_id)
            catalog.commit()

    def _stop_request(self, job_id: str) -> StopRequest:
        with self.workspace.catalog(read_only=True) as catalog:
            return catalog.jobs.pending_request(job_id)
