"""Salvage: what can still be read of a damaged SQLite catalog, written into a new file.

The damaged file is never written to. SQLite's own recovery (`.recover` of the program `sqlite3`) reads every
page that is intact; without that program rows are read table by table, around damaged pages. The rows are
then put into a fresh schema, whose constraints reject what is no longer valid.
"""

import json
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataengine import durable
from dataengine.errors import Conflict, InputRefused, NotFound, WorkspaceUnusable
from dataengine.records import Report, no_report
from storage.engine import make_engine
from storage.identity import MARK, read_mark
from storage.migrate import REVISION, known_revisions, upgrade
from storage.stores.blobs import writing
from storage.workspace import CATALOG_FILE, Workspace

PROGRAM = "sqlite3"
MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100
PAGE_SIZE, PAGE_COUNT = slice(16, 18), slice(28, 32)
SMALLEST_PAGE = 512
MOST_GROWTH = 64
"""A file that was cut off is filled up with empty pages, to at most this many times its size."""
SECONDS = 3600
SIDECARS = ("-wal", "-shm", "-journal")
TYPES: dict[str, type | tuple[type, ...]] = {
    "TEXT": str,
    "JSON": str,
    "INTEGER": int,
    "BIGINT": int,
    "BOOLEAN": int,
    "FLOAT": (float, int),
    "BLOB": bytes,
}
FURTHEST = 1 << 40
"""No table has a row number above this."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class SalvagedTable:
    """A table after salvage: rows kept, rows read but no longer valid, and whether the damaged file could
    not be read to its end, so that an unknown number of rows is lost.
    """

    kept: int
    rejected: int
    damaged: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Salvaged:
    """The new catalog in `path`, and what it holds. `damaged_file` is where the damaged one was moved to;
    None if it was left in place. `nameless` counts recovered rows of an unknown table, which are not kept.
    """

    path: Path
    tables: dict[str, SalvagedTable]
    nameless: int
    damaged_file: Path | None


def damage_of(catalog: Path) -> str | None:
    """What is wrong with a SQLite file, in SQLite's words; None if it is sound. Reads all of it."""
    try:
        # Read-only, since closing the last connection would write the log into the file.
        with closing(sqlite3.connect(f"{catalog.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            [[found]] = connection.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.DatabaseError as error:
        return " ".join(str(error).split())
    return None if found == "ok" else " ".join(str(found).split())


def salvage(workspace: Workspace, replace: bool = False, report: Report = no_report) -> Salvaged:
    """Write what can be read of the workspace's damaged catalog into a new file; with `replace`, put it into
    the damaged one's place, which is kept under another name.

    Raises `InputRefused` for a workspace with a team's database, `NotFound` without a catalog, `Conflict` if
    the catalog is sound, `WorkspaceUnusable` if nothing can be read.
    """
    catalog = workspace.catalog_file
    if not workspace.own_database:
        raise InputRefused("`clinic salvage` is for a SQLite catalog; use the tools of your database server")
    if not catalog.is_file():
        raise NotFound(f"there is no {catalog} to salvage; restore a backup: clinic restore BACKUP")
    if damage_of(catalog) is None:
        raise Conflict(f"{catalog} is sound; there is nothing to salvage")
    date = time.strftime("%Y%m%d-%H%M%S")
    with writing(workspace.path), tempfile.TemporaryDirectory(dir=workspace.path, prefix=".salvage-") as name:
        scratch = Path(name)
        copy = _copied(catalog, scratch)
        report(0, 3, "reading the damaged catalog")
        source, nameless = _recovered(copy, scratch)
        report(1, 3, "writing a new one")
        fresh = scratch / "fresh.sqlite"
        tables = _rebuilt(workspace, copy, source, fresh)
        report(2, 3, "checking it")
        _check(fresh)
        target = workspace.path / f"catalog.salvaged-{date}.sqlite"
        durable.move(fresh, target)
        moved = _put_in_place(catalog, target, date) if replace else None
    report(3, 3, "salvaged")
    return Salvaged(path=catalog if replace else target, tables=tables, nameless=nameless, damaged_file=moved)


def _put_in_place(catalog: Path, salvaged: Path, date: str) -> Path:
    kept = catalog.with_name(f"catalog.damaged-{date}.sqlite")
    for suffix in SIDECARS:
        sidecar = catalog.with_name(catalog.name + suffix)
        if sidecar.is_file():
            durable.move(sidecar, kept.with_name(kept.name + suffix))
    durable.move(catalog, kept)
    durable.move(salvaged, catalog)
    return kept


def _copied(catalog: Path, scratch: Path) -> Path:
    """A copy with its write-ahead log, which reading may change; with the head of a SQLite file, and as many
    pages as that says, without which SQLite reads nothing."""
    copy = scratch / "damaged.sqlite"
    for suffix in ("", *SIDECARS):
        source = catalog.with_name(catalog.name + suffix)
        if source.is_file():
            shutil.copyfile(source, copy.with_name(copy.name + suffix))
    size = catalog.stat().st_size
    with copy.open("r+b") as file:
        head = bytearray(file.read(HEADER_BYTES))
        if head[: len(MAGIC)] != MAGIC:
            head = bytearray(_head(scratch))
        page = int.from_bytes(head[PAGE_SIZE], "big")
        if page >= SMALLEST_PAGE:
            there, claimed = -(-size // page), int.from_bytes(head[PAGE_COUNT], "big")
            pages = claimed if there < claimed < MOST_GROWTH * there else there
            head[PAGE_COUNT] = pages.to_bytes(4, "big")
            file.truncate(pages * page)
        file.seek(0)
        file.write(head)
    return copy


def _head(scratch: Path) -> bytes:
    """The first bytes of a fresh catalog."""
    model = scratch / "model.sqlite"
    _make_schema(model, REVISION)
    with closing(sqlite3.connect(model)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    return model.read_bytes()[:HEADER_BYTES]


def _make_schema(path: Path, revision: str) -> None:
    engine = make_engine(f"sqlite:///{path}")
    try:
        with engine.begin() as connection:
            upgrade(connection, revision)
    finally:
        engine.dispose()


# ---- reading ----------------------------------------------------------------------------------------------


def _recovered(copy: Path, scratch: Path) -> tuple[Callable[[str], Iterator[Row]], int]:
    """A reader of a table's rows, and the number of rows without a table."""
    recovered = scratch / "recovered.sqlite"
    if _run_recovery(copy, recovered):
        return lambda table: _plain_rows(recovered, table), _count_nameless(recovered)
    return lambda table: _rows_around_damage(copy, table), 0


def _run_recovery(copy: Path, target: Path) -> bool:
    """Let SQLite's program recover into a new file; returns whether it did."""
    program = shutil.which(PROGRAM)
    if program is None:
        return False
    # It writes a temporary schema into the file that it reads: hence the copy.
    reading, loading = [program, str(copy), ".recover"], [program, str(target)]
    quiet: dict[str, Any] = {"stderr": subprocess.DEVNULL, "timeout": SECONDS, "check": False}
    with target.with_suffix(".sql").open("w+b") as script:
        try:
            read = subprocess.run(reading, stdout=script, **quiet)
            script.seek(0)
            subprocess.run(loading, stdin=script, stdout=subprocess.DEVNULL, **quiet)
        except subprocess.TimeoutExpired:
            return False
    return read.returncode == 0 and target.is_file() and bool(_names(target))


def _names(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        try:
            return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        except sqlite3.DatabaseError:
            return set()


def _count_nameless(recovered: Path) -> int:
    names = [name for name in _names(recovered) if name.startswith("lost_and_found")]
    with closing(sqlite3.connect(recovered)) as connection:
        return sum(connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names)


def _plain_rows(path: Path, table: str) -> Iterator[Row]:
    with closing(_open(path)) as connection:
        if table in _names(path):
            yield from _decoded(connection.execute(f'SELECT * FROM "{table}"'))


def _rows_around_damage(path: Path, table: str) -> Iterator[Row]:
    """The rows that can be read, by row number: after a damaged page it goes on at the next readable one."""
    with closing(_open(path)) as connection:
        query = f'SELECT rowid AS "_row", * FROM "{table}" WHERE rowid > ? ORDER BY rowid'
        position, step = -1, 1
        while position < FURTHEST:
            try:
                for row in _decoded(connection.execute(query, (position,))):
                    number = row.pop("_row")
                    if number <= position:
                        raise sqlite3.DatabaseError("damaged pages lead back to earlier rows")
                    position, step = number, 1
                    yield row
                return
            except sqlite3.DatabaseError as error:
                if "no such table" in str(error):
                    return
                position, step = position + step, step * 2


def _decoded(cursor: sqlite3.Cursor) -> Iterator[Row]:
    """Rows whose texts are valid."""
    names = [column[0] for column in cursor.description]
    for values in cursor:
        try:
            row = [value.decode() if isinstance(value, _Text) else value for value in values]
        except UnicodeDecodeError:
            continue
        yield dict(zip(names, row, strict=True))


class _Text(bytes):
    """A text whose encoding is not yet checked."""


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.text_factory = _Text
    connection.execute("PRAGMA writable_schema=ON")  # tolerates a damaged schema
    return connection


# ---- writing ----------------------------------------------------------------------------------------------


def _rebuilt(
    workspace: Workspace, copy: Path, read: Callable[[str], Iterator[Row]], fresh: Path
) -> dict[str, SalvagedTable]:
    """Fill a fresh schema with valid rows. Raises `WorkspaceUnusable` if there is not a single one."""
    found = [
        row["version_num"] for row in read("alembic_version") if row.get("version_num") in known_revisions()
    ]
    _make_schema(fresh, found[0] if found else REVISION)
    kept: dict[str, int] = {}
    rejected: dict[str, int] = {}
    with closing(sqlite3.connect(fresh)) as connection:
        names = sorted(_names(fresh) - {"alembic_version"})
        for table in names:
            connection.execute(f'DELETE FROM "{table}"')  # the identity that a migration made
            kept[table], rejected[table] = _insert(connection, table, read(table))
        for table, lost in _drop_orphans(connection).items():
            kept[table], rejected[table] = kept[table] - lost, rejected[table] + lost
        if not any(kept.values()):
            raise WorkspaceUnusable(
                f"nothing can be read of {workspace.catalog_file}; restore a backup into an empty folder: "
                f"clinic restore BACKUP (backups lie in {workspace.path / 'backups'}); nothing was changed"
            )
        if "workspace" in kept and not kept["workspace"]:
            _name_workspace(connection, workspace)
            kept["workspace"] = 1
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")
    return {
        table: SalvagedTable(kept=kept[table], rejected=rejected[table], damaged=_is_damaged(copy, table))
        for table in names
    }


def _insert(connection: sqlite3.Connection, table: str, rows: Iterator[Row]) -> tuple[int, int]:
    """Insert what the table takes; returns the numbers of rows taken and rejected."""
    columns = {row[1]: row[2] for row in connection.execute(f'PRAGMA table_info("{table}")')}
    kept = rejected = 0
    for row in rows:
        values = {name: row[name] for name in row.keys() & columns.keys()}
        if values and _is_valid(values, columns):
            named = ", ".join(f'"{name}"' for name in values)
            marks = ", ".join("?" for _ in values)
            try:
                connection.execute(f'INSERT INTO "{table}" ({named}) VALUES ({marks})', list(values.values()))
                kept += 1
                continue
            except sqlite3.IntegrityError:  # an incomplete row, or one that was recovered twice
                pass
        rejected += 1
    return kept, rejected


def _is_valid(values: Row, columns: dict[str, str]) -> bool:
    """Whether each value has its column's type, and JSON can be read."""
    for name, value in values.items():
        kind = columns[name].upper()
        if value is not None and not isinstance(value, TYPES.get(kind, object)):
            return False
        if kind == "JSON":
            try:
                json.loads(str(value))
            except (ValueError, TypeError, RecursionError):
                return False
    return True


def _drop_orphans(connection: sqlite3.Connection) -> dict[str, int]:
    """Delete rows that refer to lost ones, until there are none; returns how many, by table."""
    dropped: dict[str, int] = {}
    while orphans := {(row[0], row[1]) for row in connection.execute("PRAGMA foreign_key_check")}:
        for table, number in orphans:
            connection.execute(f'DELETE FROM "{table}" WHERE rowid = ?', (number,))
            dropped[table] = dropped.get(table, 0) + 1
    return dropped


def _name_workspace(connection: sqlite3.Connection, workspace: Workspace) -> None:
    """Give the catalog the identity that the folder's mark knows."""
    mark = workspace.path / MARK
    if not mark.is_file():
        raise WorkspaceUnusable(
            f"{workspace.catalog_file} has lost the workspace's identity, and {mark} is missing; restore a "
            "backup into an empty folder: clinic restore BACKUP"
        )
    identity = read_mark(mark.read_bytes(), str(mark))
    connection.execute("INSERT INTO workspace (id, created) VALUES (?, ?)", (identity, time.time()))


def _is_damaged(copy: Path, table: str) -> bool:
    """Whether the table or one of its indexes cannot be read to its end."""
    try:
        with closing(_open(copy)) as connection:
            problems = connection.execute(f'PRAGMA integrity_check("{table}")').fetchall()
    except sqlite3.DatabaseError:
        return True
    return [bytes(row[0]) for row in problems] != [b"ok"]


def _check(fresh: Path) -> None:
    with closing(sqlite3.connect(fresh)) as connection:
        sound = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        whole = not connection.execute("PRAGMA foreign_key_check").fetchall()
    if not (sound and whole):
        raise WorkspaceUnusable(
            f"the salvaged {CATALOG_FILE} did not pass its check; restore a backup into an empty folder: "
            "clinic restore BACKUP"
        )
