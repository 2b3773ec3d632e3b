"""Content-addressed bytes: a blob's name is the SHA-256 of its content.

On a file system a blob is written under a temporary name, synced and renamed, and its name is synced before
`put` returns; on an object store it is a conditional put where the store supports it, the store's response
counts as durable, and its silence is bounded (`storage.stores.remote`). Reads are verified, so damage never
spreads.
"""

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from dataengine import durable
from dataengine.errors import Corrupt, NotFound, StorageError, Unavailable, WorkspaceUnusable
from storage.stores.remote import OPTIONS, Reader, Remote

T = TypeVar("T")

CHUNK = 1 << 20
SYNC_THREADS = 8
SHA256 = re.compile(r"[0-9a-f]{64}")
LEFTOVER_SECONDS = 24 * 3600.0
TRASH = "trash"
"""Folder under the root for unneeded blobs, until their grace period ends."""

UNUSABLE = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "is over its quota",
    errno.EFBIG: "does not allow a file of this size",
    errno.EROFS: "is read-only",
    errno.EACCES: "is not writable for this user",
    errno.EPERM: "is not writable for this user",
    errno.EIO: "has a hardware fault",
}
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def writing(where: str | Path) -> Iterator[None]:
    """Translate the errors of a disk to one clear sentence: `Unavailable` when it is full,
    `WorkspaceUnusable` when it is read-only, forbidden or broken."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        kind = Unavailable if error.errno in FULL else WorkspaceUnusable
        raise kind(
            f"{where} {UNUSABLE[error.errno]}; no incomplete data was written. "
            "Free space or fix its permissions, then run the same again."
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredBlob:
    """A blob in the store's listing: size in bytes, time of writing in epoch seconds."""

    sha256: str
    size: int
    modified: float


class Blobs:
    """The blobs under one local folder or fsspec URL."""

    def __init__(self, location: str | Path) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        protocol = str(location).partition("://")[0]
        fs, root = url_to_fs(str(location), **OPTIONS.get(protocol, {}))
        self.folder = Path(root) if isinstance(fs, LocalFileSystem) else None
        self.root = root.rstrip("/")
        self.fs: Any = fs if self.folder is not None else Remote(fs, self.root)
        self._named: set[Path] = set()
        """Folders whose own names are known to be on the disk."""

    def __repr__(self) -> str:
        return f"Blobs({self.root!r})"

    def put(self, data: bytes) -> str:
        """Store `data`; returns its SHA-256. Storing the same bytes again changes nothing."""
        return self.put_many([data])[0]

    def put_many(self, items: Sequence[bytes]) -> list[str]:
        """Store all items with one sync; returns their SHA-256, in order."""
        names = [hashlib.sha256(item).hexdigest() for item in items]
        fresh = {name: item for name, item in zip(names, items, strict=True) if self._lacks(name, len(item))}
        with writing(self.root):
            if self.folder is None:
                for name, item in fresh.items():
                    self._put_if_absent(name, item)
            else:
                self._put_files(self.folder, fresh)
                self._sync_names(names)
        return names

    def put_file(self, source: Path) -> str:
        """Store a file without reading it into memory; returns its SHA-256."""
        with source.open("rb") as file:
            name = hashlib.file_digest(file, "sha256").hexdigest()
        if not self._lacks(name, source.stat().st_size):
            self._sync_names([name])
            return name
        with writing(self.root):
            if self.folder is None:
                self.fs.makedirs(self._key(name).rpartition("/")[0], exist_ok=True)
                self.fs.put_file(str(source), self._key(name))
            else:
                with source.open("rb") as file, self._temporary(self.folder, name) as target:
                    if _copy(file, target) != name:
                        raise Corrupt(f"{source} changed while it was being stored; store it again")
                self._sync_names([name])
        return name

    def get(self, sha256: str) -> bytes:
        """The bytes of a blob. `NotFound` if absent, `Corrupt` if they do not match their name."""
        data = self._read(sha256)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise self._corrupt(sha256)
        return data

    def get_range(self, sha256: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, unverified: for packs whose parts have their own checksum."""
        return self._read(sha256, offset, offset + length)

    def fetch(self, sha256: str, target: Path) -> None:
        """Copy a blob to the file `target`, verified while it is copied."""
        with (
            self._missing(sha256),
            self.fs.open(self._key(sha256), "rb") as source,
            writing(target.parent),
            target.open("wb") as file,
        ):
            digest = _copy(source, file)
        if digest != sha256:
            target.unlink()
            raise self._corrupt(sha256)

    def chunks(self, sha256: str) -> Iterator[bytes]:
        """The bytes of a blob in parts. `NotFound` if absent; `Corrupt` instead of the last part if they do
        not match their name."""
        digest, last = hashlib.sha256(), b""
        with self._missing(sha256), self.fs.open(self._key(sha256), "rb") as source:
            while chunk := source.read(CHUNK):
                if last:
                    yield last
                digest.update(chunk)
                last = chunk
        if digest.hexdigest() != sha256:
            raise self._corrupt(sha256)
        yield last

    def has(self, sha256: str) -> bool:
        """Whether the blob exists."""
        if self.folder is not None:
            return Path(self._key(sha256)).is_file()
        return bool(self.fs.isfile(self._key(sha256)))

    def size(self, sha256: str) -> int:
        """Size of a blob in bytes; `NotFound` if absent."""
        with self._missing(sha256):
            return int(self.fs.size(self._key(sha256)))

    def delete(self, sha256: str) -> bool:
        """Delete a blob; returns whether it existed."""
        with suppress(FileNotFoundError), writing(self.root):
            self.fs.rm_file(self._key(sha256))
            return True
        return False

    def purge(self, sha256: str) -> bool:
        """Delete a blob, its copy in the trash and what killed writers left of it; returns whether it existed
        outside the trash."""
        existed = self.delete(sha256)
        self.empty_trash(sha256)
        for leftover in self.folder.glob(f"tmp/{sha256}.*") if self.folder is not None else ():
            leftover.unlink(missing_ok=True)
        return existed

    def discard(self, sha256: str) -> bool:
        """Move a blob to the trash, from which a read restores it; returns whether it existed."""
        with suppress(FileNotFoundError), writing(self.root):
            self._move(self._key(sha256), self._trash_key(sha256))
            return True
        return False

    def take_back(self, sha256: str) -> bool:
        """Restore a blob from the trash; returns whether it was there."""
        with suppress(FileNotFoundError), writing(self.root):
            self._move(self._trash_key(sha256), self._key(sha256))
            return True
        return False

    def trashed(self) -> Iterator[StoredBlob]:
        """Every blob in the trash, with the time at which it was trashed."""
        folder = f"{self.root}/{TRASH}"
        for entry in self.fs.find(folder, detail=True).values() if self.fs.exists(folder) else ():
            name = entry["name"].rpartition("/")[2]
            if SHA256.fullmatch(name):
                yield StoredBlob(sha256=name, size=int(entry["size"]), modified=_modified(entry))

    def empty_trash(self, sha256: str) -> None:
        """Delete a blob in the trash permanently."""
        with suppress(FileNotFoundError), writing(self.root):
            self.fs.rm_file(self._trash_key(sha256))

    def path_or_none(self, sha256: str) -> Path | None:
        """The local file of a blob, read-only; None when the store is remote or the blob absent."""
        return Path(self._key(sha256)) if self.folder is not None and self.has(sha256) else None

    def read_root(self, name: str) -> bytes | None:
        """Read a small file in the store's root, such as the owner's mark; None if absent."""
        try:
            return bytes(self.fs.cat_file(f"{self.root}/{name}"))
        except FileNotFoundError:
            return None

    def write_root(self, name: str, data: bytes) -> None:
        """Write a small file to the store's root."""
        with writing(self.root):
            if self.folder is not None:
                durable.make_folder(self.folder)
                durable.write_text(self.folder / name, data.decode())
            else:
                self.fs.makedirs(self.root, exist_ok=True)
                self.fs.pipe_file(f"{self.root}/{name}", data)

    def stored(self) -> Iterator[StoredBlob]:
        """Every blob, in no particular order; not those of a store whose prefix lies inside this one."""
        for entry in self._entries():
            folder, _, name = entry["name"].rpartition("/")
            if SHA256.fullmatch(name) and folder.lstrip("/") == f"{self.root}/{name[:2]}".lstrip("/"):
                yield StoredBlob(sha256=name, size=int(entry["size"]), modified=_modified(entry))

    def sweep(self, older_than: float = LEFTOVER_SECONDS) -> int:
        """Delete temporary files of killed writers; returns their number."""
        if self.folder is None:
            return 0
        limit = time.time() - older_than
        stale = [path for path in self.folder.glob("tmp/*") if path.stat().st_mtime < limit]
        with writing(self.root):
            for path in stale:
                path.unlink(missing_ok=True)
        return len(stale)

    # ---- implementation ------------------------------------------------------------------------------

    def _lacks(self, sha256: str, size: int) -> bool:
        """Whether the blob is absent, or truncated by a fault and must be written again."""
        try:
            lacking = self.size(sha256) != size
        except NotFound:
            return True
        if not lacking and self.folder is not None:
            # A new time, so that garbage collection spares it until its row is written.
            with suppress(OSError):
                os.utime(self._key(sha256))
        return lacking

    def _key(self, sha256: str) -> str:
        if not SHA256.fullmatch(sha256):
            raise NotFound(f"{sha256!r} is not a SHA-256, so no blob has this name")
        return f"{self.root}/{sha256[:2]}/{sha256}"

    def _trash_key(self, sha256: str) -> str:
        self._key(sha256)  # raises for an invalid name
        return f"{self.root}/{TRASH}/{sha256}"

    def _move(self, source: str, target: str) -> None:
        if self.folder is None:
            self.fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            self.fs.mv(source, target)
            return
        durable.make_folder(Path(target).parent)
        os.utime(source)  # the grace period in the trash starts now
        Path(source).replace(target)
        durable.sync_folder(Path(target).parent)

    def _read(self, sha256: str, start: int | None = None, end: int | None = None) -> bytes:
        with self._missing(sha256):
            try:
                return bytes(self.fs.cat_file(self._key(sha256), start=start, end=end))
            except FileNotFoundError:
                if not self.take_back(sha256):
                    raise
            return bytes(self.fs.cat_file(self._key(sha256), start=start, end=end))

    @contextmanager
    def _missing(self, sha256: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise NotFound(f"blob {sha256} is not in {self.root}; it was cleared by gc, or erased") from None

    def _corrupt(self, sha256: str) -> StorageError:
        return Corrupt(f"blob {sha256} in {self.root} does not match its hash; restore it from a backup")

    def _entries(self) -> Iterable[dict[str, Any]]:
        return self.fs.find(self.root, detail=True).values() if self.fs.exists(self.root) else ()

    def _put_if_absent(self, name: str, data: bytes) -> None:
        key = self._key(name)
        self.fs.makedirs(key.rpartition("/")[0], exist_ok=True)
        try:
            self.fs.pipe_file(key, data, mode="create")
        except FileExistsError:
            if self._lacks(name, len(data)):
                self.fs.pipe_file(key, data)
        except (NotImplementedError, TypeError):
            # A store without conditional puts: any other writer of this key writes the same bytes.
            self.fs.pipe_file(key, data)

    def _put_files(self, folder: Path, items: dict[str, bytes]) -> None:
        def put(name_and_data: tuple[str, bytes]) -> None:
            with self._temporary(folder, name_and_data[0]) as file:
                file.write(name_and_data[1])

        _in_parallel(put, items.items())

    def _sync_names(self, names: Iterable[str]) -> None:
        """Sync these names to disk, also those that another process has just written."""
        if self.folder is not None:
            parents = {Path(self._key(name)).parent for name in names}
            _in_parallel(durable.sync_folder, parents)
            if not parents <= self._named:
                durable.sync_folder(self.folder)
                self._named |= parents

    @contextmanager
    def _temporary(self, folder: Path, name: str) -> Iterator[IO[bytes]]:
        target = Path(self._key(name))
        fresh = folder / "tmp" / f"{name}.{os.getpid()}.{time.monotonic_ns()}"
        if not fresh.parent.is_dir():
            durable.make_folder(fresh.parent)
        target.parent.mkdir(exist_ok=True)  # its name is synced with those in it
        try:
            with fresh.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(target)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise


def _in_parallel(sync: Callable[[T], None], items: Collection[T]) -> None:
    """Bound by the disk, not the CPU: several files share one flush of the journal."""
    if len(items) < 2:
        for item in items:
            sync(item)
        return
    with ThreadPoolExecutor(min(SYNC_THREADS, len(items))) as pool:
        for _ in pool.map(sync, items):
            pass


def _copy(source: IO[bytes] | Reader, target: IO[bytes]) -> str:
    """Copy all bytes; returns their SHA-256."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


def _modified(entry: dict[str, Any]) -> float:
    # File systems name the time of writing differently: local `mtime`, memory `created`, S3 `LastModified`.
    for key in ("mtime", "modified", "LastModified", "last_modified", "created"):
        value = entry.get(key)
        if value is not None:
            return float(value.timestamp() if hasattr(value, "timestamp") else value)
    return 0.0
