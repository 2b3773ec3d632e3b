"""The workers' queue: enqueue jobs, their order, workers that are alive."""

import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dataengine.records import Job, JobState, WorkerBeat, now
from storage import job_queue
from storage.workspace import Workspace

if TYPE_CHECKING:
    from dbos import DBOSClient


log = logging.getLogger(__name__)

JOB_QUEUE, TASK_QUEUE, JOB_WORKFLOW, APPLICATION = "jobs", "tasks", "job", "artifact-clinic"
WORK_FORMAT = 2
"""Part of a worker's version. Raise it when jobs, tasks or the order of a workflow's steps change: workers of
another format then neither take nor replay each other's work (1: before the modules moved to their rooms)."""
LINE = (TASK_QUEUE, JOB_QUEUE)
"""Who waits for a device: jobs that a worker has looked at, through their task, and those that it has not."""
PLACE = "place"
"""The argument of a resumed job that says since when its work has stood in line."""
OPEN: tuple[JobState, ...] = ("queued", "running")
STOPPED: tuple[JobState, ...] = ("paused", "failed", "cancelled")
"""What can be resumed."""


def lease_seconds() -> float:
    """Without a sign of life for this long, a worker counts as dead (`CLINIC_LEASE_SECONDS`, default 10)."""
    return float(os.environ.get("CLINIC_LEASE_SECONDS", "10"))


def enqueue(workspace: Workspace, *job_ids: str) -> None:
    """Put jobs into the workers' queue under their own ids; once, however often it is called.

    Quietly does nothing while no worker has made the queue yet: the first one sweeps.
    """
    if not job_queue.exists(workspace.jobs_url):
        return
    try:
        with jobs_client(workspace) as client:
            for job_id in job_ids:
                client.enqueue(
                    {"workflow_name": JOB_WORKFLOW, "queue_name": JOB_QUEUE, "workflow_id": job_id}, job_id
                )
                with workspace.catalog(read_only=True) as catalog:
                    since = queued_since(catalog.jobs.get(job_id))
                job_queue.move_to_time(workspace.jobs_url, job_id, since)  # its own clock counts seconds
    except Exception as error:
        log.warning("jobs %s stay for the next sweep: %s", ", ".join(job_ids), error)


def queued_since(job: Job) -> float:
    """Since when a job stands in line: since it was asked for, a resumed one since before it was paused."""
    return float(job.args.get(PLACE, job.created))


@contextmanager
def jobs_client(workspace: Workspace) -> "Iterator[DBOSClient]":
    """A client of the workers' queue that reads and writes portable JSON only."""
    from dbos import DBOSClient, DBOSPortableJSONSerializer

    client = DBOSClient(
        system_database_url=workspace.jobs_url,
        serializer=DBOSPortableJSONSerializer(),
        application_name=APPLICATION,
        retry_connection_errors=False,
    )
    try:
        yield client
    finally:
        client.destroy()


def workers_alive(workspace: Workspace) -> list[WorkerBeat]:
    """Workers that gave a sign of life within the lease."""
    with workspace.catalog(read_only=True) as catalog:
        return catalog.workers.alive(now() - lease_seconds())


def fresh_id(kind: str) -> str:
    return f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
