"""Files of running jobs: logs, metrics, small notes. Written locally, and shared with a team.

A job writes into `WORKSPACE/jobs/JOB/` on its worker's machine. On one machine that is all. If the catalog is
a team's database, the web server may have another disk: then the worker sends new content to the database
about once a second, and a reader updates its local copy from there. Notes, which are replaced as a whole, are
then stored only in the database, because the next worker of the same run may be on another machine.
"""

import json
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine import durable
from storage.stores.blobs import writing

if TYPE_CHECKING:
    from storage.catalog import Catalog


LOG, METRICS = "log.txt", "metrics.jsonl"
LIMITS = {METRICS: 1 << 20, LOG: 1 << 16}
"""Largest piece of a file, in bytes."""
SENT = ".sent.json"
COPIES = 256
"""Number of files of which a reader keeps copies."""


@dataclass
class Copy:
    """The state of a reader's copy: its last piece, and its size in bytes."""

    number: int = 0
    size: int = 0


class JobFiles:
    """The files of all jobs of a workspace; `shared`: other machines read them through the catalog."""

    def __init__(
        self, catalog: "Callable[..., AbstractContextManager[Catalog]]", folder: Path, shared: bool
    ) -> None:
        self._catalog, self._folder, self._shared = catalog, folder, shared
        self._copies: dict[tuple[str, str], Copy] = {}
        self._sending, self._reading = threading.Lock(), threading.Lock()
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def folder(self, job_id: str) -> Path:
        """The job's folder on this machine."""
        return self._folder / job_id

    # ---- append-only files
    # -----------------------------------------------------------------------------------

    def send(self, job_id: str, everything: bool = False) -> None:
        """Share new content of the job's local files; does nothing in a workspace of one machine.

        A crash between two calls may send a piece twice, and loses none.
        """
        if not self._shared or not self.folder(job_id).is_dir():
            return
        with self._sending:
            while self._send_some(job_id) and everything:
                pass

    def read(self, job_id: str, name: str) -> Path:
        """A read-only file with the job's output so far, on whichever machine it runs; it may be absent."""
        if not self._shared:
            return self.folder(job_id) / name
        with self._reading:
            return self._copied(job_id, name)

    def _send_some(self, job_id: str) -> bool:
        """Send one piece of each file; returns whether more is left."""
        note = self.folder(job_id) / SENT
        sent: dict[str, int] = json.loads(note.read_text()) if note.is_file() else {}
        news, more = {}, False
        for name, limit in LIMITS.items():
            path, start = self.folder(job_id) / name, sent.get(name, 0)
            size = path.stat().st_size if path.is_file() else 0
            text, sent[name] = piece(path, name, start, size, limit) if size > start else ("", start)
            if text:
                news[name] = text.replace("\x00", "")
                more = more or sent[name] < size
        if news:
            with self._catalog() as catalog:
                for name, text in news.items():
                    catalog.job_files.append(job_id, name, text)
                catalog.commit()
            replace_file(note, json.dumps(sent))
        return more

    def _copied(self, job_id: str, name: str) -> Path:
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="artifact-clinic-jobs-")
        if (job_id, name) not in self._copies and len(self._copies) >= COPIES:
            oldest = next(iter(self._copies))
            del self._copies[oldest]
            self._copy_at(*oldest).unlink(missing_ok=True)
        copy, path = self._copies.setdefault((job_id, name), Copy()), self._copy_at(job_id, name)
        with self._catalog(read_only=True) as catalog:
            pieces = catalog.job_files.after(job_id, name, copy.number)
        if pieces:
            body = "".join(text for _, text in pieces).encode()
            path.parent.mkdir(exist_ok=True)
            with path.open("ab") as file:
                file.truncate(copy.size)  # drop an incomplete write
                file.write(body)
            copy.number, copy.size = pieces[-1][0], copy.size + len(body)
        return path

    def _copy_at(self, job_id: str, name: str) -> Path:
        assert self._scratch
        return Path(self._scratch.name) / job_id / name

    # ---- notes ---------------------------------------------------------------------------------------------

    def put(self, job_id: str, name: str, value: Any) -> None:
        """Store a small JSON value under a name, replacing the previous one."""
        if self._shared:
            with self._catalog() as catalog:
                catalog.job_files.put(job_id, name, json.dumps(value))
                catalog.commit()
            return
        with writing(self._folder):
            self.folder(job_id).mkdir(parents=True, exist_ok=True)
            replace_file(self.folder(job_id) / name, json.dumps(value))

    def get(self, job_id: str, name: str) -> Any:
        """The value; None if absent."""
        if self._shared:
            with self._catalog(read_only=True) as catalog:
                pieces = catalog.job_files.after(job_id, name)
            return json.loads(pieces[0][1]) if pieces else None
        path = self.folder(job_id) / name
        return json.loads(path.read_text()) if path.is_file() else None

    def drop(self, job_id: str, name: str) -> None:
        """Delete a note."""
        if self._shared:
            with self._catalog() as catalog:
                catalog.job_files.drop(job_id, name)
                catalog.commit()
        else:
            (self.folder(job_id) / name).unlink(missing_ok=True)


def piece(path: Path, name: str, start: int, size: int, limit: int) -> tuple[str, int]:
    """The next piece of a file that was sent up to `start`, and its end offset.

    Metrics are sent in complete lines. Of a log that grows faster than it can be sent, only the end is sent.
    """
    skipped = max(0, size - start - limit) if name == LOG else 0
    with path.open("rb") as file:
        file.seek(start + skipped)
        body = file.read(limit)
    if name == METRICS:
        body = body[: body.rfind(b"\n") + 1]
    left_out = f"[… {skipped} bytes are on the worker's machine only]\n" if skipped else ""
    return left_out + body.decode(errors="replace"), start + skipped + len(body)


def replace_file(path: Path, text: str) -> None:
    """Replace a small file atomically."""
    durable.write_text(path, text)
