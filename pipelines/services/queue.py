"""The workers' queue: enqueue jobs, their order, workers that are alive."""

import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dataengine.records import Job, JobState, WorkerBeat
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
"""Queues that wait for a device: tasks of jobs that a worker has started on, then jobs not yet picked up."""
PLACE = "place"
"""The argument of a resumed job with the time since when its work has been queued."""
OPEN: tuple[JobState, ...] = ("queued", "running")
STOPPED: tuple[JobState, ...] = ("paused", "failed", "cancelled")
"""What can be resumed."""


def lease_seconds() -> float:
    """Seconds without a heartbeat before a worker counts as dead (`CLINIC_LEASE_SECONDS`, default 10)."""
    return float(os.environ.get("CLINIC_LEASE_SECONDS", "10"))


def retry_seconds() -> float:
    """How long work waits for a full disk, the database or the blob store before it fails
    (`CLINIC_RETRY_SECONDS`, default 600)."""
    return float(os.environ.get("CLINIC_RETRY_SECONDS", "600"))


def enqueue(workspace: Workspace, *job_ids: str) -> None:
    """Put jobs into the workers' queue under their own ids; once, however often it is called.

    Does nothing while no worker has created the queue: the first worker picks up all open jobs.
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
    """Since when a job is queued: since its request; a resumed one since the request of the paused one."""
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
    """Workers with a heartbeat within the lease."""
    with workspace.catalog(read_only=True) as catalog:
        return catalog.workers.alive(lease_seconds())


def fresh_id(kind: str) -> str:
    return f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
