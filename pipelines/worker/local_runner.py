"""Runs a round's stages in this process, for commands. Jobs are claimed and sent heartbeats as by a worker,
so that a command and a worker never run the same stage.

Input: a round. Output: its recorded stages. It can be stopped at any time and resumed here or on a worker.
"""

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from dataengine.devices import default_device
from dataengine.errors import Cancelled, Conflict
from dataengine.records import Report, Round, no_report
from pipelines.round import ROUND, advance
from pipelines.runtime.context import Context, Waiting
from pipelines.runtime.devices import device_kind, device_lock
from pipelines.runtime.holders import local_name, sign_of_life
from pipelines.runtime.models import Models, real_models
from pipelines.runtime.progress import Reporter
from pipelines.services import rounds
from pipelines.stages.stage import DONE, Done, Stage, stage_named
from pipelines.worker.config import RayConfig
from pipelines.worker.ray_shards import ENGINES, RunShards
from pipelines.worker.retrying import patiently
from pipelines.worker.running import ActiveJob, RunningJobs
from storage.stores.job_files import METRICS
from storage.workspace import Workspace

POLL_SECONDS = 0.5
"""Interval between checks whether people have labelled the images."""


@dataclass(frozen=True, kw_only=True)
class StageEnded:
    """A stage that has run in this process, and its result."""

    name: str
    result: dict[str, Any]


def open_runner(
    workspace: Workspace,
    engine: str = "local",
    device: str | None = None,
    report: Report = no_report,
    ray: RayConfig = RayConfig(),
) -> "LocalRunner":
    """A runner with the real models. `engine` is one of `ray_shards.ENGINES`, `ray` the settings of that one;
    the device defaults to the first GPU, else the CPU.
    """
    return LocalRunner(
        workspace=workspace,
        models=real_models(device or default_device()),
        report=report,
        stages=ROUND,
        run_shards=ENGINES[engine](ray),
    )


@dataclass(frozen=True, kw_only=True)
class LocalRunner:
    """Runs stages in this process, one at a time."""

    workspace: Workspace
    models: Models
    report: Report
    stages: Sequence[Stage]
    run_shards: RunShards

    def advance(self, round_id: str) -> Stage | Waiting | Done:
        """Run the round's next stage. Raises `Conflict` if a live worker is running it, and whatever the
        stage
        raises.
        """
        with self.workspace.catalog(read_only=True) as catalog:
            row = catalog.rounds.get(round_id)
        if row.stage == DONE:
            return Done()
        if stage_named(row.stage, self.stages).people:
            return advance(Context(self.workspace, self.models, self.report), round_id, self.stages)
        with (
            self._claimed(row) as (job_id, active),
            self._files(job_id, active) as report,
            device_lock(self.models.device, self.workspace.path, lambda message: report(0, 1, message)),
        ):
            context = Context(self.workspace, self.models, report)
            active.hold_device(device_kind(self.models.device))

            def say(message: str) -> None:
                active.message = message
                report(0, 1, message)

            return patiently(lambda: advance(context, round_id, self.stages, self.run_shards), say)

    def run_round(self, round_id: str) -> Iterator[StageEnded | Waiting]:
        """Run all remaining stages. Yields each stage as it ends and, while the round waits for people, a
        `Waiting` about twice a second. Raises as `advance`.
        """
        while not isinstance(outcome := self.advance(round_id), Done):
            if isinstance(outcome, Waiting):
                yield outcome
                time.sleep(POLL_SECONDS)
            else:
                with self.workspace.catalog(read_only=True) as catalog:
                    result = catalog.rounds.get(round_id).results[outcome.name]
                yield StageEnded(name=outcome.name, result=result)

    @contextmanager
    def _claimed(self, row: Round) -> Iterator[tuple[str, ActiveJob]]:
        """Claim the stage's job while the block runs, and record how it ended."""
        worker_id = local_name(uuid.uuid4().hex[:6])
        with self.workspace.catalog() as catalog:
            current = catalog.rounds.hold(row.id)
            if current.stage != row.stage:
                raise Conflict(f"round {row.id} has moved on to {current.stage}; see `clinic status`")
            row = current
            if row.state in ("failed", "cancelled"):
                catalog.rounds.set_state(row.id, "running")
            job = rounds.add_stage_job(catalog, row, self.stages, "command line")
            assert job
            dead = rounds.holder_is_dead(self.workspace, catalog, job)
            if not catalog.jobs.claim(job.id, worker_id, 0.0 if dead else None):
                raise Conflict(f"{job.worker} is working on {row.stage} of {row.id}; see `clinic status`")
            catalog.commit()
        with sign_of_life(self.workspace.path, worker_id), self._heartbeats(worker_id, job.id) as active:
            try:
                yield job.id, active
            except BaseException as error:
                stopped = isinstance(error, KeyboardInterrupt | Cancelled)
                self._end(row, job.id, "cancelled" if stopped else "failed", str(error) or "stopped")
                raise
            patiently(lambda: self._succeed(row, job.id))

    def _succeed(self, row: Round, job_id: str) -> None:
        with self.workspace.catalog() as catalog:
            catalog.jobs.finish(job_id, "succeeded", catalog.rounds.get(row.id).results.get(row.stage))
            catalog.commit()

    def _end(self, row: Round, job_id: str, state: Literal["cancelled", "failed"], error: str) -> None:
        with self.workspace.catalog() as catalog:
            catalog.rounds.hold(row.id)
            catalog.jobs.finish(job_id, state, error=error)
            catalog.rounds.set_state(row.id, state, f"{row.stage}: {error}")
            catalog.commit()

    @contextmanager
    def _heartbeats(self, worker_id: str, job_id: str) -> Iterator[ActiveJob]:
        """Hold the job as a worker does, with heartbeats, while the block runs."""
        running, over = RunningJobs(self.workspace, worker_id, self.models.device), threading.Event()
        beats = threading.Thread(target=running.beat_until, args=(over,), daemon=True, name="beats")
        with running.holding(job_id) as active:
            active.message = "running in a command"
            running.beat()
            beats.start()
            try:
                yield active
            finally:
                over.set()
                beats.join()
                self.workspace.job_files.send(job_id, everything=True)
                running.forget()

    @contextmanager
    def _files(self, job_id: str, active: ActiveJob) -> Iterator[Report]:
        """A report that writes the job's metrics, updates the command's progress bar, and raises when the job
        is cancelled or paused."""
        folder = self.workspace.job_files.folder(job_id)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / METRICS).open("a", buffering=1) as metrics:
            write = Reporter(lambda event: None, metrics.write)

            def report(done: float, total: int, message: str = "", **figures: float) -> None:
                write(done, total, message, **figures)
                active.progress = done / total if total else 0.0
                active.raise_if_stopped()
                self.report(done, total, message, **figures)

            yield report
