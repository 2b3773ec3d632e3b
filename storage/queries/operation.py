"""Figures of a running workspace for monitoring: a few bounded reads of indexes, whatever the tables hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Select, Table, func, select, text

from dataengine.records import WorkerBeat
from storage import tables
from storage.catalog import Catalog
from storage.repositories.rows import database_time

MOST_COUNTED = 100_000
"""Rows that one figure counts at most; a longer queue shows this number."""
MOST_NEW = 5_000
"""Rows of one table that are read since the last time."""
MOST_WORKERS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Depth:
    """Rows that wait, at most `MOST_COUNTED`, and when the oldest began to (epoch seconds)."""

    rows: int
    oldest: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What waits, runs and lives at one moment; times in epoch seconds, sizes in bytes."""

    queue: Depth
    jobs: dict[str, Depth]
    """By state: queued, running, paused, failed."""
    deliveries: Depth
    """Webhook messages that are to be sent."""
    rounds: dict[str, int]
    """Rounds that run, wait or have failed."""
    workers: tuple[WorkerBeat, ...]
    last_backup: float | None
    """When the newest backup job succeeded."""
    catalog_bytes: int
    now: float
    """By the database's clock, that of the heartbeats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """One job that has ended, and when; `seconds` since it was started, None if it never was."""

    key: str
    at: float
    kind: str
    state: str
    seconds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """A label, a skipped image or a review: when, who, and what was decided. The `key` names the row."""

    key: tuple[str, ...]
    at: float
    person: str
    decision: str


STATES = ("queued", "running", "paused", "failed")
ROUND_STATES = ("running", "waiting", "failed")


def read_standing(catalog: Catalog) -> Standing:
    """All of it, in a dozen reads."""
    jobs, queue, sent = tables.jobs.c, tables.queue_items.c, tables.webhook_deliveries.c
    depths = {state: _depth(catalog, tables.jobs, jobs.created, jobs.state == state) for state in STATES}
    rounds = tables.rounds.c
    backup = select(jobs.finished).where(jobs.kind == "backup", jobs.state == "succeeded")
    workers = select(tables.workers).order_by(tables.workers.c.beat.desc()).limit(MOST_WORKERS)
    return Standing(
        queue=_depth(catalog, tables.queue_items, queue.queued, queue.done.is_(False)),
        jobs=depths,
        deliveries=_depth(catalog, tables.webhook_deliveries, sent.next_at, sent.state == "pending"),
        rounds={
            state: _depth(catalog, tables.rounds, rounds.created, rounds.state == state).rows
            for state in ROUND_STATES
        },
        workers=tuple(WorkerBeat(**row) for row in catalog.connection.execute(workers).mappings()),
        last_backup=catalog.connection.scalar(backup.order_by(jobs.finished.desc()).limit(1)),
        catalog_bytes=_catalog_bytes(catalog),
        now=catalog.connection.scalar(select(database_time())) or 0.0,
    )


def jobs_ended_since(catalog: Catalog, since: float) -> Sequence[Ended]:
    """Jobs that ended at or after that time, oldest first, at most `MOST_NEW`."""
    jobs = tables.jobs.c
    columns = select(jobs.id, jobs.kind, jobs.state, jobs.started, jobs.finished)
    rows = catalog.connection.execute(_since(columns, jobs.finished, since))
    return [
        Ended(
            key=row.id,
            at=row.finished,
            kind=row.kind,
            state=row.state,
            seconds=None if row.started is None else max(0.0, row.finished - row.started),
        )
        for row in rows
    ]


def labels_since(catalog: Catalog, since: float) -> Sequence[Judgement]:
    """Labels that people drew at or after that time, oldest first, at most `MOST_NEW`."""
    table = tables.labels.c
    columns = select(table.image_id, table.author, table.revision, table.clean, table.created)
    rows = catalog.connection.execute(_since(columns, table.created, since).where(table.source == "person"))
    return [
        Judgement(
            key=(row.image_id, row.author, str(row.revision)),
            at=row.created,
            person=row.author,
            decision="clean" if row.clean else "marked",
        )
        for row in rows
    ]


def skips_since(catalog: Catalog, since: float) -> Sequence[Judgement]:
    """Images that people skipped at or after that time, in the same way."""
    table = tables.queue_answers.c
    columns = select(table.image_id, table.round_id, table.kind, table.author, table.created)
    rows = catalog.connection.execute(_since(columns, table.created, since).where(table.skipped.is_(True)))
    return [
        Judgement(
            key=(row.image_id, row.round_id, row.kind, row.author),
            at=row.created,
            person=row.author,
            decision="skipped",
        )
        for row in rows
    ]


def reviews_since(catalog: Catalog, since: float) -> Sequence[Judgement]:
    """Reviews at or after that time, in the same way."""
    table = tables.reviews.c
    columns = select(table.image_id, table.author, table.revision, table.reviewer, table.verdict)
    rows = catalog.connection.execute(_since(columns.add_columns(table.created), table.created, since))
    return [
        Judgement(
            key=(row.image_id, row.author, str(row.revision), row.reviewer),
            at=row.created,
            person=row.reviewer,
            decision=row.verdict,
        )
        for row in rows
    ]


def _since(statement: Select[Any], column: Column[float], since: float) -> Select[Any]:
    return statement.where(column >= since).order_by(column).limit(MOST_NEW)


def _depth(catalog: Catalog, table: Table, since: Column[float], condition: object) -> Depth:
    waiting = select(since.label("since")).select_from(table).where(condition)  # type: ignore[arg-type]
    bounded = waiting.limit(MOST_COUNTED).subquery()
    oldest = waiting.where(since.is_not(None)).order_by(since).limit(1)
    return Depth(
        rows=catalog.connection.scalar(select(func.count()).select_from(bounded)) or 0,
        oldest=catalog.connection.scalar(oldest),
    )


def _catalog_bytes(catalog: Catalog) -> int:
    connection = catalog.connection
    if connection.dialect.name == "postgresql":
        return int(connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)
    pages = connection.scalar(text("SELECT page_count FROM pragma_page_count()")) or 0
    return int(pages) * int(connection.scalar(text("SELECT page_size FROM pragma_page_size()")) or 0)
