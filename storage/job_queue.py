"""The database of the durable workflow engine: tuning, and removal of pickled rows."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    MetaData,
    Select,
    String,
    Table,
    create_engine,
    delete,
    event,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from dataengine.errors import Unavailable
from storage.engine import BUSY_SECONDS, empty_sqlite, postgres_options, translate_error, write_ahead

PORTABLE = "portable_json"
"""The only serialisation that is read."""
SCHEMA = "dbos"


def prepare(url: str) -> None:
    """Switch a SQLite file to write-ahead logging, which allows several times the steps per second; other
    databases are unchanged.

    SQLite's default `synchronous=FULL` stays. Losing the file loses no work: jobs, rounds and their results
    are in the catalog, and what was running starts again.
    """
    if make_url(url).get_backend_name() == "sqlite":
        with closing(sqlite3.connect(_file(url), timeout=BUSY_SECONDS)) as connection:
            write_ahead(connection)


def interrupted(error: BaseException) -> bool:
    """Whether a database failed the queue's work: the work itself may be sound."""
    return isinstance(error, Unavailable | SQLAlchemyError)


def exists(url: str) -> bool:
    """Whether a worker has created the database's tables."""
    if make_url(url).get_backend_name() == "sqlite" and not _file(url).exists():
        return False
    with _connection(url) as (connection, schema):
        return inspect(connection).has_table("workflow_status", schema=schema)


def refuse_pickled(url: str) -> list[str]:
    """Delete every row that would be unpickled when read; returns the ids of their workflows.

    The engine writes portable JSON only, but it unpickles rows tagged `py_pickle` whatever the settings:
    anyone who can write to the database could run code in a worker. A row with another tag was not written by
    us.
    """
    refused: set[str] = set()
    with _connection(url) as (connection, schema):
        inspector = inspect(connection)
        for name in inspector.get_table_names(schema=schema):
            columns = {column["name"] for column in inspector.get_columns(name, schema=schema)}
            if "serialization" in columns:
                refused |= _refuse_in(connection, name, schema)
    return sorted(refused)


def _refuse_in(connection: Connection, name: str, schema: str | None) -> set[str]:
    table = Table(name, MetaData(), schema=schema, autoload_with=connection, resolve_fks=False)
    foreign = table.c.serialization.is_not(None) & (table.c.serialization != PORTABLE)
    key = table.c.workflow_uuid if "workflow_uuid" in table.c else table.c.destination_uuid
    ids = set(connection.scalars(select(key).where(foreign)))
    if ids:
        connection.execute(delete(table).where(foreign))
        connection.commit()
    return ids


def waiting_workflows(url: str, *queues: str) -> list[str]:
    """Ids of the waiting workflows of these queues, merged in order, the next one first."""
    with _connection(url) as (connection, schema):
        return list(connection.scalars(_line(_workflows(connection, schema), queues)))


def move_first(url: str, queues: Sequence[str], workflow_id: str) -> bool:
    """Move a waiting workflow to the front of these queues; False if it does not wait there (any more)."""
    with _connection(url) as (connection, schema):
        table = _workflows(connection, schema)
        line = list(connection.scalars(_line(table, queues)))
        if workflow_id not in line:
            return False
        first = connection.scalar(select(table.c.priority).where(table.c.workflow_uuid == line[0])) or 0
        _change_waiting(connection, table, workflow_id, priority=first - 1)
    return True


def move_to_time(url: str, workflow_id: str, since: float) -> None:
    """Move a waiting workflow to the position of a request at that time (epoch seconds)."""
    with _connection(url) as (connection, schema):
        table = _workflows(connection, schema)
        _change_waiting(connection, table, workflow_id, created_at=int(1000 * since))


def inherit_position(url: str, workflow_id: str, parent_id: str, since: float) -> None:
    """Give a waiting workflow that was not moved the queue position of that time, and its parent's move."""
    with _connection(url) as (connection, schema):
        table = _workflows(connection, schema)
        own_row, parent = (
            connection.scalar(select(table.c.priority).where(table.c.workflow_uuid == id))
            for id in (workflow_id, parent_id)
        )
        if own_row == 0:
            place = {"priority": parent or 0, "created_at": int(1000 * since)}
            _change_waiting(connection, table, workflow_id, **place)


def remove_waiting(url: str, workflow_id: str) -> bool:
    """Remove a workflow from its queue; False if it does not wait (any more)."""
    with _connection(url) as (connection, schema):
        table = _workflows(connection, schema)
        return _change_waiting(connection, table, workflow_id, status="CANCELLED")


def scrub(url: str, replaced: Callable[[str], str]) -> tuple[int, str]:
    """Replace texts in the rows of workflows that have ended, and remove the traces of the old ones.

    Returns how many values were changed, and why traces are left, "" if none are.
    """
    if not exists(url):
        return 0, ""
    with _connection(url) as (connection, schema):
        live = _live_workflows(connection, schema)
        count = sum(
            _scrub_table(connection, name, schema, replaced, live)
            for name in inspect(connection).get_table_names(schema=schema)
        )
        connection.commit()
    if schema is not None:
        return count, ""
    return count, empty_sqlite(str(_file(url)))


def _live_workflows(connection: Connection, schema: str | None) -> set[str]:
    table = _workflows(connection, schema)
    ended = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
    return set(connection.scalars(select(table.c.workflow_uuid).where(table.c.status.not_in(ended))))


def _scrub_table(
    connection: Connection, name: str, schema: str | None, replaced: Callable[[str], str], live: set[str]
) -> int:
    table = Table(name, MetaData(), schema=schema, autoload_with=connection, resolve_fks=False)
    keys = list(table.primary_key.columns)
    columns = [each for each in table.c if isinstance(each.type, String) and not each.primary_key]
    count = 0
    for row in connection.execute(select(*keys, *columns)).all() if keys and columns else ():
        if not live.isdisjoint(str(part) for part in row[: len(keys)]):
            continue
        old = dict(zip((each.name for each in columns), row[len(keys) :], strict=True))
        new = {each: replaced(text) for each, text in old.items() if text}
        new = {each: text for each, text in new.items() if text != old[each]}
        if new:
            where = [key == part for key, part in zip(keys, row, strict=False)]
            connection.execute(update(table).where(*where).values(new))
            count += len(new)
    return count


def _change_waiting(connection: Connection, table: Table, workflow_id: str, **values: Any) -> bool:
    """Update a workflow that no worker has taken yet, in one statement; returns whether it was still
    waiting."""
    waits = (table.c.workflow_uuid == workflow_id) & (table.c.status == "ENQUEUED")
    changed = connection.execute(update(table).where(waits).values(**values))
    connection.commit()
    return bool(changed.rowcount)


def _workflows(connection: Connection, schema: str | None) -> Table:
    return Table("workflow_status", MetaData(), schema=schema, autoload_with=connection, resolve_fks=False)


def _line(table: Table, queues: Sequence[str]) -> Select[tuple[str]]:
    """The engine dequeues the lowest priority first, then the oldest."""
    waits = table.c.queue_name.in_(queues) & (table.c.status == "ENQUEUED")
    return select(table.c.workflow_uuid).where(waits).order_by(table.c.priority, table.c.created_at)


@contextmanager
def _connection(url: str) -> Iterator[tuple[Connection, str | None]]:
    sqlite = make_url(url).get_backend_name() == "sqlite"
    engine = create_engine(url, connect_args={} if sqlite else postgres_options(url))
    event.listen(engine, "handle_error", translate_error)
    if sqlite:
        event.listen(engine, "connect", _wait_and_overwrite)
    try:
        with engine.connect() as connection:
            yield connection, None if sqlite else SCHEMA
    finally:
        engine.dispose()


def _wait_and_overwrite(raw: sqlite3.Connection, _: object) -> None:
    raw.execute("PRAGMA busy_timeout=30000")
    raw.execute("PRAGMA secure_delete=ON")


def _file(url: str) -> Path:
    return Path(make_url(url).database or "")
