"""Writing a backup: the catalog's rows as JSON lines, every blob, and the files of local generators.

The rows are read in one transaction while work goes on, and written in one form for every database: a team's
PostgreSQL can be restored to a laptop's SQLite and vice versa. Scratch folders of unfinished training,
exported shards, fetched checkpoints and key files are not included; queued jobs are enqueued again by the
next worker. `storage.maintenance.backup_format` describes the file.
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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, Engine, Table, select

from dataengine import durable
from dataengine.errors import ClinicError, Conflict, Corrupt, InputRefused, NotFound
from dataengine.records import FILES, GeneratorVersion, Report, no_report, now
from storage.engine import connect_for_reading
from storage.identity import identity_of
from storage.locations import unregistered_folder
from storage.maintenance.backup_format import (
    BLOBS,
    CATALOG,
    HEADER,
    JSON_LINES,
    MANIFEST,
    Backup,
    Header,
    Manifest,
    TableEntry,
    tables_of,
)
from storage.migrate import REVISION, revision
from storage.stores.blobs import Blobs, writing
from storage.stores.checkpoints import describe
from storage.workspace import Workspace

ROWS = 5000
MODEL_KINDS = ("generator", "detector", "vqa", "scorer", "segmenter", "llm")


@dataclass
class Content:
    """Content to be written, by hash: where each comes from, and its size."""

    sources: dict[str, Path | bytes | None] = field(default_factory=dict)
    """A file, bytes, or None for a blob of the store."""
    sizes: dict[str, int] = field(default_factory=dict)

    def add_file(self, path: Path) -> str:
        """Add a file; returns its SHA-256."""
        with path.open("rb") as file:
            name = hashlib.file_digest(file, "sha256").hexdigest()
        self.sources.setdefault(name, path)
        self.sizes.setdefault(name, path.stat().st_size)
        return name

    def add_bytes(self, data: bytes) -> str:
        """Add bytes; returns their SHA-256."""
        name = hashlib.sha256(data).hexdigest()
        self.sources.setdefault(name, data)
        self.sizes.setdefault(name, len(data))
        return name


def back_up(
    workspace: Workspace,
    target: Path,
    *,
    blobs: bool = True,
    models: bool = True,
    key: bytes | None = None,
    report: Report = no_report,
) -> Backup:
    """Write the catalog to a tar file, which appears once it is complete; unless `blobs` is false, with all
    blobs, and unless `models` is false, with the files of detectors and generators. `key` signs it.

    Raises `Conflict` if `target` exists, `WorkspaceUnusable` if its disk is full or read-only,
    `ConfigRefused` for a short key.
    """
    if target.exists():
        raise Conflict(f"{target} already exists and backups are never overwritten; choose another name")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                tempfile.TemporaryDirectory(prefix=".backup-", dir=target.parent) as scratch,
                _private(partial) as file,
                tarfile.open(fileobj=file, mode="w") as archive,
            ):
                writer = _Writer(workspace, archive, Path(scratch), report)
                manifest = writer.write(blobs, blobs and models)
                body = manifest.written()
                header = Header.of(body, key)
                writer.add(MANIFEST, body)
                writer.add(HEADER, header.model_dump_json().encode())
            durable.move(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    return manifest.about(target, signed=header.signature is not None)


@dataclass
class _Writer:
    workspace: Workspace
    archive: tarfile.TarFile
    scratch: Path
    report: Report
    created: float = field(default_factory=now)

    def write(self, with_blobs: bool, with_models: bool) -> Manifest:
        """Write rows and content; returns the manifest of what was written."""
        version = revision(self.workspace.engine)
        if version is None:
            raise NotFound(f"{self.workspace.path} has no catalog to back up")
        current = version == REVISION
        content = Content()
        folders: dict[str, str] = {}
        outside: tuple[str, ...] = ()
        if current and with_blobs:
            folders, outside = self._local_models(content if with_models else Content())
        # Rows first: the blobs they refer to were stored before them.
        tables = dict(_dump(self.workspace.engine, self.scratch, folders if with_models else {}))
        if with_blobs:
            for blob in self.workspace.blobs.stored():
                content.sources[blob.sha256], content.sizes[blob.sha256] = None, blob.size
        if with_blobs and not with_models:
            for name in self._model_files():
                content.sources.pop(name, None)
        blobs, damaged = self._add_content(content)
        for name in tables:
            path = self.scratch / f"{name}{JSON_LINES}"
            with path.open("rb") as file:
                entry = _entry(f"{CATALOG}{path.name}", path.stat().st_size, self.created)
                self.archive.addfile(entry, file)
        return Manifest(
            revision=version,
            created=self.created,
            workspace=identity_of(self.workspace.engine) if version >= "0006" else "",
            tables=tables,
            blobs=blobs,
            damaged=tuple(damaged),
            outside=outside,
            models=with_models,
        )

    def add(self, name: str, body: bytes) -> None:
        """Add a small member."""
        self.archive.addfile(_entry(name, len(body), self.created), io.BytesIO(body))

    def _add_content(self, content: Content) -> tuple[dict[str, int], list[str]]:
        added: dict[str, int] = {}
        damaged: list[str] = []
        for number, (name, source) in enumerate(content.sources.items()):
            self.report(number, len(content.sources), "backing up")
            with _opened(self.workspace.blobs, name, source, self.scratch) as (file, size):
                if file is None:
                    damaged.append(name)
                    continue
                self.archive.addfile(_entry(f"{BLOBS}{name}", size, self.created), file)
                added[name] = size
        self.report(len(content.sources), len(content.sources), "backed up")
        return added, damaged

    def _local_models(self, content: Content) -> tuple[dict[str, str], tuple[str, ...]]:
        """The checkpoints of generators whose files are in local folders, by generator, their content added;
        and the locations that no backup can hold."""
        with self.workspace.catalog(read_only=True) as catalog:
            generators = [one for one in catalog.generators.list() if not one.settings.get(FILES)]
            endpoints = [one for one in catalog.endpoints.list() if one.kind in MODEL_KINDS]
        known: dict[str, str] = {}
        folders: dict[str, str] = {}
        outside = {one.location for one in endpoints if Path(one.location).is_absolute()}
        for number, one in enumerate(generators):
            self.report(number, len(generators), "collecting generators")
            if not Path(one.location).is_dir():
                if Path(one.location).is_absolute() or unregistered_folder(one.location):
                    outside.add(one.location)
                continue
            if one.location not in known:
                try:
                    known[one.location] = content.add_bytes(describe(Path(one.location), content.add_file))
                except InputRefused:  # it is empty, or holds links
                    outside.add(one.location)
                    continue
            folders[one.id] = known[one.location]
        return folders, tuple(sorted(outside))

    def _model_files(self) -> set[str]:
        """Blobs that are files of detectors, LoRAs and generators."""
        with self.workspace.catalog(read_only=True) as catalog:
            checkpoints = {one.checkpoint for one in catalog.detectors.list()}
            for one in catalog.generators.list():
                checkpoints |= set(_checkpoints_of(one))
        found: set[str] = set()
        for checkpoint in checkpoints:
            try:
                found |= {file.sha256 for file in self.workspace.checkpoints.files(checkpoint)}
            except ClinicError:
                continue  # it is damaged or absent, and listed as such
        return found


def _checkpoints_of(generator: GeneratorVersion) -> Iterator[str]:
    for checkpoint in (generator.lora, generator.settings.get(FILES)):
        if checkpoint:
            yield checkpoint


def _private(path: Path) -> IO[bytes]:
    """A new file that other accounts of the machine cannot read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _dump(engine: Engine, folder: Path, checkpoints: Mapping[str, str]) -> Iterator[tuple[str, TableEntry]]:
    """Write every table's rows as JSON lines; the tables are those of the database, of whatever version.

    Generators with local files get their checkpoint, from which any machine can fetch them.
    """
    with connect_for_reading(engine) as connection:
        for table in tables_of(connection):
            lines = table_lines(connection, table, checkpoints if table.name == "generators" else {})
            rows, size, digest = 0, 0, hashlib.sha256()
            with gzip.open(folder / f"{table.name}{JSON_LINES}", "wb", compresslevel=3) as file:
                for line in lines:
                    file.write(line)
                    digest.update(line)
                    rows, size = rows + 1, size + len(line)
            yield table.name, TableEntry(rows=rows, bytes=size, sha256=digest.hexdigest())


def table_lines(
    connection: Connection, table: Table, checkpoints: Mapping[str, str] | None = None
) -> Iterable[bytes]:
    """A table's rows as JSON lines, in any order: equal rows give equal lines on every database."""
    for row in connection.execute(select(table).execution_options(yield_per=ROWS)).mappings():
        values = dict(sorted(((str(name), value) for name, value in row.items()), key=itemgetter(0)))
        if checkpoints and values["id"] in checkpoints:
            values["settings"] = {**values["settings"], FILES: checkpoints[values["id"]]}
        yield json.dumps(values, default=_as_text).encode() + b"\n"


def _as_text(value: Any) -> str:
    """Bytes in a row, such as a draft's label map."""
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(value).decode()
    raise TypeError(f"a {type(value).__name__} in the catalog cannot be written to a backup")


@contextmanager
def _opened(
    blobs: Blobs, name: str, source: Path | bytes | None, scratch: Path
) -> Iterator[tuple[IO[bytes] | None, int]]:
    """Verified content with its size; None if it is damaged, or was cleared meanwhile."""
    fetched = scratch / name
    try:
        if isinstance(source, bytes):
            yield io.BytesIO(source), len(source)
            return
        path = source or blobs.path_or_none(name)
        if path is None:
            blobs.fetch(name, fetched)
        with (path or fetched).open("rb") as file:
            sound = hashlib.file_digest(file, "sha256").hexdigest() == name
            size = file.tell()
            file.seek(0)
            yield (file if sound else None), size
    except (NotFound, Corrupt, FileNotFoundError):
        yield None, 0
    finally:
        fetched.unlink(missing_ok=True)


def _entry(name: str, size: int, modified: float) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, int(modified), 0o600
    return entry


def back_up_before_upgrade(workspace: Workspace) -> Backup:
    """Back up the catalog's rows to `backups/` before a schema change; an upgrade changes no blob."""
    name = (
        f"before-upgrade-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{time.time_ns() % 1_000_000:06d}.tar"
    )
    return back_up(workspace, workspace.path / "backups" / name, blobs=False)
