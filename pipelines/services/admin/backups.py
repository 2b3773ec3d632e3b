"""Backups as an admin sees them: the schedule, the files, downloading, checking and restoring one."""

import os
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataengine.errors import ConfigRefused, Conflict, InputRefused, NotFound, WorkspaceUnusable
from dataengine.records import AuditEvent, Job, Report, no_report
from pipelines.services.admin.maintenance import backup_key, check_backup
from pipelines.services.jobs import request_job
from storage.maintenance import restore
from storage.opening import make_private
from storage.workspace import CATALOG_FILE, Workspace

HOURS, KEEP, TO = "CLINIC_BACKUP_HOURS", "CLINIC_BACKUP_KEEP", "CLINIC_BACKUP_TO"
SETTINGS = "backups"
MOST_HOURS, MOST_KEPT = 24.0 * 366, 10_000
STORES = ("s3", "gs", "az", "abfs")
"""Object stores that a browser may name as the second place; commands and variables may name any."""
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.tar")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How often backups are made, how many are kept, and the URL of the second place."""

    hours: float
    keep: int | None = None
    to: str = ""

    def args(self) -> dict[str, Any]:
        """The arguments of its jobs."""
        return {"to": self.to} | ({} if self.keep is None else {"keep": self.keep})


@dataclass(frozen=True, kw_only=True, slots=True)
class BackupFile:
    """A finished backup in the workspace's `backups/`: bytes, and when it was written."""

    name: str
    size: int
    at: float


def schedule_of(environment: Mapping[str, str]) -> Schedule | None:
    """The schedule in the environment; None without one. Raises `ConfigRefused` for unusable values."""
    if not environment.get(HOURS):
        return None
    try:
        hours = float(environment[HOURS])
        keep = int(environment[KEEP]) if environment.get(KEEP) else None
    except ValueError as error:
        raise ConfigRefused(f"{HOURS} and {KEEP} have to be numbers: {error}") from None
    if not 0 < hours < float("inf") or (keep is not None and keep < 1):
        raise ConfigRefused(f"{HOURS} has to be above 0 and {KEEP} at least 1; got {hours:g} and {keep}")
    return Schedule(hours=hours, keep=keep, to=environment.get(TO, ""))


def stored_schedule(workspace: Workspace) -> Schedule | None:
    """The schedule that an admin set; None without one, or while it is off."""
    with workspace.catalog(read_only=True) as catalog:
        stored = catalog.settings.get(SETTINGS)
    return Schedule(**stored) if stored.get("hours") else None


def set_schedule(
    workspace: Workspace, hours: float | None, keep: int | None, to: str, actor: str
) -> Schedule | None:
    """Make a backup every `hours` (None or 0: never), keep the `keep` newest (None: all), and copy each to
    the folder or store `to` ("": nowhere). Raises `InputRefused`, changing nothing.
    """
    to = (to or "").strip()
    if hours and not 0.1 <= hours <= MOST_HOURS:
        raise InputRefused(f"the hours between backups go from 0.1 to {MOST_HOURS:g}, not {hours:g}")
    if keep is not None and not 1 <= keep <= MOST_KEPT:
        raise InputRefused(f"between 1 and {MOST_KEPT} backups can be kept, not {keep}")
    check_place(to)
    schedule = Schedule(hours=hours, keep=keep, to=to) if hours else None
    with workspace.catalog() as catalog:
        before, after = catalog.settings.get(SETTINGS), asdict(schedule) if schedule else {}
        catalog.settings.set(SETTINGS, after)
        details = {"before": before or {"hours": 0}, **(after or {"hours": 0})}
        catalog.audit.add(
            AuditEvent(actor=actor, action="settings.change", subject=SETTINGS, details=details)
        )
        catalog.commit()
    return schedule


def check_place(to: str) -> None:
    """Raise `InputRefused` unless this is "", an absolute folder that exists, or an object store's URL."""
    scheme, separator, rest = to.partition("://")
    if not to or (separator and scheme in STORES and rest.strip("/")):
        return
    path = Path(to)
    if separator or not path.is_absolute() or not path.is_dir():
        raise InputRefused(
            f"{to!r} is no place for backups: name an absolute folder that exists on the server, or a store "
            f"such as s3://bucket/folder ({', '.join(STORES)})"
        )
    if not os.access(path, os.W_OK):
        raise InputRefused(
            f"{to} cannot be written by the server; fix its permissions or name another folder"
        )


def list_backups(workspace: Workspace) -> list[BackupFile]:
    """The finished backups in `backups/`, newest first."""
    found = [path for path in folder_of(workspace).glob("*.tar") if FILE.fullmatch(path.name)]
    files = [BackupFile(name=one.name, size=one.stat().st_size, at=one.stat().st_mtime) for one in found]
    return sorted(files, key=lambda one: (one.at, one.name), reverse=True)


def backup_file(workspace: Workspace, name: str) -> Path:
    """The path of one of these. Raises `NotFound`."""
    path = folder_of(workspace) / name
    if not FILE.fullmatch(name) or not path.is_file():
        raise NotFound(f"there is no backup {name!r} in the workspace; reload the list")
    return path


def folder_of(workspace: Workspace) -> Path:
    """Where backups lie unless a command names a file."""
    return workspace.path / "backups"


def request_backup(workspace: Workspace, actor: str) -> Job:
    """Ask a worker for a backup, copied and thinned out as the schedule says.

    Raises `InputRefused` at once where the disk has less room than the newest backup took.
    """
    newest = next(iter(list_backups(workspace)), None)
    free = shutil.disk_usage(workspace.path).free
    if newest is not None and free < newest.size:
        raise InputRefused(
            f"the disk of {folder_of(workspace)} has {free / 1e9:.1f} GB free, and the newest backup took "
            f"{newest.size / 1e9:.1f} GB; delete backups or move the workspace to a larger disk"
        )
    schedule = schedule_of(os.environ) or stored_schedule(workspace)
    return request_job(workspace, "backup", schedule.args() if schedule else {}, actor)


def request_restore(workspace: Workspace, name: str, actor: str, check: bool = False) -> Job:
    """Ask a worker to restore a backup into a new folder beside the workspace, or only to prove that it can
    be. Raises `NotFound`.
    """
    backup_file(workspace, name)
    return request_job(workspace, "restore", {"file": name, "check": check}, actor)


def restore_beside(workspace: Workspace, name: str, report: Report = no_report) -> Path:
    """Restore a backup into a new folder beside the workspace, on SQLite and files; returns the folder.

    The workspace itself is not changed. Raises as `restore_backup`.
    """
    file = backup_file(workspace, name)
    folder = workspace.path.with_name(f"{workspace.path.name}-restored-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        folder.mkdir()
    except FileExistsError:
        raise Conflict(f"{folder} already exists; try again in a second") from None
    except OSError as error:
        raise WorkspaceUnusable(
            f"{folder} cannot be made ({error.strerror}); fix the permissions of {folder.parent}, or run "
            f"`clinic --workspace FOLDER restore {file}` on the server"
        ) from None
    url = f"sqlite:///{folder / CATALOG_FILE}"
    try:
        restored = restore.restore(file, folder, url, str(folder / "blobs"), report, backup_key())
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # nothing else is in it after a failure
        raise
    make_private(restored.path)
    restored.close()
    return folder


def prove_backup(workspace: Workspace, name: str, report: Report = no_report) -> str:
    """Restore a backup in a scratch folder and compare it; returns what was found in one sentence. Raises as
    `check_backup`.
    """
    sound = check_backup(backup_file(workspace, name), report)
    return f"{name} is sound: {sum(sound.rows.values())} rows and {sound.blobs} blobs were compared"
