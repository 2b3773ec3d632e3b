"""Backups by schedule: every few hours one worker of a workspace requests one.

The period's number is the job's id, so however many workers there are, a period has one backup. The schedule
is an admin's (`pipelines.services.admin.backups`), unless the worker's environment holds one.
"""

import logging
import os
import time
from dataclasses import dataclass, field

from dataengine.errors import ClinicError
from dataengine.records import AuditEvent, Job, now
from pipelines.services.admin.backups import Schedule, schedule_of, stored_schedule
from pipelines.services.queue import enqueue
from storage.workspace import Workspace

log = logging.getLogger("clinic.backups")

ACTOR = "schedule"
READ_SECONDS = 30.0
"""How soon a changed schedule counts."""


@dataclass
class ScheduledBackups:
    """Requests the backup of the current period, once."""

    workspace: Workspace
    schedule: Schedule | None = field(default_factory=lambda: schedule_of(os.environ))
    """The environment's; without one the admin's is read now and then."""
    _done: str = ""
    _stored: Schedule | None = None
    _read: float = float("-inf")

    def sweep(self) -> bool:
        """Request the backup that is due, if any; returns whether it was requested here."""
        try:
            schedule = self.schedule or self._admins()
            if schedule is None:
                return False
            job_id = backup_id(schedule, now())
            if job_id == self._done:
                return False
            requested = self._request(job_id, schedule)
        except ClinicError as error:
            log.warning("the scheduled backup is delayed: %s", error)
            return False
        self._done = job_id
        return requested

    def _admins(self) -> Schedule | None:
        if now() - self._read >= READ_SECONDS:
            self._stored, self._read = stored_schedule(self.workspace), now()
        return self._stored

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
