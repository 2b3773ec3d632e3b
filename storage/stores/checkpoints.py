"""Trained weights: immutable folders in blobs, and scratch folders for resumable training.

A checkpoint's id is the SHA-256 of its manifest, which lists every file with its SHA-256.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dataengine import durable
from dataengine.errors import Corrupt, InputRefused, NotFound
from storage.stores.blobs import Blobs, writing

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
READ_ONLY = 0o400
HANDED_OVER = ".handed-over"


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFile:
    """One file of a checkpoint: path relative to its folder, content, bytes."""

    path: str
    sha256: str
    size: int


class Checkpoints:
    """Published checkpoints in `blobs`, their local copies and the scratch folders under `folder`."""

    def __init__(self, blobs: Blobs, folder: Path) -> None:
        self.blobs = blobs
        self.folder = folder

    def publish(self, folder: Path) -> str:
        """Store every file of `folder` permanently; returns the checkpoint's id, equal for equal content.

        Raises `InputRefused` for an empty folder, a link or anything else but plain files.
        """
        return self.blobs.put(describe(folder, self.blobs.put_file))

    def files(self, checkpoint_id: str) -> list[CheckpointFile]:
        """The files of the checkpoint. `NotFound` if there is none of that id."""
        try:
            manifest = json.loads(self.blobs.get(checkpoint_id))
            files = [CheckpointFile(**entry) for entry in manifest["files"]]
        except (ValueError, KeyError, TypeError):
            raise NotFound(f"blob {checkpoint_id} is not a checkpoint") from None
        for file in files:
            path = PurePosixPath(file.path)
            if path.is_absolute() or ".." in path.parts:
                raise Corrupt(f"checkpoint {checkpoint_id} names {file.path}, which is outside of it")
        return files

    def fetch(self, checkpoint_id: str) -> Path:
        """A local folder with the checkpoint, files read-only: copied once, verified, never incomplete."""
        if local := self.fetched(checkpoint_id):
            return local
        target, files = self.folder / checkpoint_id, self.files(checkpoint_id)
        fresh = self.folder / f".{checkpoint_id}.{os.getpid()}.{time.monotonic_ns()}"
        try:
            with writing(self.folder):
                for file in files:
                    path = fresh / file.path
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self.blobs.fetch(file.sha256, path)
                    path.chmod(READ_ONLY)
                _move_into_place(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return target

    def fetched(self, checkpoint_id: str) -> Path | None:
        """The local folder, None while it is incomplete or absent."""
        target = self.folder / checkpoint_id
        whole = all(_has_size(target / file.path, file.size) for file in self.files(checkpoint_id))
        return target if whole else None

    def forget(self, checkpoint_id: str) -> None:
        """Delete the local copy; the checkpoint itself stays in the blobs."""
        shutil.rmtree(self.folder / _safe(checkpoint_id), ignore_errors=True)

    def pending(self, work_id: str) -> Path:
        """The scratch folder of a job or stage: the same after a kill, until it is discarded."""
        path = self.folder / "pending" / _safe(work_id)
        with writing(self.folder):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def hand_over(self, work_id: str) -> str:
        """Publish the scratch folder, so that another machine can resume; returns the checkpoint's id."""
        folder = self.pending(work_id)
        for stale in folder.rglob(".*"):
            if stale.is_file():
                stale.unlink()
        checkpoint = self.publish(folder)
        durable.write_text(folder / HANDED_OVER, checkpoint)
        return checkpoint

    def take_over(self, work_id: str, checkpoint_id: str) -> None:
        """Fill the scratch folder from another machine's checkpoint, unless it was already resumed from that
        one.

        The previous content is older: the other machine resumed from it.
        """
        folder = self.pending(work_id)
        note = folder / HANDED_OVER
        if note.is_file() and note.read_text() == checkpoint_id:
            return
        self.discard(work_id)
        for file in self.files(checkpoint_id):
            path = self.pending(work_id) / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            self.blobs.fetch(file.sha256, path)
        durable.sync(folder)  # before the note says that they are there
        durable.write_text(note, checkpoint_id)

    def discard(self, work_id: str) -> None:
        """Delete a scratch folder."""
        shutil.rmtree(self.folder / "pending" / _safe(work_id), ignore_errors=True)


def describe(folder: Path, store: Callable[[Path], str]) -> bytes:
    """The manifest of a checkpoint with the files of `folder`; `store` keeps one and returns its SHA-256.

    Raises `InputRefused` for an empty folder, a link or anything else but plain files.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    if odd := [path for path in paths if path.is_symlink() or not path.is_file()]:
        raise InputRefused(f"{odd[0]} is not a plain file; a checkpoint holds plain files only")
    if not paths:
        raise InputRefused(f"{folder} holds no file; save the model there before publishing it")
    files = [
        {"path": path.relative_to(folder).as_posix(), "sha256": store(path), "size": path.stat().st_size}
        for path in paths
    ]
    return json.dumps({"files": files}, sort_keys=True).encode()


def _move_into_place(fresh: Path, target: Path) -> None:
    stale = fresh.with_name(fresh.name + ".stale")
    if target.exists():
        target.rename(stale)
    try:
        durable.move(fresh, target)
    except OSError:
        # Another process fetched the same checkpoint first: its copy is equal.
        if not target.is_dir():
            raise
    shutil.rmtree(stale, ignore_errors=True)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _safe(name: str) -> str:
    """The name if it is valid for one folder; otherwise its hash."""
    return name if SAFE_NAME.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()
