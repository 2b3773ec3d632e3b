"""Automatic backups: their names, their copies in a second place, and how many are kept.

Only files with a name that `backup_name` made for the same workspace are counted and deleted; a file gets
that name once it is complete, and a copy once it was read back and compared.
"""

import hashlib
import re
import time
from pathlib import Path
from typing import Any

from dataengine import durable
from dataengine.errors import InputRefused, StorageError, WorkspaceUnusable
from storage.identity import identity_of
from storage.stores.blobs import CHUNK, writing
from storage.workspace import Workspace


def backup_name(workspace: Workspace) -> str:
    """The name of a new automatic backup: its UTC time, and the start of the workspace's identity."""
    at = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return f"backup-{at}-{_own(workspace)}.tar"


def copy_backup(file: Path, url: str) -> str:
    """Copy a backup to the folder at an fsspec URL, and compare the copy with it; returns the copy's URL.

    Raises `InputRefused` for an unusable URL, `WorkspaceUnusable` if the place does not take the copy or
    returns other bytes; an incomplete copy is deleted.
    """
    from fsspec.implementations.local import LocalFileSystem

    fs, folder = _opened(url)
    target = f"{folder}/{file.name}"
    partial = f"{target}.partial"
    try:
        with writing(url):
            fs.makedirs(folder, exist_ok=True)
            fs.put_file(str(file), partial)
        if _digest(fs.open(partial, "rb")) != _digest(file.open("rb")):
            raise WorkspaceUnusable(
                f"{url} returned other bytes than were copied there; {file} is complete, but has no copy. "
                "Try again, or use another place"
            )
        if isinstance(fs, LocalFileSystem):
            durable.move(Path(partial), Path(target))
        else:
            fs.mv(partial, target)
    except StorageError:
        _discard(fs, partial)
        raise
    except Exception as error:  # each store has its own
        _discard(fs, partial)
        raise WorkspaceUnusable(
            f"{file.name} could not be copied to {url} ({' '.join(str(error).split())[:200]}); {file} is "
            "complete, but has no copy. Check the address and its credentials, then copy it again"
        ) from error
    return f"{url.rstrip('/')}/{file.name}"


def keep_newest(workspace: Workspace, place: str, keep: int) -> list[str]:
    """Delete this workspace's automatic backups in a folder or at a URL except the `keep` newest; returns
    the names of the deleted ones. Raises `InputRefused` unless `keep` is at least 1.
    """
    if keep < 1:
        raise InputRefused(f"at least one backup has to be kept, not {keep}")
    fs, folder = _opened(place)
    pattern = re.compile(rf"backup-\d{{8}}-\d{{6}}-{_own(workspace)}\.tar")
    names = (entry.rpartition("/")[2] for entry in fs.ls(folder, detail=False))
    old = sorted(name for name in names if pattern.fullmatch(name))[:-keep]
    for name in old:
        fs.rm_file(f"{folder}/{name}")
    return old


def _own(workspace: Workspace) -> str:
    return identity_of(workspace.engine)[:8]


def _opened(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        fs, folder = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputRefused(
            f"{url} is no address of a folder ({error}); use a path or an fsspec URL"
        ) from None
    return fs, str(folder).rstrip("/")


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    with file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _discard(fs: Any, path: str) -> None:
    try:
        fs.rm_file(path)
    except Exception:  # it is not there, or the place is gone
        return
