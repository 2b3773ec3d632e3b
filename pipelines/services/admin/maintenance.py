"""Back up, restore, collect garbage, erase."""

import time
from collections.abc import Sequence
from pathlib import Path

from dataengine.records import Report, no_report
from storage.maintenance import backup, erase
from storage.maintenance.backup import Backup
from storage.maintenance.collect_garbage import GRACE_SECONDS, MOST_SHARE, Cleared, collect
from storage.maintenance.erase import Erased
from storage.workspace import Workspace


def back_up(
    workspace: Workspace, target: Path | None = None, blobs: bool = True, report: Report = no_report
) -> Backup:
    """Write the catalog and, unless `blobs` is false, all blobs to a file, by default a new one in the
    workspace's `backups/`.
    """
    name = f"backup-{time.strftime('%Y%m%d-%H%M%S')}.tar"
    return backup.back_up(workspace, target or workspace.path / "backups" / name, blobs=blobs, report=report)


def restore_backup(file: Path, folder: Path, report: Report = no_report) -> tuple[Backup, Workspace]:
    """Make the workspace that a backup holds in a folder. Raises `Conflict` if there is a catalog already,
    `InputRefused` for a file that is no whole backup, `Corrupt` for a damaged one.
    """
    about = backup.read_backup(file)
    return about, backup.restore(file, folder, report=report)


def collect_garbage(
    workspace: Workspace,
    grace_seconds: float = GRACE_SECONDS,
    trial: bool = False,
    report: Report = no_report,
    most_share: float = MOST_SHARE,
    expected: int | None = None,
) -> Cleared:
    """Move maps and blobs that are older than the grace period and that nothing refers to into the trash, and
    delete what has been there as long; with `trial` only count them.

    Raises `WorkspaceUnusable` for another workspace's blob store, and `Conflict` when more than a share of
    `most_share` of the blobs would go and `expected` is not their number.
    """
    share = 1.0 if trial else most_share
    return collect(workspace, grace_seconds, trial, report, share, expected)


def erase_images(workspace: Workspace, image_ids: Sequence[str], actor: str, trial: bool = False) -> Erased:
    """Delete images with their labels, predictions and the blobs that only they used; a trial counts.

    Returns what was deleted, what was made from it before, and what still holds something, with what can be
    done about it. Raises `NotFound`, deleting nothing, for an unknown image.
    """
    return erase.erase_images(workspace, image_ids, actor, trial)


def erase_person(workspace: Workspace, name: str, actor: str, trial: bool = False) -> Erased:
    """Delete a person's account, labels, reviews and votes, and the name wherever it stands; what others
    depend on keeps a pseudonym. With `trial` only count.

    Returns as `erase_images`. Raises `NotFound` for an unknown person.
    """
    return erase.erase_person(workspace, name, actor, trial)
