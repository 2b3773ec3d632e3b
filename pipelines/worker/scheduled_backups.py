"""Backups by schedule: every few hours one worker of a workspace requests one.

The period's number is the job's id, so however many workers there are, a period has one backup. Settings are
environment variables of the workers: `CLINIC_BACKUP_HOURS` (none: no schedule), `CLINIC_BACKUP_KEEP` and
`CLINIC_BACKUP_TO`; see `pipelines.services.admin.maintenance.back_up`.
"""

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dataengine.errors import ClinicError, ConfigRefused
from dataengine.records import AuditEvent, Job, now
from pipelines.services.queue import enqueue
from storage.workspace import Workspace

log = logging.getLogger("clinic.backups")

HOURS, KEEP, TO = "CLINIC_BACKUP_HOURS", "CLINIC_BACKUP_KEEP", "CLINIC_BACKUP_TO"
ACTOR = "schedule"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How often backups are made, how many are kept, and the URL of the second place."""

    hours: float
    keep: int | None = None
    to: str = ""

    def args(self) -> dict[str, Any]:
        """The arguments of its jobs."""
        return {"to": self.to} | ({} if self.keep is None else {"keep": self.keep})


def schedule_of(environment: Mapping[str, str]) -> Schedule | None:
    """The schedule in the environment; None without one. Raises `ConfigRefused` for unusable values."""
    if not environment.get(HOURS):
        return None
    try:
        hours = float(environment[HOURS])
        keep = int(environment[KEEP]) if environment.get(KEEP) else None
    except ValueError as error:
        raise ConfigRefused(f"{HOURS} and {KEEP} have to be numbers: {error}") from None
    if not 0 < hours < float("inf") or (keep is not None and keep < 1):
        raise ConfigRefused(f"{HOURS} has to be above 0 and {KEEP} at least 1; got {hours:g} and {keep}")
    return Schedule(hours=hours, keep=keep, to=environment.get(TO, ""))


@dataclass
class ScheduledBackups:
    """Requests the backup of the current period, once."""

    workspace: Workspace
    schedule: Schedule | None = field(default_factory=lambda: schedule_of(os.environ))
    _done: str = ""

    def sweep(self) -> bool:
        """Request the backup that is due, if any; returns whether it was requested here."""
        if self.schedule is None:
            return False
        job_id = backup_id(self.schedule, now())
        if job_id == self._done:
            return False
        try:
            requested = self._request(job_id, self.schedule)
        except ClinicError as error:
            log.warning("the scheduled backup is delayed: %s", error)
            return False
        self._done = job_id
        return requested

    def _request(self, job_id: str, schedule: Schedule) -> bool:
        job = Job(id=job_id, kind="backup", args=schedule.args(), requested_by=ACTOR)
        with self.workspace.catalog() as catalog:
            new = bool(catalog.jobs.add(job))
            if new:
                catalog.audit.add(AuditEvent(actor=ACTOR, action="job.request", subject=job_id))
            catalog.commit()
        if new:
            enqueue(self.workspace, job_id)
        return new


def backup_id(schedule: Schedule, at: float) -> str:
    """The id of the backup job of the period that holds the time `at`."""
    seconds = schedule.hours * 3600
    start = at // seconds * seconds
    return f"backup-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(start))}-scheduled"
