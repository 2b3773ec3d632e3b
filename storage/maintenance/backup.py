"""Backups: one tar file with the catalog's rows as JSON lines and every blob.

The rows are read in one transaction while work goes on, and written in one form for every database: a team's
PostgreSQL can be restored to a laptop's SQLite and vice versa. A backup of an older schema is restored at
that schema and then upgraded. Scratch folders of unfinished training, exported shards and fetched checkpoints
are not included, because they can be recreated; queued jobs are enqueued again by the next worker.
"""

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sqlalchemy import (
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    delete,
    func,
    insert,
    select,
    text,
)

from dataengine import durable
from dataengine.errors import Conflict, Corrupt, InputRefused, NotFound
from dataengine.records import Report, no_report, now
from storage.engine import connect_for_reading, make_engine
from storage.identity import recognise
from storage.migrate import migrate, revision, upgrade
from storage.stores.blobs import CHUNK, Blobs, StoredBlob, writing
from storage.workspace import Workspace

FORMAT = 1
MANIFEST = "backup.json"
ROWS = 5000
SMALL = 4 * 1024 * 1024
BATCH = 64
"""Blobs of up to `SMALL` bytes are restored in batches of this many, with one sync to disk per batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backup:
    """The content of a backup. `damaged` names blobs that did not match their hash and were not included."""

    path: Path
    revision: str
    created: float
    rows: dict[str, int]
    blobs: int
    bytes: int
    damaged: tuple[str, ...]


def back_up(workspace: Workspace, target: Path, *, blobs: bool = True, report: Report = no_report) -> Backup:
    """Write the catalog and, unless `blobs` is false, all blobs to a tar file, which appears once it is
    complete.

    Raises `Conflict` if `target` exists, `WorkspaceUnusable` if its disk is full or read-only.
    """
    if target.exists():
        raise Conflict(f"{target} already exists and backups are never overwritten; choose another name")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(prefix=".backup-", dir=target.parent) as scratch:
                backup = _write(workspace, partial, target, Path(scratch), blobs, report)
            durable.move(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    return backup


def _write(
    workspace: Workspace, partial: Path, target: Path, scratch: Path, with_blobs: bool, report: Report
) -> Backup:
    at, version = now(), revision(workspace.engine)
    if version is None:
        raise NotFound(f"{workspace.path} has no catalog to back up")
    # Rows first: the blobs they refer to were stored before them.
    counts = _dump(workspace.engine, scratch)
    kept, size, damaged = 0, 0, []
    with _private(partial) as file, tarfile.open(fileobj=file, mode="w") as archive:
        blobs = list(workspace.blobs.stored()) if with_blobs else []
        for number, blob in enumerate(blobs):
            report(number, len(blobs), "backing up")
            with _opened(workspace.blobs, blob, scratch) as content:
                if content is None:
                    damaged.append(blob.sha256)
                    continue
                archive.addfile(_entry(f"blobs/{blob.sha256}", blob.size, blob.modified), content)
            kept, size = kept + 1, size + blob.size
        for path in sorted(scratch.glob("*.jsonl.gz")):
            archive.add(path, arcname=f"catalog/{path.name}", filter=_anonymous)
        about = {"format": FORMAT, "revision": version, "created": at, "rows": counts, "blobs": kept}
        body = json.dumps({**about, "bytes": size, "damaged": damaged}).encode()
        archive.addfile(_entry(MANIFEST, len(body), at), io.BytesIO(body))
    report(kept, kept, "backed up")
    return Backup(
        path=target,
        revision=version,
        created=at,
        rows=counts,
        blobs=kept,
        bytes=size,
        damaged=tuple(damaged),
    )


def _private(path: Path) -> IO[bytes]:
    """A new file that other accounts of the machine cannot read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _dump(engine: Engine, folder: Path) -> dict[str, int]:
    """Every table's rows as JSON lines; the tables are those of the database, of whatever schema version."""
    counts = {}
    with connect_for_reading(engine) as connection:
        for table in _tables(connection):
            rows = connection.execute(select(table).execution_options(yield_per=ROWS)).mappings()
            counts[table.name] = 0
            with gzip.open(
                folder / f"{table.name}.jsonl.gz", "wt", compresslevel=3, encoding="utf-8"
            ) as file:
                for row in rows:
                    file.write(json.dumps(dict(row), default=_as_text) + "\n")
                    counts[table.name] += 1
    return counts


def _as_text(value: Any) -> str:
    """Bytes in a row, such as a draft's label map."""
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(value).decode()
    raise TypeError(f"a {type(value).__name__} in the catalog cannot be written to a backup")


def _as_row(table: Table, line: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(line)
    for column in table.columns:
        if isinstance(column.type, LargeBinary) and row.get(column.name) is not None:
            row[column.name] = base64.b64decode(row[column.name])
    return row


def _tables(connection: Connection) -> list[Table]:
    """The tables in the order in which rows may be inserted."""
    metadata = MetaData()
    metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if table.name != "alembic_version"]


@contextmanager
def _opened(blobs: Blobs, blob: StoredBlob, scratch: Path) -> Iterator[IO[bytes] | None]:
    """The blob's bytes, verified; None if they are damaged, or were cleared meanwhile."""
    path = blobs.path_or_none(blob.sha256)
    fetched = scratch / blob.sha256
    try:
        if path is None:
            blobs.fetch(blob.sha256, fetched)
        with (path or fetched).open("rb") as file:
            sound = hashlib.file_digest(file, "sha256").hexdigest() == blob.sha256
            file.seek(0)
            yield file if sound else None
    except (NotFound, Corrupt, FileNotFoundError):
        yield None
    finally:
        fetched.unlink(missing_ok=True)


def _entry(name: str, size: int, modified: float) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, int(modified), 0o600
    return entry


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def read_backup(path: Path) -> Backup:
    """The metadata of a backup file. Raises `InputRefused` if it is no backup that this version reads."""
    try:
        with tarfile.open(path, "r:") as archive:
            member = archive.extractfile(MANIFEST)
            about = json.loads(member.read()) if member else {}
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise InputRefused(
            f"{path} is not a complete Artifact Clinic backup ({error}); choose another file"
        ) from error
    if about.pop("format", None) != FORMAT:
        raise InputRefused(f"{path} is a backup in another format; restore it with the version that wrote it")
    return Backup(path=path, **{**about, "damaged": tuple(about["damaged"])})


def restore(
    backup: Path,
    path: Path,
    database_url: str | None = None,
    blob_url: str | None = None,
    report: Report = no_report,
) -> Workspace:
    """Restore a backup as a workspace in `path`, on the databases and blob store of the arguments or
    environment.

    Blobs are restored first and rows last, in one transaction: an interrupted restore leaves no catalog and
    can be run again. Raises `Conflict` if a catalog exists, `InputRefused` if `backup` is no complete backup,
    `Corrupt` if its content is damaged, `WorkspaceUnusable` if a newer version wrote it.
    """
    about = read_backup(backup)
    workspace = Workspace.located(path, database_url, blob_url)
    with writing(workspace.path):
        workspace.path.mkdir(parents=True, exist_ok=True)
    engine = make_engine(workspace.database_url)
    try:
        if revision(engine) is not None:
            raise Conflict(f"{workspace} already has a catalog; restore into an empty folder and database")
        with tarfile.open(backup, "r:") as archive:
            _restore_blobs(archive, workspace, about, report)
            with engine.begin() as connection:
                _restore_rows(archive, connection, about)
        migrate(engine)
    finally:
        engine.dispose()
    recognise(workspace)
    report(about.blobs, about.blobs, "restored")
    return workspace


def _restore_blobs(archive: tarfile.TarFile, workspace: Workspace, about: Backup, report: Report) -> None:
    small: list[tuple[str, bytes]] = []
    done = 0

    def keep() -> None:
        for (name, _), stored in zip(
            small, workspace.blobs.put_many([data for _, data in small]), strict=True
        ):
            if name != stored:
                raise Corrupt(f"blob {name} in {about.path} is damaged; restore another backup")
        small.clear()

    for member in archive:
        folder, _, name = member.name.rpartition("/")
        if folder != "blobs" or not member.isfile():
            continue
        if member.size <= SMALL:
            small.append((name, _content(archive, member).read()))
        else:
            _restore_large(archive, member, name, workspace, about)
        if len(small) == BATCH:
            keep()
        done += 1
        report(done, about.blobs, "restoring")
    keep()
    if done != about.blobs:
        raise Corrupt(f"{about.path} holds {done} of {about.blobs} blobs; restore another backup")


def _restore_large(
    archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, workspace: Workspace, about: Backup
) -> None:
    with writing(workspace.path), tempfile.NamedTemporaryFile(dir=workspace.path, prefix=".restore-") as file:
        source = _content(archive, member)
        while chunk := source.read(CHUNK):
            file.write(chunk)
        file.flush()
        if workspace.blobs.put_file(Path(file.name)) != name:
            raise Corrupt(f"blob {name} in {about.path} is damaged; restore another backup")


def _restore_rows(archive: tarfile.TarFile, connection: Connection, about: Backup) -> None:
    upgrade(connection, about.revision)
    for table in _tables(connection):
        connection.execute(delete(table))  # rows inserted by the migrations, such as a new identity
        count = 0
        member = archive.getmember(f"catalog/{table.name}.jsonl.gz")
        with gzip.open(_content(archive, member), "rt", encoding="utf-8") as file:
            rows: list[dict[str, Any]] = []
            for line in file:
                rows.append(_as_row(table, line))
                if len(rows) == ROWS:
                    connection.execute(insert(table), rows)
                    count += len(rows)
                    rows = []
            if rows:
                connection.execute(insert(table), rows)
                count += len(rows)
        if count != about.rows[table.name]:
            raise Corrupt(f"{about.path} has {count} rows of {table.name}, not {about.rows[table.name]}")
        _continue_numbering(connection, table)


def _continue_numbering(connection: Connection, table: Table) -> None:
    """Advance PostgreSQL's sequences, which inserts of explicit numbers do not change."""
    numbered = "id" in table.c and isinstance(table.c["id"].type, Integer)
    if connection.dialect.name == "postgresql" and numbered:
        newest = select(func.coalesce(func.max(table.c["id"]), 0) + 1).scalar_subquery()
        counter = func.pg_get_serial_sequence(table.name, "id")
        connection.execute(select(func.setval(counter, newest, text("false"))))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member)
    if content is None:
        raise InputRefused(f"{member.name} in the backup is not a plain file; choose another backup")
    return content


def back_up_before_upgrade(workspace: Workspace) -> Backup:
    """Back up the catalog's rows to `backups/` before a schema change; an upgrade changes no blob."""
    name = (
        f"before-upgrade-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{time.time_ns() % 1_000_000:06d}.tar"
    )
    return back_up(workspace, workspace.path / "backups" / name, blobs=False)
