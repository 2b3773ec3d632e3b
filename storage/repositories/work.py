"""Repositories of rounds, jobs and workers; every state transition is one compare-and-set."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, case, delete, func, or_, select, update

from dataengine.errors import Conflict, InputRefused
from dataengine.records import Job, JobState, Round, RoundState, WorkerBeat, now
from storage import tables
from storage.repositories.rows import Named, Rows, database_time, insert_new, replace

StopRequest = Literal["", "pause", "cancel"]
FINISHED: tuple[JobState, ...] = ("paused", "succeeded", "failed", "cancelled")
"""A paused job is finished as well: resuming it creates a new job for the same work."""
PROGRESS = 0.01
"""The least share of a job by which a later failure must come further to count as progress."""
APPENDERS = 20
"""Attempts to append to one job's file while others write it."""


class Rounds(Named[Round]):
    """Rounds and their stage cursors."""

    table = tables.rounds
    makes = Round
    what = "round"

    def in_state(self, *states: RoundState) -> Sequence[Round]:
        """Rounds in any of the states, oldest first."""
        table = self.table.c
        return self._records(self._select().where(table.state.in_(states)).order_by(table.created, table.id))

    def numbers(self) -> dict[str, int]:
        """The number of every round by its id, from 1 for the oldest."""
        table = self.table.c
        ids = self._connection.scalars(select(table.id).order_by(table.created, table.id))
        return {id: number for number, id in enumerate(ids, start=1)}

    def hold(self, round_id: str) -> Round:
        """The round, locked until the commit: for decisions based on both its row and its jobs.

        Code that changes both must lock the round first. Raises `NotFound`.
        """
        self._connection.execute(select(self.table.c.id).where(self.table.c.id == round_id).with_for_update())
        return self.get(round_id)

    def advance(
        self,
        round_id: str,
        stage: str,
        result: dict[str, Any],
        next_stage: str,
        state: RoundState = "running",
    ) -> Round:
        """Store a stage's result and move the cursor to `next_stage`, if it is still at `stage`.

        Raises `Conflict` if it is not (another worker has moved it), `NotFound` without such a round.
        """
        row = self.hold(round_id)
        if row.stage != stage:
            raise Conflict(
                f"round {round_id!r} is no longer at stage {stage!r}; reload it to see its current stage"
            )
        results = {**row.results, stage: result}
        self._update(round_id, stage=next_stage, results=results, state=state, message="")
        return self.get(round_id)

    def set_state(self, round_id: str, state: RoundState, message: str = "") -> None:
        """Set a round's state (running, waiting, failed, …) and its reason. Raises `NotFound`."""
        self._update(round_id, state=state, message=message)


class Jobs(Named[Job]):
    """Jobs, from request to result."""

    table = tables.jobs
    makes = Job
    what = "job"

    def list(
        self, states: Iterable[JobState] | None = None, kind: str | None = None, limit: int | None = None
    ) -> list[Job]:
        """Jobs in any of the states (default: all) and of that kind, newest first."""
        table = self.table.c
        statement = self._select().order_by(table.created.desc(), table.id).limit(limit)
        if states is not None:
            statement = statement.where(table.state.in_(tuple(states)))
        return self._records(statement if kind is None else statement.where(table.kind == kind))

    def rename_run(self, job_ids: Iterable[str], name: str) -> None:
        """Put a name for people into the arguments of a run's jobs. Raises `NotFound`."""
        for id in job_ids:
            self._update(id, args={**self.get(id).args, "name": name})

    def claim(self, job_id: str, worker: str, silent_for: float | None = None) -> bool:
        """Take a queued job, or a running one without a heartbeat for `silent_for` seconds; exactly one
        worker gets it.

        A job with a pending stop or pause request cannot be taken.
        """
        table = self.table.c
        free = table.state == "queued"
        if silent_for is not None:
            free = or_(free, (table.state == "running") & self._silent(silent_for))
        taken = self._connection.execute(
            update(self.table)
            .where(
                table.id == job_id,
                free,
                table.cancel_requested.is_(False),
                table.pause_requested.is_(False),
            )
            .values(state="running", worker=worker, started=now(), heartbeat=database_time())
        )
        return bool(taken.rowcount)

    def silent(self, seconds: float) -> set[str]:
        """Ids of running jobs without a heartbeat for that long."""
        table = self.table.c
        found = select(table.id).where(table.state == "running", self._silent(seconds))
        return set(self._connection.scalars(found))

    def _silent(self, seconds: float) -> ColumnElement[bool]:
        heartbeat = self.table.c.heartbeat
        return or_(heartbeat.is_(None), heartbeat < database_time() - seconds)

    def heartbeat(self, job_id: str, progress: float, message: str = "") -> bool:
        """Store a running job's heartbeat and progress (fraction); returns whether it should stop."""
        table = self.table.c
        self._connection.execute(
            update(self.table)
            .where(table.id == job_id, table.state == "running")
            .values(progress=float(progress), message=message, heartbeat=database_time())
        )
        return self.cancelled(job_id)

    def add_device_seconds(self, job_id: str, device: str, seconds: float) -> None:
        """Add to the seconds that the job held a device of that kind."""
        table = tables.device_seconds
        row = {"job_id": job_id, "device": device, "seconds": float(seconds)}
        if not insert_new(self._connection, table, [row]):
            mine = (table.c.job_id == job_id) & (table.c.device == device)
            self._connection.execute(
                update(table).where(mine).values(seconds=table.c.seconds + float(seconds))
            )

    def count_failure(self, job_id: str, message: str, progress: float) -> int:
        """Count how often in a row a job failed with this message without getting further (fraction done);
        returns the number. It outlives the worker."""
        table = self.table.c
        alike = (table.failure == message) & (table.failed_at >= progress - PROGRESS)
        counted = case((alike, table.failures + 1), else_=1)
        self._connection.execute(
            update(self.table)
            .where(table.id == job_id)
            .values(failures=counted, failure=message, failed_at=float(progress))
        )
        return self._connection.scalar(select(table.failures).where(table.id == job_id)) or 0

    def finish(
        self, job_id: str, state: JobState, result: dict[str, Any] | None = None, error: str = ""
    ) -> bool:
        """Store a job's final state; returns False, changing nothing, if it had already ended."""
        if state not in FINISHED:
            raise InputRefused(f"a job's final state is one of {', '.join(FINISHED)}, not {state!r}")
        table = self.table.c
        values: dict[str, Any] = {"state": state, "result": result or {}, "error": error, "finished": now()}
        if state == "succeeded":
            values["progress"] = 1.0
        ended = self._connection.execute(
            update(self.table).where(table.id == job_id, table.state.not_in(FINISHED)).values(values)
        )
        return bool(ended.rowcount)

    def set_result(self, job_id: str, result: dict[str, Any]) -> None:
        """Replace the result of a job that has ended."""
        table = self.table.c
        ended = update(self.table).where(table.id == job_id, table.state.in_(FINISHED))
        self._connection.execute(ended.values(result=result))

    def request_cancel(self, job_id: str) -> Job:
        """Request a running job to stop; a queued or paused one ends at once. Raises `NotFound`."""
        table = self.table.c
        waiting = update(self.table).where(table.id == job_id, table.state.in_(("queued", "paused")))
        self._connection.execute(waiting.values(state="cancelled", cancel_requested=True, finished=now()))
        running = update(self.table).where(table.id == job_id, table.state == "running")
        self._connection.execute(running.values(cancel_requested=True))
        return self.get(job_id)

    def request_pause(self, job_id: str) -> Job:
        """Request a running job to pause at its next safe point; a queued one pauses at once. Raises
        `NotFound`."""
        table = self.table.c
        waiting = update(self.table).where(table.id == job_id, table.state == "queued")
        self._connection.execute(waiting.values(state="paused", pause_requested=True, finished=now()))
        running = update(self.table).where(table.id == job_id, table.state == "running")
        self._connection.execute(running.values(pause_requested=True))
        return self.get(job_id)

    def pending_request(self, job_id: str) -> StopRequest:
        """The pending request for the job; stop takes precedence over pause."""
        flags = select(self.table.c.cancel_requested, self.table.c.pause_requested)
        row = self._connection.execute(flags.where(self.table.c.id == job_id)).first()
        if row is None:
            return ""
        return "cancel" if row.cancel_requested else "pause" if row.pause_requested else ""

    def cancelled(self, job_id: str) -> bool:
        """Whether a stop was requested, or the job was cancelled."""
        asked = select(self.table.c.cancel_requested).where(self.table.c.id == job_id)
        return bool(self._connection.scalar(asked))


class JobFiles:
    """Files of jobs, in consecutively numbered pieces, so that a reader requests only new ones."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def append(self, job_id: str, name: str, text: str) -> None:
        """Append a piece, also with concurrent writers."""
        table = tables.job_files.c
        last = select(func.max(table.number)).where(table.job_id == job_id, table.name == name)
        for _ in range(APPENDERS):
            number = (self._connection.scalar(last) or 0) + 1
            row = {"job_id": job_id, "name": name, "number": number, "text": text}
            if insert_new(self._connection, tables.job_files, [row]):
                return
        raise Conflict(f"{name} of job {job_id} was written concurrently {APPENDERS} times; try again")

    def put(self, job_id: str, name: str, text: str) -> None:
        """Replace the whole file."""
        replace(
            self._connection,
            tables.job_files,
            {"job_id": job_id, "name": name, "number": 0, "text": text},
        )

    def after(self, job_id: str, name: str, number: int = -1) -> Sequence[tuple[int, str]]:
        """Number and text of the pieces after that one, in order."""
        table = tables.job_files.c
        pieces = select(table.number, table.text).where(
            table.job_id == job_id, table.name == name, table.number > number
        )
        rows = self._connection.execute(pieces.order_by(table.number))
        return [(row.number, row.text) for row in rows]

    def drop(self, job_id: str, name: str) -> None:
        """Delete a file."""
        table = tables.job_files.c
        self._connection.execute(delete(tables.job_files).where(table.job_id == job_id, table.name == name))


class Workers(Rows[WorkerBeat]):
    """Running workers."""

    table = tables.workers
    makes = WorkerBeat
    what = "worker"

    def beat(self, beat: WorkerBeat) -> None:
        """Store the worker's heartbeat, at the database's time."""
        replace(self._connection, self.table, self._row(beat) | {"beat": database_time()})

    def alive(self, within: float) -> list[WorkerBeat]:
        """Workers with a heartbeat within that many seconds, by id."""
        table = self.table.c
        recent = table.beat >= database_time() - within
        return self._records(self._select().where(recent).order_by(table.id))

    def forget(self, worker_id: str) -> None:
        """Remove a worker that shut down."""
        self._connection.execute(delete(self.table).where(self.table.c.id == worker_id))
