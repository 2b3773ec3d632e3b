"""Connections to the catalog's database, SQLite or PostgreSQL, and readable messages for their errors."""

import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from dataengine.errors import Conflict, NotFound, Unavailable, WorkspaceUnusable
from storage.addresses import redacted_url, without_password
from storage.locations import WORKSPACE, Places

BUSY_SECONDS = 30.0
"""Seconds that a writer waits for the lock of another one."""
CONNECT_SECONDS = 10
POOL_SECONDS = 15.0
"""Seconds that a thread waits for one of this process's connections."""
STATEMENT_SECONDS = 600
"""Seconds after which PostgreSQL ends a statement."""
POSTGRES = {
    "connect_timeout": CONNECT_SECONDS,
    # A server that vanished without closing its connections is noticed within half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "options": f"-c lock_timeout={int(BUSY_SECONDS)}s -c statement_timeout={STATEMENT_SECONDS}s",
}

_QUERY_ONLY = "clinic_query_only"
_TURNS: WeakKeyDictionary[Engine, threading.Lock] = WeakKeyDictionary()


def make_engine(database_url: str, folder: Path | None = None, shared: bool = False) -> Engine:
    """Create an engine for a SQLite or PostgreSQL URL; it connects on first use.

    Paths in the catalog are relative to the workspace's `folder`; without one they are left as stored. A
    `shared` catalog is a team's, whose machines have folders of their own.

    SQLite runs in WAL mode with foreign keys and a busy timeout, and takes its write lock when a transaction
    begins. Waiting for the server, a connection or a lock is bounded. Database errors are translated:
    `Unavailable` when it is full, locked or unreachable, `WorkspaceUnusable` when it is read-only or its file
    is damaged, `NotFound` for a violated foreign key, `Conflict` for a violated uniqueness constraint.
    """
    plain = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", database_url)
    sqlite = plain.startswith("sqlite")
    try:
        engine = create_engine(
            plain,
            pool_pre_ping=not sqlite,
            pool_timeout=POOL_SECONDS,
            connect_args={} if sqlite else postgres_options(plain),
        )
    except (ArgumentError, ValueError, ImportError):
        raise WorkspaceUnusable(
            f"{redacted_url(database_url)} is not the URL of a SQLite or PostgreSQL database; set "
            "CLINIC_DATABASE_URL to one such as postgresql://USER:PASSWORD@HOST/NAME, with characters such "
            "as @ and / in the password written as %40 and %2F"
        ) from None
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        _TURNS[engine] = threading.Lock()
    event.listen(engine, "handle_error", translate_error)
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


def postgres_options(database_url: str) -> dict[str, Any]:
    """The time limits of a PostgreSQL connection, without those that the URL sets itself."""
    given = make_url(database_url).query
    return {name: value for name, value in POSTGRES.items() if name not in given}


def connect(engine: Engine) -> Connection:
    """A connection. Raises `Unavailable` when none is free for `POOL_SECONDS`, and as `make_engine` says."""
    try:
        return engine.connect()
    except PoolTimeout as error:
        raise Unavailable(
            f"all connections to the catalog's database were in use for {POOL_SECONDS:.0f} s; try again"
        ) from error


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
        return connect(engine).execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return connect(engine).execution_options(**{_QUERY_ONLY: True})


def reclaim(engine: Engine, tables: Iterable[str], rewrite: bool = True) -> str:
    """Remove the traces of deleted rows from the database's files by rewriting them, on SQLite with the
    write-ahead log.

    SQLite rewrites its whole file, or with `rewrite` false nothing but the log. Returns "" when nothing is
    left, else the reason: other connections kept the old state for too long.
    """
    if engine.dialect.name == "sqlite":
        return empty_sqlite(engine.url.database or "", rewrite)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"SET lock_timeout = '{int(1000 * BUSY_SECONDS)}ms'")
            for table in tables:
                connection.exec_driver_sql(f'VACUUM FULL "{table}"')
            connection.invalidate()  # its time limit is no one else's
    except (WorkspaceUnusable, OperationalError) as error:
        return str(error).splitlines()[0]
    return ""


def empty_sqlite(file: str, rewrite: bool = True) -> str:
    """Rewrite a SQLite file without its free pages, and truncate its write-ahead log; as `reclaim`."""
    with closing(sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        try:
            if rewrite:
                connection.execute("VACUUM")
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError as error:
            return f"{file} could not be rewritten ({error})"
    return f"{file} is being read, so its write-ahead log was not emptied" if busy else ""


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
    cursor.execute("PRAGMA secure_delete=ON")  # deleted rows are overwritten: erased is erased
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

_CHECK_URL = "does not respond; check CLINIC_DATABASE_URL and that the server is running"
_CAUSES: tuple[tuple[str, str, type[WorkspaceUnusable]], ...] = (
    (
        r"disk is full|no space left|diskfull|could not extend",
        "is full; free disk space, then try again",
        Unavailable,
    ),
    (
        r"readonly|read-only",
        "is read-only; make it writable for this account, then try again",
        WorkspaceUnusable,
    ),
    (
        r"is locked|lock timeout|statement timeout|deadlock|could not serialize",
        "was held by another writer for too long; try again",
        Unavailable,
    ),
    # SQLite also says so when a full disk keeps it from creating its log.
    (
        r"unable to open|disk i/o",
        "cannot be opened; check that its folder exists and is readable and writable",
        Unavailable,
    ),
    (
        r"password|authentication|database .* does not exist|role .* does not exist",
        _CHECK_URL,
        WorkspaceUnusable,
    ),
    (
        r"connect|server closed|terminating|database system|timeout|does not exist",
        _CHECK_URL,
        Unavailable,
    ),
)
"""What a database's message contains, what we say instead, and as which error."""


def translate_error(context: ExceptionContext) -> None:
    """Raise a database error as one of ours, see `make_engine`; a listener of SQLAlchemy's `handle_error`."""
    if context.is_pre_ping:
        return  # the pool replaces a connection that the server has closed
    error = context.sqlalchemy_exception
    url = context.engine.url if context.engine is not None else None
    message = str(context.original_exception).strip()
    if url is not None and url.password:
        message = without_password(message, url.render_as_string(hide_password=False))
    where = f"the catalog's database{f' {url.database}' if url is not None and url.database else ''}"
    if isinstance(error, IntegrityError):
        if "foreign key" in message.lower():
            raise NotFound(f"a row refers to a record that is not in the catalog: {message}") from error
        raise Conflict(
            f"the record already exists in the catalog, or a value is missing: {message}"
        ) from error
    if isinstance(error, DatabaseError) and DAMAGED.search(message):
        raise damaged(where, message) from error
    if isinstance(error, OperationalError | InterfaceError) or "read-only" in message:
        for pattern, advice, kind in _CAUSES:
            if re.search(pattern, message, re.IGNORECASE):
                raise kind(f"{where} {advice} ({message.splitlines()[0]})") from error


def damaged(where: str, message: str) -> WorkspaceUnusable:
    """The error for a damaged SQLite file."""
    return WorkspaceUnusable(
        f"{where} is damaged ({' '.join(message.split())[:200]}). Stop the app and its workers, then save "
        "what can be read with `clinic salvage`, or restore a backup into an empty folder: clinic restore "
        "BACKUP"
    )
