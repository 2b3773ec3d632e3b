"""What jobs write while they run: logs, figures, small notes. Local files first, shared where a team works.

A job writes into `WORKSPACE/jobs/JOB/` on its worker's machine. One machine needs no more. Where the catalog
is a team's database, the web server may see another disk: then the worker sends what is new in these files
there about once a second, and a reader keeps a copy that it brings up to date. Notes, which are replaced
whole, stand in the database alone then, since the next worker of the same run may be another machine.
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
"""Bytes of each file that are sent at once."""
SENT = ".sent.json"
COPIES = 256
"""Files that a reader keeps copies of."""


@dataclass
class Copy:
    """How far a reader's copy goes: the last piece, and bytes up to its end."""

    number: int = 0
    size: int = 0


class JobFiles:
    """The files of all jobs of a workspace; `shared` says whether others read them through the catalog."""

    def __init__(
        self, catalog: "Callable[..., AbstractContextManager[Catalog]]", folder: Path, shared: bool
    ) -> None:
        self._catalog, self._folder, self._shared = catalog, folder, shared
        self._copies: dict[tuple[str, str], Copy] = {}
        self._sending, self._reading = threading.Lock(), threading.Lock()
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def folder(self, job_id: str) -> Path:
        """Where the job writes on this machine."""
        return self._folder / job_id

    # ---- files that grow -----------------------------------------------------------------------------------

    def send(self, job_id: str, everything: bool = False) -> None:
        """Share what is new in the job's files here; in a workspace of one machine nothing.

        A crash between two calls may send a piece twice, and loses none.
        """
        if not self._shared or not self.folder(job_id).is_dir():
            return
        with self._sending:
            while self._send_some(job_id) and everything:
                pass

    def read(self, job_id: str, name: str) -> Path:
        """A file that holds what the job wrote so far, wherever it runs; it may be absent. Not to be
        changed."""
        if not self._shared:
            return self.folder(job_id) / name
        with self._reading:
            return self._copied(job_id, name)

    def _send_some(self, job_id: str) -> bool:
        """Send one piece of each file; whether more is left."""
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
                file.truncate(copy.size)  # a write that was cut short is begun again
                file.write(body)
            copy.number, copy.size = pieces[-1][0], copy.size + len(body)
        return path

    def _copy_at(self, job_id: str, name: str) -> Path:
        assert self._scratch
        return Path(self._scratch.name) / job_id / name

    # ---- notes ---------------------------------------------------------------------------------------------

    def put(self, job_id: str, name: str, value: Any) -> None:
        """Keep a small JSON value under a name, in place of the one before."""
        if self._shared:
            with self._catalog() as catalog:
                catalog.job_files.put(job_id, name, json.dumps(value))
                catalog.commit()
            return
        with writing(self._folder):
            self.folder(job_id).mkdir(parents=True, exist_ok=True)
            replace_file(self.folder(job_id) / name, json.dumps(value))

    def get(self, job_id: str, name: str) -> Any:
        """The value; None where there is none."""
        if self._shared:
            with self._catalog(read_only=True) as catalog:
                pieces = catalog.job_files.after(job_id, name)
            return json.loads(pieces[0][1]) if pieces else None
        path = self.folder(job_id) / name
        return json.loads(path.read_text()) if path.is_file() else None

    def drop(self, job_id: str, name: str) -> None:
        """Forget a note."""
        if self._shared:
            with self._catalog() as catalog:
                catalog.job_files.drop(job_id, name)
                catalog.commit()
        else:
            (self.folder(job_id) / name).unlink(missing_ok=True)


def piece(path: Path, name: str, start: int, size: int, limit: int) -> tuple[str, int]:
    """What is sent next of a file that was sent up to `start`, and where that ends.

    Figures go in whole lines. Of a log that grows faster than it can be sent, the end is sent.
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
    """Replace a small file in one piece."""
    durable.write_text(path, text)
