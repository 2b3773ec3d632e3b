"""Restoring a backup: everything, or nothing that was not there before."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO

from sqlalchemy import Connection, Integer, Table, delete, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from dataengine.errors import Conflict, Corrupt, NotFound, WorkspaceUnusable
from dataengine.records import Report, no_report
from storage.engine import connect_for_reading
from storage.identity import MARK, recognise
from storage.maintenance.backup import table_lines
from storage.maintenance.backup_format import Backup, tables_of
from storage.maintenance.read_backup import BackupFile, damage, open_backup, reason
from storage.migrate import REVISION, known_revisions, revision, upgrade
from storage.repositories.rows import chunks
from storage.stores.blobs import CHUNK, writing
from storage.workspace import CATALOG_FILE, Workspace

ROWS = 5000
SMALL = 4 * 1024 * 1024
BATCH = 64
"""Blobs of up to `SMALL` bytes are restored in batches of this many, with one sync to disk per batch."""


def restore(
    backup: Path,
    path: Path,
    database_url: str | None = None,
    blob_url: str | None = None,
    report: Report = no_report,
    key: bytes | None = None,
) -> Workspace:
    """Restore a backup as a workspace in `path`, on the databases and blob store of the arguments or
    environment.

    Blobs are restored first and rows last, in one transaction. If it fails, folder, database and blob store
    are as they were before. Raises `Conflict` if a catalog exists, `InputRefused` if `backup` is no complete
    backup, `Corrupt` if its content is damaged or `key` did not sign it, `WorkspaceUnusable` if a newer
    version wrote it.
    """
    with open_backup(backup, key) as source:
        if source.manifest.revision not in known_revisions():
            raise WorkspaceUnusable(
                f"{backup} has schema {source.manifest.revision!r}, but this version supports up to "
                f"{REVISION!r}: a newer Artifact Clinic wrote it. Install that version, or restore an older "
                "backup"
            )
        source.check_tables()
        workspace = Workspace.located(path, database_url, blob_url)
        _refuse_catalog(workspace)
        with _undone_on_failure(workspace) as trace:
            _restore_blobs(source, workspace, trace, report)
            with workspace.engine.begin() as connection:
                _restore_rows(source, connection)
                upgrade(connection)
            recognise(workspace)
    count = len(source.manifest.blobs)
    report(count, count, "restored")
    return workspace


def check_backup(backup: Path, key: bytes | None = None, report: Report = no_report) -> Backup:
    """Prove a backup: restore it in a scratch folder, compare every row and blob with it, and delete the
    scratch. Raises as `restore`.
    """
    with tempfile.TemporaryDirectory(prefix="clinic-check-") as scratch:
        folder = Path(scratch) / "workspace"
        url = f"sqlite:///{scratch}/catalog.sqlite"
        workspace = restore(backup, folder, url, str(folder / "blobs"), report, key)
        try:
            with open_backup(backup, key) as source:
                _compare(source, workspace)
                return source.about
        finally:
            workspace.close()


def _compare(source: BackupFile, workspace: Workspace) -> None:
    for name, size in source.manifest.blobs.items():
        if workspace.blobs.size(name) != size:
            raise source.corrupt_blob(name)
    with connect_for_reading(workspace.engine) as connection:
        for table in tables_of(connection):
            if table.name not in source.manifest.tables:
                continue
            if source.manifest.revision == REVISION:
                same = Counter(map(_digest, source.lines(table.name))) == Counter(
                    map(_digest, table_lines(connection, table))
                )
            else:
                count = connection.scalar(select(func.count()).select_from(table))
                same = count == source.manifest.tables[table.name].rows
            if not same:
                raise Corrupt(
                    f"{source.path} was restored with other rows of {table.name} than it holds; restore "
                    "another backup"
                )


def _digest(line: bytes) -> bytes:
    return sha256(line).digest()


@dataclass
class _Trace:
    """What a restore has made so far, and what was there before."""

    blobs: list[str] = field(default_factory=list)


@contextmanager
def _undone_on_failure(workspace: Workspace) -> Iterator[_Trace]:
    """Delete what the block made, if it fails: in the folder, and in a blob store elsewhere."""
    missing = [each for each in (workspace.path, *workspace.path.parents) if not each.exists()]
    before = set() if missing else set(_own_files(workspace.path))
    store = workspace.blobs.folder
    own_store = store is not None and not store.exists()
    with writing(workspace.path):
        workspace.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    trace = _Trace()
    try:
        yield trace
    except BaseException:
        workspace.close()
        if own_store and store is not None:
            shutil.rmtree(store, ignore_errors=True)
        else:
            for name in trace.blobs:
                workspace.blobs.delete(name)
        for path in set(_own_files(workspace.path)) - before:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # somebody else's files stay
            for folder in missing:
                folder.rmdir()
        raise


def _own_files(folder: Path) -> Iterator[Path]:
    """The files that a restore makes in a workspace's folder."""
    for pattern in (f"{CATALOG_FILE}*", f"*{MARK}*", ".restore-*"):
        yield from folder.glob(pattern)


def _refuse_catalog(workspace: Workspace) -> None:
    there = not workspace.own_database or workspace.catalog_file.exists()
    if there and revision(workspace.engine) is not None:
        raise Conflict(f"{workspace} already has a catalog; restore into an empty folder and database")


def _restore_blobs(source: BackupFile, workspace: Workspace, trace: _Trace, report: Report) -> None:
    total = len(source.manifest.blobs)
    small: list[tuple[str, bytes]] = []

    def keep() -> None:
        stored = workspace.blobs.put_many([data for _, data in small])
        for (name, _), found in zip(small, stored, strict=True):
            if name != found:
                trace.blobs.append(found)
                raise source.corrupt_blob(name)
        small.clear()

    for done, (name, size, content) in enumerate(source.blobs(), start=1):
        if not workspace.blobs.has(name):
            trace.blobs.append(name)
        with damage(source.path, f"blob {name}"):
            if size <= SMALL:
                small.append((name, content.read()))
            else:
                _restore_large(source, name, content, workspace, trace)
        if len(small) == BATCH:
            keep()
        report(done, total, "restoring")
    keep()


def _restore_large(
    source: BackupFile, name: str, content: IO[bytes], workspace: Workspace, trace: _Trace
) -> None:
    with writing(workspace.path), tempfile.NamedTemporaryFile(dir=workspace.path, prefix=".restore-") as file:
        while chunk := content.read(CHUNK):
            file.write(chunk)
        file.flush()
        stored = workspace.blobs.put_file(Path(file.name))
        if stored != name:
            trace.blobs.append(stored)
            raise source.corrupt_blob(name)


def _restore_rows(source: BackupFile, connection: Connection) -> None:
    upgrade(connection, source.manifest.revision)
    tables = tables_of(connection)
    if unknown := source.manifest.tables.keys() ^ {table.name for table in tables}:
        raise Corrupt(
            f"{source.path} is damaged: its tables are not those of its schema ({min(unknown)}); restore "
            "another backup"
        )
    for table in reversed(tables):
        connection.execute(delete(table))  # rows inserted by the migrations, such as a new identity
    for table in tables:
        try:
            for rows in chunks(source.rows(table), ROWS):
                connection.execute(insert(table), rows)
        except (NotFound, Conflict, SQLAlchemyError, OverflowError, ValueError) as error:
            raise Corrupt(
                f"{source.path} is damaged: the rows of {table.name} do not fit ({reason(error)}); restore "
                "another backup"
            ) from error
        _continue_numbering(connection, table)
        if table.name == "workspace" and source.manifest.tables[table.name].rows != 1:
            raise Corrupt(f"{source.path} is damaged: it names no single workspace; restore another backup")


def _continue_numbering(connection: Connection, table: Table) -> None:
    """Advance PostgreSQL's sequences, which inserts of explicit numbers do not change."""
    numbered = "id" in table.c and isinstance(table.c["id"].type, Integer)
    if connection.dialect.name == "postgresql" and numbered:
        newest = select(func.coalesce(func.max(table.c["id"]), 0) + 1).scalar_subquery()
        counter = func.pg_get_serial_sequence(table.name, "id")
        connection.execute(select(func.setval(counter, newest, text("false"))))
