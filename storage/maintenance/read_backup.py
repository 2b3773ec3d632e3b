"""Reading a backup: every part is checked against the manifest before it is used.

A backup may be damaged or forged, so nothing in it is trusted: names, sizes, counts and digests have to be
those of the manifest, the manifest that of the header, and its signature that of the key. Content is read in
bounded pieces. Whatever is wrong is one sentence.
"""

import base64
import hashlib
import hmac
import json
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sqlalchemy import JSON, Boolean, Column, Float, Integer, LargeBinary, Table

from dataengine.errors import Corrupt, InputRefused
from storage.maintenance.backup_format import (
    BLOBS,
    CATALOG,
    FORMAT,
    HEADER,
    JSON_LINES,
    MANIFEST,
    Backup,
    FirstHeader,
    Header,
    Manifest,
    TableEntry,
    format_of,
    sign,
)
from storage.stores.blobs import CHUNK, SHA256

MOST_HEADER = 1 << 26
MOST_MANIFEST = 1 << 29
MOST_LINE = 1 << 26
"""Largest header, manifest and row in bytes."""
GZIP = 31

PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
DAMAGE = (
    *(tarfile.TarError, zlib.error, EOFError),
    *(ValueError, TypeError, KeyError, OverflowError, RecursionError),
)
"""What reading damaged content raises."""


@dataclass(frozen=True)
class BackupFile:
    """An open backup whose structure was checked."""

    path: Path
    archive: tarfile.TarFile
    members: dict[str, tarfile.TarInfo]
    manifest: Manifest
    about: Backup

    def blobs(self) -> Iterator[tuple[str, int, IO[bytes]]]:
        """Name, size and content of each blob. The content is unverified: whoever stores it compares."""
        for name, member in self.members.items():
            if name.startswith(BLOBS):
                yield name.removeprefix(BLOBS), member.size, self._content(member)

    def lines(self, table: str) -> Iterator[bytes]:
        """A table's rows as JSON lines. Raises `Corrupt` at the end if they are not those of the manifest."""
        entry = self.manifest.tables[table]
        member = self.members[f"{CATALOG}{table}{JSON_LINES}"]
        digest, count, size = hashlib.sha256(), 0, 0
        with damage(self.path, f"table {table}"):
            for line in _lines(self._content(member), entry):
                digest.update(line)
                count, size = count + 1, size + len(line)
                if count > entry.rows:
                    break
                yield line
        if count != entry.rows or entry.bytes not in (None, size):
            raise Corrupt(
                f"{self.path} is damaged: table {table} has other rows than its manifest says "
                f"({count} read, {entry.rows} expected); restore another backup"
            )
        if entry.sha256 not in (None, digest.hexdigest()):
            raise Corrupt(
                f"{self.path} is damaged: table {table} does not match its digest; restore another backup"
            )

    def check_tables(self) -> None:
        """Read every table once. Raises `Corrupt`."""
        for table in self.manifest.tables:
            for line in self.lines(table):
                with damage(self.path, f"table {table}"):
                    json.loads(line)

    def rows(self, table: Table) -> Iterator[dict[str, Any]]:
        """A table's rows, with the columns and types of the database's table. Raises `Corrupt`."""
        for line in self.lines(table.name):
            with damage(self.path, f"table {table.name}"):
                yield checked_row(table, json.loads(line))

    def corrupt_blob(self, name: str) -> Corrupt:
        """The error for a blob that does not match its name."""
        return Corrupt(f"{self.path} is damaged: blob {name} does not match its hash; restore another backup")

    def _content(self, member: tarfile.TarInfo) -> IO[bytes]:
        content = self.archive.extractfile(member)
        if content is None:
            raise ValueError(f"{member.name} is not a plain file")
        return content


@contextmanager
def open_backup(path: Path, key: bytes | None = None) -> Iterator[BackupFile]:
    """Open a backup and check its structure, and its signature if a `key` is given.

    Raises `InputRefused` if it is no complete backup that this version reads, `Corrupt` if its members are
    not those of its manifest, or the signature is not the key's.
    """
    with _archive(path) as archive:
        with _incomplete(path):
            members = _members(archive, path)
            body = _small(archive, members, HEADER, MOST_HEADER)
            number = format_of(body)
        if number not in (1, FORMAT):
            raise InputRefused(
                f"{path} is a backup in another format ({number}); restore it with the version that wrote it"
            )
        if number == 1:
            with _incomplete(path):
                manifest = _of_first_format(path, FirstHeader.model_validate_json(body), members)
            signed = False
        else:
            with damage(path, "its manifest"):
                header = Header.model_validate_json(body)
                written = _small(archive, members, MANIFEST, MOST_MANIFEST)
                if hashlib.sha256(written).hexdigest() != header.manifest:
                    raise ValueError("it does not match its digest")
                manifest = Manifest.model_validate_json(written)
                if any(entry.bytes is None or entry.sha256 is None for entry in manifest.tables.values()):
                    raise ValueError("a table has no digest")
            signed = header.signature is not None
            _check_signature(path, header, written, key)
        if number == 1 and key is not None:
            raise _unsigned(path)
        _check_names(path, manifest, members, number)
        yield BackupFile(path, archive, members, manifest, manifest.about(path, signed))


def read_backup(path: Path) -> Backup:
    """The summary of a backup file. Raises as `open_backup`; the content itself is not read."""
    with open_backup(path) as backup:
        return backup.about


@contextmanager
def damage(path: Path, where: str) -> Iterator[None]:
    """Translate what damaged content raises to one clear `Corrupt`."""
    try:
        yield
    except DAMAGE as error:
        raise Corrupt(
            f"{path} is damaged: {where} cannot be read ({reason(error)}); restore another backup"
        ) from error


def reason(error: BaseException) -> str:
    """An error's message in one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def _incomplete(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, *DAMAGE) as error:
        raise InputRefused(
            f"{path} is not a complete Artifact Clinic backup ({reason(error)}); choose another file"
        ) from error


@contextmanager
def _archive(path: Path) -> Iterator[tarfile.TarFile]:
    with _incomplete(path):
        archive = tarfile.open(path, "r:")  # noqa: SIM115
    with archive:
        yield archive


def _members(archive: tarfile.TarFile, path: Path) -> dict[str, tarfile.TarInfo]:
    """The members by name. Raises `ValueError` for one that no backup has."""
    found: dict[str, tarfile.TarInfo] = {}
    end = 0
    for member in archive:
        if (
            member.type not in PLAIN
            or member.sparse is not None
            or member.pax_headers.keys() - {"size", "mtime"}
        ):
            raise ValueError(f"{member.name!r:.80} is not a plain file")
        if member.name in found:
            raise ValueError(f"{member.name!r:.80} is there twice")
        found[member.name] = member
        end = member.offset_data + member.size
    size = path.stat().st_size
    if end > size:
        raise ValueError("it was cut off")
    rest = size - end
    if rest > 4 * tarfile.RECORDSIZE:
        raise ValueError("something follows its end")
    with path.open("rb") as file:
        file.seek(end)
        if file.read(rest).strip(b"\0"):
            raise ValueError("something follows its end")
    return found


def _small(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str, most: int) -> bytes:
    if name not in members:
        raise ValueError(f"it has no {name}")
    member = members[name]
    content = archive.extractfile(member)
    if content is None or member.size > most:
        raise ValueError(f"{name} has {member.size} bytes, more than {most}")
    return content.read()


def _of_first_format(path: Path, header: FirstHeader, members: dict[str, tarfile.TarInfo]) -> Manifest:
    blobs = {name.removeprefix(BLOBS): one.size for name, one in members.items() if name.startswith(BLOBS)}
    manifest = Manifest(
        revision=header.revision,
        created=header.created,
        workspace="",
        tables={name: TableEntry(rows=count) for name, count in header.rows.items()},
        blobs=blobs,
        damaged=header.damaged,
        outside=(),
        models=bool(blobs),
    )
    if len(blobs) != header.blobs or sum(blobs.values()) != header.bytes:
        raise Corrupt(
            f"{path} is damaged: it holds {len(blobs)} of {header.blobs} blobs; restore another backup"
        )
    return manifest


def _check_signature(path: Path, header: Header, written: bytes, key: bytes | None) -> None:
    if key is None:
        return
    if header.signature is None:
        raise _unsigned(path)
    if not hmac.compare_digest(header.signature, sign(written, key)):
        raise Corrupt(
            f"{path} was signed with another key, or was changed; give the key of the workspace that made "
            "it, or restore another backup"
        )


def _unsigned(path: Path) -> InputRefused:
    return InputRefused(
        f"{path} is not signed, but a key was given: anybody may have changed it. Restore a signed backup, "
        "or give no key if you trust this one"
    )


def _check_names(path: Path, manifest: Manifest, members: dict[str, tarfile.TarInfo], number: int) -> None:
    """Raise `Corrupt` unless the members are exactly those of the manifest."""
    expected = {f"{BLOBS}{name}": size for name, size in manifest.blobs.items()}
    tables = {f"{CATALOG}{name}{JSON_LINES}" for name in manifest.tables}
    named = {*expected, *tables, HEADER, *([MANIFEST] if number == FORMAT else [])}
    if extra := sorted(members.keys() - named):
        raise Corrupt(f"{path} is damaged: {extra[0]!r:.80} does not belong into it; restore another backup")
    if absent := sorted(named - members.keys()):
        raise Corrupt(f"{path} is damaged: {absent[0]!r:.80} is missing; restore another backup")
    for name, size in expected.items():
        if members[name].size != size or not SHA256.fullmatch(name.removeprefix(BLOBS)):
            raise Corrupt(f"{path} is damaged: {name!r:.80} is not as listed; restore another backup")


def _lines(content: IO[bytes], entry: TableEntry) -> Iterator[bytes]:
    """Decompressed lines, of no more bytes than the entry says. Raises `ValueError`."""
    unpacker = zlib.decompressobj(GZIP)
    begun: list[bytes] = []
    total = 0
    while not unpacker.eof:
        packed = unpacker.unconsumed_tail or content.read(CHUNK // 16)
        if not packed:
            raise EOFError("it was cut off")
        piece = unpacker.decompress(packed, CHUNK)
        total += len(piece)
        if entry.bytes is not None and total > entry.bytes:
            raise ValueError(f"it unpacks to more than the {entry.bytes} bytes of its manifest")
        begun.append(piece)
        if b"\n" in piece:
            *lines, rest = b"".join(begun).split(b"\n")
            begun = [rest]
            yield from (line + b"\n" for line in lines)
        elif sum(map(len, begun)) > MOST_LINE:
            raise ValueError(f"a row has more than {MOST_LINE} bytes")
    if unpacker.unused_data or content.read(1) or any(begun):
        raise ValueError("something follows its end")


def checked_row(table: Table, row: Any) -> dict[str, Any]:
    """A row for the table. Raises `ValueError` for other columns or types."""
    if not isinstance(row, dict) or row.keys() != {column.name for column in table.columns}:
        raise ValueError("a row has other columns than the table")
    return {column.name: _checked_value(column, row[column.name]) for column in table.columns}


def _checked_value(column: Column[Any], value: Any) -> Any:
    if isinstance(column.type, JSON):
        return value
    if value is None:
        if not column.nullable:
            raise ValueError(f"column {column.name} is empty")
        return None
    if isinstance(column.type, LargeBinary):
        return base64.b64decode(_of_type(column, value, str), validate=True)
    if isinstance(column.type, Boolean):
        return _of_type(column, value, bool)
    if isinstance(column.type, Integer):
        return _of_type(column, value, int)
    if isinstance(column.type, Float):
        return _of_type(column, value, float, int)
    return _of_type(column, value, str)


def _of_type(column: Column[Any], value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise ValueError(f"column {column.name} holds a {type(value).__name__}, not a {kinds[0].__name__}")
    return value
