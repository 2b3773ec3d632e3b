"""Reaching the catalog's database: SQLite or PostgreSQL, and what their errors mean to a person."""

import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from dataengine.errors import Conflict, NotFound, WorkspaceUnusable

BUSY_SECONDS = 30.0
"""How long a SQLite writer waits for another one."""

_QUERY_ONLY = "clinic_query_only"
_TURNS: WeakKeyDictionary[Engine, threading.Lock] = WeakKeyDictionary()


def make_engine(database_url: str) -> Engine:
    """An engine for a SQLite or PostgreSQL URL; nothing is opened yet.

    SQLite runs in WAL mode with foreign keys and a busy timeout, and takes its write lock when a transaction
    begins. Errors of the database come out as ours: `WorkspaceUnusable` when it is full, read-only or away,
    `NotFound` for a reference to nothing, `Conflict` for a broken uniqueness rule.
    """
    plain = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", database_url)
    engine = create_engine(plain, pool_pre_ping=not plain.startswith("sqlite"))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        _TURNS[engine] = threading.Lock()
    event.listen(engine, "handle_error", _translate)
    return engine


@contextmanager
def turn_to_write(engine: Engine) -> Iterator[None]:
    """Writers of this process one after the other, since SQLite's own wait is to sleep and look again.

    It is a courtesy only: the database's lock decides, and after `BUSY_SECONDS` it is asked all the same.
    """
    turn = _TURNS.get(engine)
    mine = turn is not None and turn.acquire(timeout=BUSY_SECONDS)
    try:
        yield
    finally:
        if turn is not None and mine:
            turn.release()


def connect_for_reading(engine: Engine) -> Connection:
    """A connection that takes no write lock, sees one consistent state throughout, and cannot write."""
    if engine.dialect.name == "postgresql":
        return engine.connect().execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return engine.connect().execution_options(**{_QUERY_ONLY: True})


def write_ahead(connection: sqlite3.Connection | DBAPICursor) -> None:
    """Switch a SQLite file to write-ahead logging, or find it switched.

    Processes that open a new file together want its lock alone, for which SQLite's busy timeout does not
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
    connection.isolation_level = None  # the driver must not open transactions of its own
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
    write_ahead(cursor)
    cursor.execute("PRAGMA synchronous=FULL")  # a commit is on the disk before anybody hears of it
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reading = bool(connection.get_execution_options().get(_QUERY_ONLY, False))
    if connection.info.get(_QUERY_ONLY) != reading:
        connection.exec_driver_sql(f"PRAGMA query_only={int(reading)}")
        connection.info[_QUERY_ONLY] = reading
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


_CAUSES = (
    (r"disk is full|no space left|diskfull|could not extend", "is full; free some space, then try again"),
    (r"readonly|read-only", "is read-only; make it writable for this account, then try again"),
    (r"is locked|lock timeout", "was held by another writer for too long; try again"),
    (
        r"unable to open|disk i/o",
        "cannot be opened; check that its folder exists and may be read and written",
    ),
    (
        r"connect|server closed|terminating|password|authentication|does not exist",
        "does not answer; check CLINIC_DATABASE_URL and that the server runs",
    ),
)


def _translate(context: ExceptionContext) -> None:
    error = context.sqlalchemy_exception
    message = str(context.original_exception).strip()
    where = f"the catalog's database{_place(context)}"
    if isinstance(error, IntegrityError):
        if "foreign key" in message.lower():
            raise NotFound(f"a row refers to something that is not in the catalog: {message}") from error
        raise Conflict(f"the catalog already holds that, or a value is missing: {message}") from error
    if isinstance(error, OperationalError | InterfaceError) or "read-only" in message:
        for pattern, advice in _CAUSES:
            if re.search(pattern, message, re.IGNORECASE):
                raise WorkspaceUnusable(f"{where} {advice} ({message.splitlines()[0]})") from error


def _place(context: ExceptionContext) -> str:
    url = context.engine.url if context.engine is not None else None
    return f" {url.database}" if url is not None and url.database else ""
