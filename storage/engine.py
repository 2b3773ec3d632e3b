"""Connections to the catalog's database, SQLite or PostgreSQL, and readable messages for their errors."""

import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import DatabaseError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from dataengine.errors import Conflict, NotFound, WorkspaceUnusable
from storage.locations import WORKSPACE, Places

BUSY_SECONDS = 30.0
"""Seconds that a SQLite writer waits for another one."""

_QUERY_ONLY = "clinic_query_only"
_TURNS: WeakKeyDictionary[Engine, threading.Lock] = WeakKeyDictionary()


def make_engine(database_url: str, folder: Path | None = None, shared: bool = False) -> Engine:
    """Create an engine for a SQLite or PostgreSQL URL; it connects on first use.

    Paths in the catalog are relative to the workspace's `folder`; without one they are left as stored. A
    `shared` catalog is a team's, whose machines have folders of their own.

    SQLite runs in WAL mode with foreign keys and a busy timeout, and takes its write lock when a transaction
    begins. Database errors are translated: `WorkspaceUnusable` when it is full, read-only or unreachable,
    or its file is damaged, `NotFound` for a violated foreign key, `Conflict` for a violated uniqueness
    constraint.
    """
    plain = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", database_url)
    engine = create_engine(plain, pool_pre_ping=not plain.startswith("sqlite"))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        _TURNS[engine] = threading.Lock()
    event.listen(engine, "handle_error", _translate)
    if folder is not None:
        places = Places(folder, lambda: _registered_folders(engine, folder), shared)
        engine.dialect.places = places  # type: ignore[attr-defined]  # read by the column types
    return engine


def _registered_folders(engine: Engine, folder: Path) -> dict[str, str]:
    """The folders that an admin registered, by name; of one name, the newest."""
    statement = text("SELECT name, location FROM endpoints WHERE kind = 'folder' ORDER BY created, id")
    with connect_for_reading(engine) as connection:
        rows = connection.execute(statement).all()
    return {
        name: str(folder / location.removeprefix(WORKSPACE)) if location.startswith(WORKSPACE) else location
        for name, location in rows
    }


@contextmanager
def turn_to_write(engine: Engine) -> Iterator[None]:
    """Serialise the writers of this process, because SQLite's own wait polls.

    It is an optimisation only: the database's lock decides, and it is tried after `BUSY_SECONDS` in any case.
    """
    turn = _TURNS.get(engine)
    acquired = turn is not None and turn.acquire(timeout=BUSY_SECONDS)
    try:
        yield
    finally:
        if turn is not None and acquired:
            turn.release()


def connect_for_reading(engine: Engine) -> Connection:
    """A connection without write lock, which reads one consistent snapshot and cannot write."""
    if engine.dialect.name == "postgresql":
        return engine.connect().execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return engine.connect().execution_options(**{_QUERY_ONLY: True})


def write_ahead(connection: sqlite3.Connection | DBAPICursor) -> None:
    """Switch a SQLite file to write-ahead logging if it is not yet.

    Processes that open a new file at once need its exclusive lock, for which SQLite's busy timeout does not
    wait. Raises `sqlite3.OperationalError` when it stays locked for `BUSY_SECONDS`.
    """
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(0.02)


def _prepare_sqlite(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver must not begin transactions of its own
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
    write_ahead(cursor)
    cursor.execute("PRAGMA synchronous=FULL")  # a commit is on disk before it is reported
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reading = bool(connection.get_execution_options().get(_QUERY_ONLY, False))
    if connection.info.get(_QUERY_ONLY) != reading:
        connection.exec_driver_sql(f"PRAGMA query_only={int(reading)}")
        connection.info[_QUERY_ONLY] = reading
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


DAMAGED = re.compile(
    "malformed|not a database|file is encrypted|unsupported file format|could not decode to utf-8|corrupt",
    re.IGNORECASE,
)
"""What SQLite says of a damaged file."""

_CAUSES = (
    (r"disk is full|no space left|diskfull|could not extend", "is full; free disk space, then try again"),
    (r"readonly|read-only", "is read-only; make it writable for this account, then try again"),
    (r"is locked|lock timeout", "was held by another writer for too long; try again"),
    (
        r"unable to open|disk i/o",
        "cannot be opened; check that its folder exists and is readable and writable",
    ),
    (
        r"connect|server closed|terminating|password|authentication|does not exist",
        "does not respond; check CLINIC_DATABASE_URL and that the server is running",
    ),
)


def _translate(context: ExceptionContext) -> None:
    error = context.sqlalchemy_exception
    message = str(context.original_exception).strip()
    where = f"the catalog's database{_place(context)}"
    if isinstance(error, IntegrityError):
        if "foreign key" in message.lower():
            raise NotFound(f"a row refers to a record that is not in the catalog: {message}") from error
        raise Conflict(
            f"the record already exists in the catalog, or a value is missing: {message}"
        ) from error
    if isinstance(error, DatabaseError) and DAMAGED.search(message):
        raise damaged(where, message) from error
    if isinstance(error, OperationalError | InterfaceError) or "read-only" in message:
        for pattern, advice in _CAUSES:
            if re.search(pattern, message, re.IGNORECASE):
                raise WorkspaceUnusable(f"{where} {advice} ({message.splitlines()[0]})") from error


def damaged(where: str, message: str) -> WorkspaceUnusable:
    """The error for a damaged SQLite file."""
    return WorkspaceUnusable(
        f"{where} is damaged ({' '.join(message.split())[:200]}). Stop the app and its workers, then save "
        "what can be read with `clinic salvage`, or restore a backup into an empty folder: clinic restore "
        "BACKUP"
    )


def _place(context: ExceptionContext) -> str:
    url = context.engine.url if context.engine is not None else None
    return f" {url.database}" if url is not None and url.database else ""
