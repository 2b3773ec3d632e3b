"""Figures of a workspace for monitoring, cheap enough to be read every few seconds.

What waits and runs is read from indexes. What has happened is counted since the monitor was made: each
reading takes the rows that are new, so that nothing is scanned. The blobs are measured once in an hour, in a
thread.
"""

import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from dataengine.errors import ClinicError
from dataengine.records import now
from pipelines.services.admin.backups import list_backups
from pipelines.services.queue import lease_seconds
from storage.catalog import Catalog
from storage.queries.operation import (
    MOST_NEW,
    Ended,
    Judgement,
    Standing,
    jobs_ended_since,
    labels_since,
    read_standing,
    reviews_since,
    skips_since,
)
from storage.workspace import Workspace

LATE_SECONDS = 30.0
"""How long after its time a row may still be committed, by a machine whose clock is a little behind."""
MOST_REMEMBERED = 50_000
BLOB_SECONDS = 3600.0
"""How often the blobs are measured."""
RANK = ("admin", "engineer", "curator", "annotator", "rater")
"""Whoever has several roles counts under the first of these."""
OTHERS = "other"
"""People without an account, whose labels came from Label Studio or who were deleted since."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What one label, skipped image or review decided, and the role of who did it."""

    role: str
    decision: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BlobUse:
    """What the blobs took at a time (epoch seconds)."""

    bytes: int
    files: int
    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Figures of one moment, and what has happened since the reading before."""

    standing: Standing
    lease: float
    """Seconds without a heartbeat after which a worker counts as dead."""
    disk_free: int
    disk_total: int
    """Bytes of the disk that the workspace's folder is on."""
    blobs: BlobUse | None
    """None until they have been measured, and for an object store."""
    last_backup: float | None
    """When the newest backup was finished (epoch seconds)."""
    backup_bytes: int | None
    """Size of the newest backup in the workspace's folder."""
    ended: Sequence[Ended]
    labels: Sequence[Decision]
    reviews: Sequence[Decision]


Row = TypeVar("Row", Ended, Judgement)


@dataclass
class News(Generic[Row]):
    """Passes every row of one table once, though those of the last `LATE_SECONDS` are read again."""

    rows_since: Callable[[Catalog, float], Sequence[Row]]
    since: float
    _seen: "OrderedDict[object, None]" = field(default_factory=OrderedDict)

    def read(self, catalog: Catalog) -> list[Row]:
        """The rows that were not passed before."""
        following = max(self.since, now() - LATE_SECONDS)
        rows = self.rows_since(catalog, self.since)
        found = [row for row in rows if row.key not in self._seen]
        self._seen.update((row.key, None) for row in found)
        while len(self._seen) > MOST_REMEMBERED:
            self._seen.popitem(last=False)
        more = len(rows) == MOST_NEW and rows[-1].at > self.since
        self.since = min(following, rows[-1].at) if more else following
        return found


class Monitor:
    """Reads the figures of one workspace. Not thread-safe."""

    def __init__(self, workspace: Workspace, since: float | None = None) -> None:
        """What happened before `since` (epoch seconds, default: now) is not counted."""
        self.workspace = workspace
        since = now() if since is None else since
        self._jobs = News(jobs_ended_since, since)
        self._labels, self._skips = News(labels_since, since), News(skips_since, since)
        self._reviews = News(reviews_since, since)
        self._blobs = BlobMeter(workspace)

    def read(self) -> Reading:
        """The figures now. Raises `ClinicError` if the catalog does not answer."""
        with self.workspace.catalog(read_only=True) as catalog:
            standing, ended = read_standing(catalog), self._jobs.read(catalog)
            labels = [*self._labels.read(catalog), *self._skips.read(catalog)]
            reviews = self._reviews.read(catalog)
            roles = roles_of(catalog) if labels or reviews else {}
        disk = shutil.disk_usage(self.workspace.path)
        newest = next(iter(list_backups(self.workspace)), None)
        times = [at for at in (standing.last_backup, newest.at if newest else None) if at is not None]
        return Reading(
            standing=standing,
            lease=lease_seconds(),
            disk_free=disk.free,
            disk_total=disk.total,
            blobs=self._blobs.use(),
            last_backup=max(times, default=None),
            backup_bytes=newest.size if newest else None,
            ended=ended,
            labels=decided(labels, roles),
            reviews=decided(reviews, roles),
        )


def roles_of(catalog: Catalog) -> dict[str, str]:
    """The role under which each person counts."""
    people = catalog.users.list()
    return {user.name: next((role for role in RANK if role in user.roles), OTHERS) for user in people}


def decided(rows: Iterable[Judgement], roles: dict[str, str]) -> list[Decision]:
    """What was decided by which role: names are no label of a metric."""
    return [Decision(role=roles.get(row.person, OTHERS), decision=row.decision) for row in rows]


@dataclass
class BlobMeter:
    """Measures a local blob folder in a thread of its own, once in `BLOB_SECONDS`."""

    workspace: Workspace
    _began: float = float("-inf")
    _use: BlobUse | None = None
    _thread: threading.Thread | None = None

    def use(self) -> BlobUse | None:
        """The last measurement; a new one is begun when it is old."""
        folder = self.workspace.blobs.folder
        if folder is not None and time.monotonic() - self._began > BLOB_SECONDS:
            self._began = time.monotonic()
            self._thread = threading.Thread(target=self._measure, args=(folder,), daemon=True, name="blobs")
            self._thread.start()
        return self._use

    def _measure(self, folder: Path) -> None:
        files = total = 0
        with suppress(ClinicError, OSError):
            for blob in self.workspace.blobs.stored():
                files, total = files + 1, total + blob.size
            self._use = BlobUse(bytes=total, files=files, at=now())
