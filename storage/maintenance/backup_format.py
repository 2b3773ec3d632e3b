"""The layout of a backup: one tar file, its manifest, and the manifest's digest and signature.

    blobs/SHA256             content, each once: pixels, labels, checkpoints, generators' files
    catalog/TABLE.jsonl.gz   one JSON object a row
    manifest.json            every table with rows, bytes and SHA-256, every blob with its size
    backup.json              the format, the manifest's SHA-256, and its signature if a key was given

Format 1, which earlier versions wrote, has no `manifest.json`, and no digests of tables.
"""

import hashlib
import hmac
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, MetaData, Table

from dataengine.errors import ConfigRefused
from storage.prompt_search import INDEX

FORMAT = 2
HEADER, MANIFEST = "backup.json", "manifest.json"
BLOBS, CATALOG, JSON_LINES = "blobs/", "catalog/", ".jsonl.gz"
LEAST_KEY = 16
"""A signing key has at least this many bytes."""

Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Backup:
    """The content of a backup.

    `damaged` names blobs that did not match their hash and were not included, `outside` the locations of
    models that are neither included nor on a hub. `models`: whether it has the files of detectors and
    generators.
    """

    path: Path
    revision: str
    created: float
    rows: dict[str, int]
    blobs: int
    bytes: int
    damaged: tuple[str, ...]
    outside: tuple[str, ...] = ()
    models: bool = True
    signed: bool = False


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class TableEntry(_Strict):
    """A table in the manifest: rows, and the uncompressed JSON lines' bytes and SHA-256."""

    rows: Count
    bytes: Count | None = None
    """None, as the digest, in a backup of format 1."""
    sha256: Digest | None = None


class Manifest(_Strict):
    """What a backup holds."""

    revision: str
    created: float
    workspace: str
    tables: dict[str, TableEntry]
    blobs: dict[Digest, Count]
    damaged: tuple[str, ...]
    outside: tuple[str, ...]
    models: bool

    def written(self) -> bytes:
        """The content of `manifest.json`."""
        return self.model_dump_json().encode()

    def about(self, path: Path, signed: bool) -> Backup:
        """The summary for people."""
        return Backup(
            path=path,
            revision=self.revision,
            created=self.created,
            rows={name: entry.rows for name, entry in self.tables.items()},
            blobs=len(self.blobs),
            bytes=sum(self.blobs.values()),
            damaged=self.damaged,
            outside=self.outside,
            models=self.models,
            signed=signed,
        )


class Header(_Strict):
    """The content of `backup.json`."""

    format: int
    manifest: Digest
    signature: Digest | None

    @classmethod
    def of(cls, manifest: bytes, key: bytes | None) -> "Header":
        """The header for a manifest, signed if a key is given."""
        signature = None if key is None else sign(manifest, key)
        return cls(format=FORMAT, manifest=hashlib.sha256(manifest).hexdigest(), signature=signature)


class FirstHeader(_Strict):
    """The content of `backup.json` in format 1."""

    format: int
    revision: str
    created: float
    rows: dict[str, Count]
    blobs: Count
    bytes: Count
    damaged: tuple[str, ...]


def format_of(header: bytes) -> int:
    """The number of the format. Raises `ValueError` if there is none."""
    found = json.loads(header)
    if not isinstance(found, dict) or not isinstance(found.get("format"), int):
        raise ValueError(f"{HEADER} names no format")
    return int(found["format"])


def sign(manifest: bytes, key: bytes) -> str:
    """HMAC-SHA256 of a manifest. Raises `ConfigRefused` for a short key."""
    if len(key) < LEAST_KEY:
        raise ConfigRefused(
            f"the key of backups has {len(key)} bytes, but at least {LEAST_KEY} are needed; make one with "
            "`openssl rand -hex 32`"
        )
    return hmac.new(key, manifest, hashlib.sha256).hexdigest()


def tables_of(connection: Connection) -> list[Table]:
    """The database's tables, of whatever schema version, in the order in which rows may be inserted; not
    those of the search index, which triggers fill."""
    metadata = MetaData()
    metadata.reflect(connection, only=lambda name, _: not name.startswith(INDEX))
    return [table for table in metadata.sorted_tables if table.name != "alembic_version"]
