"""Durable execution: jobs and their tasks as DBOS workflows, and the sweep that recovers after crashes.

A job's workflow has the job's id. It fans out tasks, which workers' children run one at a time; results of
finished tasks are stored, so a restarted job repeats only the task in flight. Everything that crosses the
queue is JSON.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import dbos._serialization
from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer, SetWorkflowID, WorkflowHandle, WorkflowStatus
from dbos._error import DBOSAwaitedWorkflowCancelledError
from dbos._utils import INTERNAL_QUEUE_NAME

from dataengine.errors import Cancelled, ClinicError, ConfigRefused, Conflict, JobFailed, NotFound, Paused
from dataengine.records import STAGE_JOB, AuditEvent, Job, JobState, Round, RoundState
from pipelines.runtime.context import Context, Result, Waiting
from pipelines.runtime.events import announce_job
from pipelines.runtime.models import Models
from pipelines.runtime.shards import Shard
from pipelines.services import queue, rounds
from pipelines.services.queue import APPLICATION, JOB_QUEUE, JOB_WORKFLOW, TASK_QUEUE
from pipelines.stages.stage import Stage, in_actions, record, run_work, stage_named
from pipelines.worker.retrying import patiently
from pipelines.worker.running import RunningJobs
from storage import job_queue

log = logging.getLogger("clinic.worker")

JOBS_AT_ONCE = 8
"""Job workflows that one worker runs concurrently; their tasks still run one at a time."""
POLL_SECONDS = 0.2
KEPT_CONNECTIONS = 2
"""Connections that the engine keeps open; it opens more when it needs them. PostgreSQL allows 100 in all."""
MAX_RECOVERIES = 50
"""A job that has crashed this many workers fails."""
LOST_SECONDS = 5.0
"""Own workflows without a thread for this long are started again; starting a thread takes less."""
PENDING, WAITING_FLOW = "PENDING", ("ENQUEUED", "DELAYED")
STOPS: dict[str, type[ClinicError]] = {"Cancelled": Cancelled, "Paused": Paused}
ENDS: dict[type[BaseException], JobState] = {Cancelled: "cancelled", Paused: "paused"}
"""State of a job that was stopped, by the exception; any other exception means "failed"."""
GIVEN_UP = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"


class Engine:
    """Runs workflows for one worker."""

    def __init__(
        self,
        running: RunningJobs,
        perform: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        models: Models,
        stages: Sequence[Stage],
        version: str,
    ) -> None:
        self.running = running
        self.perform = perform
        self.workspace = running.workspace
        self.id = running.worker_id
        self.models = models
        self.stages = stages
        self.version = version
        self._run_task: Callable[..., Any] = self._attempt
        self._missing: dict[str, float] = {}
        """Since when own workflows have had no thread (monotonic seconds), by id."""

    def launch(self) -> None:
        """Refuse pickled rows, then start taking jobs; unfinished jobs of this worker's id are resumed."""
        forbid_pickle()
        if job_queue.exists(self.workspace.jobs_url):
            self._refuse_pickled()
        self._dbos = DBOS(
            config={
                "name": APPLICATION,
                "system_database_url": self.workspace.jobs_url,
                "sys_db_pool_size": KEPT_CONNECTIONS,
                "serializer": DBOSPortableJSONSerializer(),
                "application_version": self.version,
                "executor_id": self.id,
                "log_level": "WARNING",
                "notification_listener_polling_interval_sec": POLL_SECONDS,
            }
        )

        @DBOS.workflow(name=JOB_WORKFLOW, max_recovery_attempts=MAX_RECOVERIES)
        def run_job(job_id: str) -> None:
            self._job(job_id)

        @DBOS.workflow(name="task", max_recovery_attempts=MAX_RECOVERIES)
        def run_task(task: dict[str, Any]) -> dict[str, Any]:
            return self._attempt(task)

        self._run_task = run_task
        DBOS.launch()
        DBOS.register_queue(JOB_QUEUE, worker_concurrency=JOBS_AT_ONCE, polling_interval_sec=POLL_SECONDS)
        DBOS.register_queue(TASK_QUEUE, worker_concurrency=1, polling_interval_sec=POLL_SECONDS)

    def sweep(self) -> None:
        """Repair inconsistencies: jobs never enqueued, jobs of dead workers, rounds without a job."""
        for step in (
            self._refuse_pickled,
            self._dequeue_stopped,
            self._adopt,
            self._reconcile,
            self._move_rounds,
        ):
            try:
                step()
            except Exception:
                log.exception("%s failed; retrying in the next sweep", step.__name__)

    def _job(self, job_id: str) -> None:
        """The workflow of one job, from claim to recorded result."""
        job = patiently(lambda: self._claim(job_id))
        if job is None:
            return
        try:
            with self.running.holding(job_id) as active:
                try:
                    result = self._tasks(job)
                except DBOSAwaitedWorkflowCancelledError:  # its task was removed from the queue
                    active.raise_if_stopped()
                    raise
        except Exception as error:
            if job_queue.interrupted(error):
                raise  # the sweep starts the workflow again
            state: JobState = ENDS.get(type(error), "failed")
            reason = str(error) or type(error).__name__
            DBOS.run_step({"name": "end"}, patiently, lambda: self._end(job_id, state, reason))
        else:
            DBOS.run_step({"name": "settle"}, patiently, lambda: self._settle(job_id, result))

    def _dequeue_stopped(self) -> None:
        """Remove jobs from the task queue that were cancelled or paused before they got a device."""
        for job_id, active in list(self.running.active.items()):
            if active.stop_request:
                job_queue.remove_waiting(self.workspace.jobs_url, f"{job_id}:run")

    def _attempt(self, task: dict[str, Any]) -> dict[str, Any]:
        """One task's result, or its error as data: a failed task must not fail the workflow."""
        try:
            return {"answer": self.perform(task)}
        except ClinicError as error:
            return {"error": type(error).__name__, "message": str(error)}

    def _claim(self, job_id: str) -> Job | None:
        """Claim the job if it is queued, ours from before a restart, or of a dead worker; else None."""
        while True:
            alive, trusted = self._alive(), self.running.trusts_leases()
            with self.workspace.catalog() as catalog:
                job = catalog.jobs.get(job_id)
                ours = job.state == "running" and job.worker == self.id
                orphaned = job.worker not in alive
                if ours or catalog.jobs.claim(job_id, self.id, 0.0 if orphaned and trusted else None):
                    catalog.commit()
                    return job
            if trusted or not orphaned or job.state != "running":
                return None
            time.sleep(POLL_SECONDS)

    def _tasks(self, job: Job) -> Result:
        """Run the job as one task, or as shards fanned out over all workers; returns its result."""

        def perform(action: str, payload: Any) -> Result:
            done = len(payload or ())
            return answer_of(self._ask(job, action, action, payload, done, done + 1))

        def spread(shards: Sequence[Shard]) -> list[Result]:
            handles = [
                self._ask(job, f"shard{index}", "shard", shard, index, len(shards))
                for index, shard in enumerate(shards)
            ]
            return [answer_of(handle) for handle in handles]

        if job.kind != STAGE_JOB:
            return perform("run", None)
        result: Result = in_actions(stage_named(job.args["stage"], self.stages).work, perform, spread)
        return result

    def _ask(
        self, job: Job, name: str, action: str, payload: Any, part: int, parts: int
    ) -> WorkflowHandle[dict[str, Any]]:
        task = {
            "job": job.id,
            "kind": job.kind,
            "args": job.args,
            "action": action,
            "payload": payload,
            "part": part,
            "parts": parts,
        }
        workflow_id = f"{job.id}:{name}"
        with SetWorkflowID(workflow_id):
            handle = DBOS.enqueue_workflow(TASK_QUEUE, self._run_task, task)
        since = queue.queued_since(job)
        job_queue.inherit_position(self.workspace.jobs_url, workflow_id, job.id, since)
        return handle

    def _settle(self, job_id: str, result: Result) -> None:
        """Record the result, advance the round and add its next job, all in one transaction."""
        following = None
        with self.workspace.catalog() as catalog:
            job = holding_round(catalog, job_id)
            if not catalog.jobs.finish(job_id, "succeeded", result):
                return
            if job.kind == STAGE_JOB:
                following = self._record(catalog, job, result)
            announce_job(catalog, job, "succeeded")
            catalog.commit()
        if following:
            queue.enqueue(self.workspace, following.id)

    def _record(self, catalog: Any, job: Job, result: Result) -> Job | None:
        stage = stage_named(job.args["stage"], self.stages)
        try:
            row = record(catalog, job.args["round_id"], stage, result, self.stages)
        except Conflict:  # another worker recorded this stage and drives the round
            return None
        if catalog.jobs.cancelled(job.id):
            catalog.rounds.set_state(row.id, "cancelled", "cancelled as its stage ended")
            return None
        return rounds.add_stage_job(catalog, row, self.stages, job.requested_by)

    def _end(self, job_id: str, state: JobState, error: str) -> None:
        """Record that a job ended without a result, and set the state of its round."""
        with self.workspace.catalog() as catalog:
            job = holding_round(catalog, job_id)
            if not catalog.jobs.finish(job_id, state, error=error):
                return
            if job.kind == STAGE_JOB:
                round_state: RoundState = "cancelled" if state == "cancelled" else "failed"
                catalog.rounds.set_state(job.args["round_id"], round_state, f"{job.args['stage']}: {error}")
            announce_job(catalog, job, state)
            catalog.commit()
        log.info("job %s %s: %s", job_id, state, error)

    def _refuse_pickled(self) -> None:
        for workflow_id in job_queue.refuse_pickled(self.workspace.jobs_url):
            log.error("refused workflow %s: its row was pickled; deleted it without reading", workflow_id)
            with self.workspace.catalog() as catalog:
                catalog.audit.add(AuditEvent(actor=self.id, action="job.refuse-pickled", subject=workflow_id))
                catalog.commit()
            with contextlib.suppress(NotFound):  # the workflow may not belong to a job
                self._end(
                    workflow_id, "failed", "refused: its queue row was pickled, and pickles can run code"
                )

    def _adopt(self) -> None:
        """Requeue the running workflows of dead workers of this version, and those that this worker lost.

        DBOS recovers only rows that still name a dead worker, so two adopters cannot both succeed.
        """
        with queue.jobs_client(self.workspace) as client:
            pending = client.list_workflows(status=PENDING, load_input=False, load_output=False)
        held = [flow for flow in pending if flow.executor_id and flow.app_version == self.version]
        self._recover_lost({flow.workflow_id for flow in held if flow.executor_id == self.id})
        if not self.running.trusts_leases():
            return
        if dead := sorted({str(flow.executor_id) for flow in held} - self._alive()):
            log.warning("adopting the jobs of %s", ", ".join(dead))
            DBOS._recover_pending_workflows(
                dead
            )  # resume_workflow would also move workflows taken by a live worker

    def _recover_lost(self, pending: set[str]) -> None:
        """Requeue own workflows without a living thread: one dies when the database fails while the engine
        writes, and its row stays as it is."""
        running, moment = set(self._dbos._active_workflows_set.activeList()), time.monotonic()
        self._missing = {id: self._missing.get(id, moment) for id in pending - running}
        for workflow_id, since in self._missing.items():
            if moment - since >= LOST_SECONDS:
                log.warning("workflow %s has no thread any more; it is started again", workflow_id)
                self._dbos._sys_db.reenqueue_for_recovery(workflow_id, [self.id], INTERNAL_QUEUE_NAME)

    def _alive(self) -> set[str]:
        """Workers within their lease."""
        return {beat.id for beat in queue.workers_alive(self.workspace)} | {self.id}

    def _reconcile(self) -> None:
        """Reconcile every open job's row with its workflow in the queue."""
        with self.workspace.catalog(read_only=True) as catalog:
            jobs = catalog.jobs.list(states=queue.OPEN)
            silent = catalog.jobs.silent(queue.lease_seconds()) if self.running.trusts_leases() else set()
        if not jobs:
            return
        with queue.jobs_client(self.workspace) as client:
            flows = {
                flow.workflow_id: flow
                for flow in client.list_workflows(
                    workflow_ids=[job.id for job in jobs], load_input=False, load_output=False
                )
            }
            newest = client.get_latest_application_version()["version_name"] == self.version
            alive = self._alive()
            for job in jobs:
                inactive = job.state == "queued" or job.id in silent
                self._reconcile_one(client, job, flows.get(job.id), alive, newest, inactive)

    def _reconcile_one(
        self,
        client: DBOSClient,
        job: Job,
        flow: WorkflowStatus | None,
        alive: set[str],
        newest: bool,
        inactive: bool,
    ) -> None:
        if job.state == "running" and inactive and job.cancel_requested:
            self._end(job.id, "cancelled", "its worker had died when it was cancelled")
        elif job.state == "running" and inactive and job.pause_requested:
            self._end(job.id, "paused", "its worker had died when it was paused")
        elif flow is None:
            if inactive:
                queue.enqueue(self.workspace, job.id)
        elif flow.status == PENDING or flow.status in WAITING_FLOW:
            held = flow.status == PENDING and flow.executor_id in alive - {self.id}
            if newest and not held and flow.app_version not in (None, self.version):
                self._restart(client, job.id, f"it was started by version {flow.app_version}")
        elif flow.status == GIVEN_UP:
            crashed = f"its worker died {MAX_RECOVERIES} times"
            self._end(job.id, "failed", f"{crashed}. Fix the cause (see the job's log), then resume")
        elif inactive:
            ended = f"its workflow ended ({flow.status}) without a result"
            if reason := self.running.fails_alike(job.id, ended, job.progress):
                self._end(job.id, "failed", reason)
            else:
                self._restart(client, job.id, ended)

    def _restart(self, client: DBOSClient, job_id: str, why: str) -> None:
        """Delete the job's workflow and requeue it; its stage starts over and skips what is already
        stored."""
        log.warning("job %s is restarted: %s", job_id, why)
        client.delete_workflow(job_id, delete_children=True)
        queue.enqueue(self.workspace, job_id)

    def _move_rounds(self) -> None:
        """Check whether rounds that wait for people can continue, and that every running round has a job."""
        with self.workspace.catalog(read_only=True) as catalog:
            rows = catalog.rounds.in_state("running", "waiting")
        for row in rows:
            try:
                if stage_named(row.stage, self.stages).people:
                    self._check_people(row)
                else:
                    self._ensure_job(row)
            except (ConfigRefused, NotFound) as error:
                self._fail_round(row, str(error))

    def _fail_round(self, row: Round, error: str) -> None:
        """Mark a round that cannot continue as failed, instead of failing in every sweep."""
        with self.workspace.catalog() as catalog:
            if catalog.rounds.hold(row.id) == row:
                catalog.rounds.set_state(row.id, "failed", f"{row.stage}: {error}")
                catalog.commit()

    def _check_people(self, row: Round) -> None:
        """Advance a round that waits for people, if they are done."""
        stage = stage_named(row.stage, self.stages)
        outcome = run_work(Context(self.workspace, self.models), row.id, stage.work)
        following = None
        with self.workspace.catalog() as catalog:
            held = catalog.rounds.hold(row.id)
            if held.stage != row.stage or held.state not in ("running", "waiting"):
                return
            moved = record(catalog, row.id, stage, outcome, self.stages)
            if not isinstance(outcome, Waiting):
                following = rounds.add_stage_job(catalog, moved, self.stages)
            catalog.commit()
        if following:
            queue.enqueue(self.workspace, following.id)

    def _ensure_job(self, row: Round) -> None:
        """Add the job of the round's stage if it has none, or end the round as its last job ended."""
        with self.workspace.catalog() as catalog:
            row = catalog.rounds.hold(row.id)
            newest = rounds.stage_job(catalog, row)
            if row.state != "running" or (newest and newest.state in queue.OPEN):
                return
            if newest and newest.state in ("failed", "cancelled"):
                state: RoundState = "failed" if newest.state == "failed" else "cancelled"
                catalog.rounds.set_state(row.id, state, f"{row.stage}: {newest.error}")
            else:
                rounds.add_stage_job(catalog, row, self.stages)
            catalog.commit()


def holding_round(catalog: Any, job_id: str) -> Job:
    """The job, after locking its round if it is a stage of one. Raises `NotFound`."""
    job: Job = catalog.jobs.get(job_id)
    if job.kind == STAGE_JOB:
        catalog.rounds.hold(job.args["round_id"])
    return job


def answer_of(handle: WorkflowHandle[dict[str, Any]]) -> Result:
    """Wait for a task's result. Raises `Cancelled`, `Paused` or `JobFailed` with its message."""
    outcome = handle.get_result(polling_interval_sec=POLL_SECONDS)
    if "error" in outcome:
        raise STOPS.get(outcome["error"], JobFailed)(outcome["message"])
    answer: Result = outcome["answer"]
    return answer


def forbid_pickle() -> None:
    """Disable DBOS's unpickler: rows tagged `py_pickle` use it regardless of the configured serializer."""

    def refuse(self: object, serialized_data: str) -> NoReturn:
        raise TypeError("a pickled row was refused: Artifact Clinic writes portable JSON only")

    dbos._serialization.DefaultSerializer.deserialize = refuse  # type: ignore[method-assign,assignment]
