"""The running jobs of a process: sends their heartbeats, and polls for requests to cancel or pause them.

A worker and a command with `--local` hold their jobs in the same way, so that neither takes the other's.
"""

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dataengine.errors import Cancelled, ClinicError, Paused, Unavailable
from dataengine.records import WorkerBeat
from pipelines.services.queue import lease_seconds
from storage.catalog import Catalog
from storage.repositories.work import StopRequest
from storage.workspace import Workspace

BEAT_SECONDS = 1.0
LATE_BEATS = 3
"""Intervals without a heartbeat of our own after which the leases of others prove nothing."""
CANCEL_SECONDS = 0.25
ALIKE = 4
"""How often in a row a job may fail in the same way, without getting further, before it is not repeated."""


@dataclass
class ActiveJob:
    """A running job: its progress, and a pending request to stop it."""

    progress: float = 0.0
    message: str = ""
    stop_request: StopRequest = ""
    holders: int = 0
    device: str = ""
    """The kind of device that the job holds now; "" while it holds none."""
    _counted: float = 0.0
    _spent: dict[str, float] = field(default_factory=dict)

    def hold_device(self, kind: str) -> None:
        """Count time from now on as held of this kind of device; "" ends it."""
        self._count()
        self.device = kind

    def take_device_seconds(self) -> dict[str, float]:
        """Seconds that devices were held since the last call, by kind."""
        self._count()
        spent, self._spent = self._spent, {}
        return spent

    def _count(self) -> None:
        moment = time.monotonic()
        if self.device:
            self._spent[self.device] = self._spent.get(self.device, 0.0) + moment - self._counted
        self._counted = moment

    def raise_if_stopped(self) -> None:
        """Raise `Cancelled` or `Paused` if that was requested."""
        if self.stop_request == "cancel":
            raise Cancelled("cancelled on request")
        if self.stop_request == "pause":
            raise Paused("paused before it started")


def add_device_seconds(catalog: Catalog, job_id: str, active: ActiveJob) -> None:
    """Record what the job spent since this was last called."""
    for kind, seconds in active.take_device_seconds().items():
        catalog.jobs.add_device_seconds(job_id, kind, seconds)


@dataclass
class RunningJobs:
    """All running jobs of one process, which is listed among the workers while it sends heartbeats."""

    workspace: Workspace
    worker_id: str
    device: str
    active: dict[str, ActiveJob] = field(default_factory=dict)
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    """Bytes in use and in all by device, as the jobs last measured them."""
    _counting: threading.Lock = field(default_factory=threading.Lock)
    _last_beat: float = -math.inf
    _doubtful_until: float = -math.inf

    @contextmanager
    def holding(self, job_id: str) -> Iterator[ActiveJob]:
        """While the block runs, send the job's heartbeats and poll for its cancellation."""
        with self._counting:
            active = self.active.setdefault(job_id, ActiveJob())
            active.holders += 1
        try:
            with contextlib.suppress(Unavailable):  # `beat_until` asks again
                active.stop_request = self._stop_request(job_id)
            active.raise_if_stopped()
            yield active
        finally:
            with self._counting:
                active.holders -= 1
                last = not active.holders
                if last:
                    self.active.pop(job_id, None)
            if last:
                self._record_last_seconds(job_id, active)

    def beat_until(self, ending: threading.Event) -> None:
        """Send heartbeats and poll for cancellations until `ending` is set."""
        last_beat = 0.0
        while not ending.wait(CANCEL_SECONDS):
            with contextlib.suppress(Exception):  # whatever happens, the next beat is sent
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
                add_device_seconds(catalog, job_id, active)
            catalog.workers.beat(
                WorkerBeat(
                    id=self.worker_id,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    devices=(self.device,),
                    job_id=jobs[0][0] if jobs else None,
                    memory=self.memory,
                )
            )
            catalog.commit()
        moment = time.monotonic()
        if moment - self._last_beat > LATE_BEATS * BEAT_SECONDS and self._last_beat > -math.inf:
            self._doubtful_until = moment + lease_seconds()
        self._last_beat = moment

    def trusts_leases(self) -> bool:
        """Whether a worker without heartbeats is dead.

        After an outage of the database all workers have missed theirs, so nobody is declared dead until each
        has had the time of a lease to send one.
        """
        moment = time.monotonic()
        return moment > self._doubtful_until and moment - self._last_beat <= LATE_BEATS * BEAT_SECONDS

    def fails_alike(self, job_id: str, message: str, progress: float) -> str:
        """Count a failure of the job in its row. Returns why it is not repeated any more, "" while it is."""
        with self.workspace.catalog() as catalog:
            times = catalog.jobs.count_failure(job_id, message, progress)
            catalog.commit()
        if times < ALIKE:
            return ""
        return f"failed the same way {times} times: {message}. Fix the cause (see the job's log), then resume"

    def _record_last_seconds(self, job_id: str, active: ActiveJob) -> None:
        """What the job spent since the last heartbeat. Without a database that second is not counted."""
        with contextlib.suppress(ClinicError), self.workspace.catalog() as catalog:
            add_device_seconds(catalog, job_id, active)
            catalog.commit()

    def forget(self) -> None:
        """Delete the process's row, so that its jobs can be taken over at once."""
        with self.workspace.catalog() as catalog:
            catalog.workers.forget(self.worker_id)
            catalog.commit()

    def _stop_request(self, job_id: str) -> StopRequest:
        with self.workspace.catalog(read_only=True) as catalog:
            return catalog.jobs.pending_request(job_id)
