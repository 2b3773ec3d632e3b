"""Files that a browser sends before they are imported, in `WORKSPACE/uploads/UPLOAD/`.

    state.json       whose upload it is, its settings and its state
    files.jsonl      part, name, size and SHA-256 of every file that is complete
    files/PART/NAME  the files
    pieces/          files that are not complete

A file comes in pieces, in order; a repeated piece or file changes nothing, so that a closed tab can go on.
Nothing waits for the disk here: the hashes are compared before anything is imported.
"""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from dataengine import durable
from dataengine.errors import Conflict, NotFound
from dataengine.records import Upload, UploadedFile
from storage.stores.blobs import writing

STATE, FILES = "state.json", "files.jsonl"
CHUNK = 1 << 20


class Uploads:
    """The uploads of a workspace. The names of files are checked by the caller."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._listed: dict[str, tuple[int, dict[tuple[str, str], UploadedFile]]] = {}
        """How far the list of an upload was read, and its files."""

    def add(self, upload: Upload) -> None:
        """Start an upload."""
        with writing(self.folder):
            self._home(upload.id).mkdir(parents=True)
            self.save(upload)

    def save(self, upload: Upload) -> None:
        """Replace an upload's state."""
        home = self._home(upload.id)
        with writing(home), self._lock:
            if home.is_dir():
                durable.write_text(home / STATE, json.dumps(asdict(upload)))

    def get(self, upload_id: str) -> Upload:
        """Raises `NotFound`."""
        try:
            return Upload(**json.loads((self._home(upload_id) / STATE).read_text()))
        except (OSError, ValueError, TypeError):
            raise NotFound("this upload was discarded, or is too old; start a new one") from None

    def list(self) -> list[Upload]:
        """All uploads, the newest first."""
        found = []
        for path in self.folder.glob(f"*/{STATE}"):
            with suppress(NotFound):
                found.append(self.get(path.parent.name))
        return sorted(found, key=lambda one: -one.created)

    def files(self, upload_id: str) -> dict[tuple[str, str], UploadedFile]:
        """The complete files by part and name."""
        path = self._home(upload_id) / FILES
        with self._lock:
            read, found = self._listed.get(upload_id, (0, {}))
            if not path.is_file() or path.stat().st_size < read:
                read, found = 0, {}
            if path.is_file():
                with path.open("rb") as listing:
                    listing.seek(read)
                    lines = listing.read()
                for line in lines[: lines.rfind(b"\n") + 1].splitlines():
                    with suppress(ValueError, TypeError):  # a line that a power cut has damaged
                        one = UploadedFile(**json.loads(line))
                        found[one.part, one.name] = one
                read += lines.rfind(b"\n") + 1
            self._listed[upload_id] = read, found
            return dict(found)

    def path_of(self, upload_id: str, part: str, name: str = "") -> Path:
        """Where a part lies, or a file of it."""
        return self._home(upload_id) / "files" / part / name

    def write_piece(
        self, upload_id: str, file: UploadedFile, offset: int, piece: bytes
    ) -> tuple[int, UploadedFile | None]:
        """Add the bytes of `file` from `offset`; how many it has now, and the file once it is complete.

        An empty hash is filled in. Raises `Conflict` for a piece out of order, and for a file that is not
        what was announced, whose pieces are dropped.
        """
        home = self._home(upload_id)
        if not (home / STATE).is_file():
            raise NotFound("this upload was discarded, or is too old; start a new one")
        partial = self._partial(upload_id, file.part, file.name)
        with writing(home):
            partial.parent.mkdir(exist_ok=True)
            size = partial.stat().st_size if partial.is_file() else 0
            if offset > size:
                raise Conflict(f"{file.name}: {size} bytes have arrived; send it on from there")
            with partial.open("r+b" if size else "wb") as target:
                target.truncate(offset)
                target.seek(offset)
                target.write(piece)
            size = offset + len(piece)
            if size < file.size:
                return size, None
            sha256 = digest_of(partial) if offset else hashlib.sha256(piece).hexdigest()
            if size > file.size or (file.sha256 and file.sha256 != sha256):
                partial.unlink()
                raise Conflict(f"{file.name} changed while it was sent; send it again")
            done = UploadedFile(part=file.part, name=file.name, size=size, sha256=sha256)
            target_path = self.path_of(upload_id, file.part, file.name)
            target_path.parent.mkdir(parents=True, exist_ok=True)
            durable.replace(partial, target_path)
            with self._lock, (home / FILES).open("a") as listing:
                listing.write(json.dumps(asdict(done)) + "\n")
        return size, done

    def received_bytes(self, upload_id: str, part: str, name: str) -> int:
        """The bytes of an unfinished file that have arrived."""
        partial = self._partial(upload_id, part, name)
        return partial.stat().st_size if partial.is_file() else 0

    def damaged(self, upload_id: str) -> Iterator[UploadedFile]:
        """Listed files that are not on the disk as they arrived."""
        for file in self.files(upload_id).values():
            path = self.path_of(upload_id, file.part, file.name)
            if not path.is_file() or digest_of(path) != file.sha256:
                yield file

    def forget(self, upload_id: str, file: UploadedFile) -> None:
        """Take a file off the list, so that it can be sent again."""
        home, left = self._home(upload_id), self.files(upload_id)
        left.pop((file.part, file.name), None)
        with writing(home), self._lock:
            lines = (json.dumps(asdict(one)) + "\n" for one in left.values())
            durable.write_text(home / FILES, "".join(lines))
            self._listed.pop(upload_id, None)

    def drop_files(self, upload_id: str) -> None:
        """Delete the files of an upload; its state stays."""
        home = self._home(upload_id)
        for name in ("files", "pieces"):
            shutil.rmtree(home / name, ignore_errors=True)
        (home / FILES).unlink(missing_ok=True)
        with self._lock:
            self._listed.pop(upload_id, None)

    def remove(self, upload_id: str) -> None:
        """Delete an upload with everything in it."""
        shutil.rmtree(self._home(upload_id), ignore_errors=True)
        with self._lock:
            self._listed.pop(upload_id, None)

    def _partial(self, upload_id: str, part: str, name: str) -> Path:
        """Where the pieces of an unfinished file are put together."""
        return self._home(upload_id) / "pieces" / hashlib.sha256(f"{part}/{name}".encode()).hexdigest()

    def _home(self, upload_id: str) -> Path:
        return self.folder / upload_id


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
