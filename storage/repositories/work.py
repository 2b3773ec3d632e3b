"""Rounds, jobs and workers: every change of hands is one compare-and-set."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from sqlalchemy import Connection, delete, func, or_, select, update

from dataengine.errors import Conflict, InputRefused
from dataengine.records import Job, JobState, Round, RoundState, WorkerBeat, now
from storage import tables
from storage.repositories.rows import Named, Rows, insert_new, replace

StopRequest = Literal["", "pause", "cancel"]
FINISHED: tuple[JobState, ...] = ("paused", "succeeded", "failed", "cancelled")
"""A paused job is over as well: whoever resumes it gets a new one for the same work."""
APPENDERS = 20
"""Workers that may write one job's file at the same moment."""


class Rounds(Named[Round]):
    """Turns of the loop and where each of them stands."""

    table = tables.rounds
    makes = Round
    what = "round"

    def in_state(self, *states: RoundState) -> Sequence[Round]:
        """Rounds in any of the states, oldest first."""
        table = self.table.c
        return self._records(self._select().where(table.state.in_(states)).order_by(table.created, table.id))

    def hold(self, round_id: str) -> Round:
        """The round, which until the commit nobody else moves: for deciding by its row and its jobs together.

        Whoever changes both holds the round first. Raises `NotFound`.
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
        """Record a stage's result and move the cursor to `next_stage`, if it still stands at `stage`.

        Raises `Conflict` if it does not (another worker was first), `NotFound` without such a round.
        """
        row = self.hold(round_id)
        if row.stage != stage:
            raise Conflict(
                f"round {round_id!r} no longer stands at {stage!r}; read it again to see where it is"
            )
        results = {**row.results, stage: result}
        self._update(round_id, stage=next_stage, results=results, state=state, message="")
        return self.get(round_id)

    def set_state(self, round_id: str, state: RoundState, message: str = "") -> None:
        """Say that a round runs, waits, failed, … and why. Raises `NotFound`."""
        self._update(round_id, state=state, message=message)


class Jobs(Named[Job]):
    """Asked-for work, from request to result."""

    table = tables.jobs
    makes = Job
    what = "job"

    def list(
        self, states: Iterable[JobState] | None = None, kind: str | None = None, limit: int | None = None
    ) -> list[Job]:
        """Jobs in any of the states (all without it) and of that kind, newest first."""
        table = self.table.c
        statement = self._select().order_by(table.created.desc(), table.id).limit(limit)
        if states is not None:
            statement = statement.where(table.state.in_(tuple(states)))
        return self._records(statement if kind is None else statement.where(table.kind == kind))

    def claim(self, job_id: str, worker: str, stale_before: float | None = None) -> bool:
        """Take a queued job, or a running one silent since `stale_before`; exactly one taker wins.

        A job that somebody asked to stop or to pause cannot be taken.
        """
        table, at = self.table.c, now()
        free = table.state == "queued"
        if stale_before is not None:
            free = or_(free, (table.state == "running") & (table.heartbeat < stale_before))
        taken = self._connection.execute(
            update(self.table)
            .where(
                table.id == job_id,
                free,
                table.cancel_requested.is_(False),
                table.pause_requested.is_(False),
            )
            .values(state="running", worker=worker, started=at, heartbeat=at)
        )
        return bool(taken.rowcount)

    def heartbeat(self, job_id: str, progress: float, message: str = "") -> bool:
        """Show that a running job lives and how far it is (fraction); returns whether it should stop."""
        table = self.table.c
        self._connection.execute(
            update(self.table)
            .where(table.id == job_id, table.state == "running")
            .values(progress=float(progress), message=message, heartbeat=now())
        )
        return self.cancelled(job_id)

    def finish(
        self, job_id: str, state: JobState, result: dict[str, Any] | None = None, error: str = ""
    ) -> bool:
        """Record how a job ended; returns False, changing nothing, if it had already ended."""
        if state not in FINISHED:
            raise InputRefused(f"a job ends as one of {', '.join(FINISHED)}, not {state!r}")
        table = self.table.c
        values: dict[str, Any] = {"state": state, "result": result or {}, "error": error, "finished": now()}
        if state == "succeeded":
            values["progress"] = 1.0
        ended = self._connection.execute(
            update(self.table).where(table.id == job_id, table.state.not_in(FINISHED)).values(values)
        )
        return bool(ended.rowcount)

    def request_cancel(self, job_id: str) -> Job:
        """Ask a running job to stop; one that waits or is paused ends at once. Raises `NotFound`."""
        table = self.table.c
        waiting = update(self.table).where(table.id == job_id, table.state.in_(("queued", "paused")))
        self._connection.execute(waiting.values(state="cancelled", cancel_requested=True, finished=now()))
        running = update(self.table).where(table.id == job_id, table.state == "running")
        self._connection.execute(running.values(cancel_requested=True))
        return self.get(job_id)

    def request_pause(self, job_id: str) -> Job:
        """Ask a running job to pause where it can; one that still waits pauses at once. Raises `NotFound`."""
        table = self.table.c
        waiting = update(self.table).where(table.id == job_id, table.state == "queued")
        self._connection.execute(waiting.values(state="paused", pause_requested=True, finished=now()))
        running = update(self.table).where(table.id == job_id, table.state == "running")
        self._connection.execute(running.values(pause_requested=True))
        return self.get(job_id)

    def asked(self, job_id: str) -> StopRequest:
        """What somebody wants of the job; stopping it comes before letting it wait."""
        flags = select(self.table.c.cancel_requested, self.table.c.pause_requested)
        row = self._connection.execute(flags.where(self.table.c.id == job_id)).first()
        if row is None:
            return ""
        return "cancel" if row.cancel_requested else "pause" if row.pause_requested else ""

    def cancelled(self, job_id: str) -> bool:
        """Whether somebody asked the job to stop, or it has been cancelled."""
        asked = select(self.table.c.cancel_requested).where(self.table.c.id == job_id)
        return bool(self._connection.scalar(asked))


class JobFiles:
    """What jobs write, in numbered pieces without gaps, so that a reader asks for what it has not seen."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def append(self, job_id: str, name: str, text: str) -> None:
        """Add a piece after the last one, also when several write at once."""
        table = tables.job_files.c
        last = select(func.max(table.number)).where(table.job_id == job_id, table.name == name)
        for _ in range(APPENDERS):
            number = (self._connection.scalar(last) or 0) + 1
            row = {"job_id": job_id, "name": name, "number": number, "text": text}
            if insert_new(self._connection, tables.job_files, [row]):
                return
        raise Conflict(f"{APPENDERS} others write {name} of job {job_id} at once; it is tried again")

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
        """Remove a file."""
        table = tables.job_files.c
        self._connection.execute(delete(tables.job_files).where(table.job_id == job_id, table.name == name))


class Workers(Rows[WorkerBeat]):
    """Who works."""

    table = tables.workers
    makes = WorkerBeat
    what = "worker"

    def beat(self, beat: WorkerBeat) -> None:
        """Replace the worker's last sign of life."""
        replace(self._connection, self.table, self._row(beat))

    def alive(self, since: float) -> list[WorkerBeat]:
        """Workers that gave a sign of life after `since`, by id."""
        table = self.table.c
        return self._records(self._select().where(table.beat >= since).order_by(table.id))

    def forget(self, worker_id: str) -> None:
        """Remove a worker that ended in order."""
        self._connection.execute(delete(self.table).where(self.table.c.id == worker_id))
