"""The files' part of an erasure: logs, notes and other files of the workspace's folder."""

import gzip
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from storage.maintenance.scrubbing import FEW, Scrub
from storage.stores.blobs import writing
from storage.workspace import CATALOG_FILE, JOBS_FILE, Workspace

BACKUPS = "backups"
EXPORTS = "exports"
APART = (BACKUPS, "snapshots")
"""Folders of the workspace that are handled on their own."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".ckpt")
LARGEST_TEXT = 256 * 1024 * 1024
CHUNK = 1 << 20


def files_that_name(workspace: Workspace, scrub: Scrub) -> Iterator[Path]:
    """Files in the workspace's folder, besides databases, blobs and backups, whose bytes hold the name."""
    for path in own_files(workspace):
        with path.open("rb") as file:
            if holds(chunks_of(file), scrub):
                yield path


def scrub_file(path: Path, scrub: Scrub) -> bool:
    """Replace the name in a text file; False if the file is no text or is read-only.

    The file is written in place, because a worker may be appending to it.
    """
    if path.stat().st_size > LARGEST_TEXT or not path.stat().st_mode & 0o200:
        return False
    body = path.read_bytes()
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return False
    clean = scrub(text).encode()
    with writing(path.parent), path.open("r+b") as file:
        file.seek(len(body))
        clean += file.read()  # appended meanwhile
        file.seek(0)
        file.write(clean)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    return True


def own_files(workspace: Workspace) -> Iterator[Path]:
    """The plain files of the workspace's folder besides databases, blobs, backups, snapshots and weights."""
    blobs = workspace.blobs.folder
    for folder, names, files in os.walk(workspace.path):
        here = Path(folder)
        names[:] = [name for name in names if here / name != blobs]
        if here == workspace.path:
            names[:] = [name for name in names if name not in APART]
            files = [name for name in files if not name.startswith((CATALOG_FILE, JOBS_FILE))]
        for name in files:
            path = here / name
            if path.is_file() and not path.is_symlink() and path.suffix not in WEIGHTS:
                yield path


def unfinished_exports(workspace: Workspace) -> list[Path]:
    """Temporary files of killed exports and backups, and archives for download, which can be made again."""
    return [
        *workspace.snapshots.folder.rglob("*.tmp"),
        *(path for path in (workspace.path / EXPORTS).glob("*") if path.is_file()),
        *(workspace.path / BACKUPS).glob(".*.partial"),
    ]


def chunks_of(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """A file in parts."""
    while chunk := file.read(CHUNK):
        yield chunk


def holds(parts: Iterable[bytes], scrub: Scrub) -> bool:
    """Whether the scrub would change the bytes as text, also across two parts."""
    forms = [form.encode().lower() for form in scrub.forms]
    overlap = max(map(len, forms), default=0) + 1
    tail = b""
    for part in parts:
        body = tail + part
        lower = body.lower()
        if len(forms) > FEW or any(form in lower for form in forms):
            text = body.decode(errors="replace")
            if scrub(text) != text:
                return True
        tail = body[-overlap:]
    return False
