"""Back up, restore, collect garbage, erase."""

import os
from collections.abc import Sequence
from pathlib import Path

from dataengine.errors import InputRefused, WorkspaceUnusable
from dataengine.records import Report, no_report
from storage.engine import damaged
from storage.identity import owns_blobs
from storage.maintenance import backup, erase, restore, second_place
from storage.maintenance import salvage as salvaging
from storage.maintenance.backup_format import Backup
from storage.maintenance.collect_garbage import (
    GRACE_SECONDS,
    MOST_SHARE,
    BlobCounts,
    Cleared,
    collect,
    count_blobs,
)
from storage.maintenance.erase import Erased
from storage.maintenance.read_backup import read_backup
from storage.maintenance.salvage import Salvaged
from storage.opening import make_private
from storage.workspace import Workspace

BACKUP_KEY = "CLINIC_BACKUP_KEY"
"""Environment variable with the key that signs backups."""
BACKUP_KEY_FILE = "CLINIC_BACKUP_KEY_FILE"
"""Environment variable with the path of a file that holds it."""


def back_up(
    workspace: Workspace,
    target: Path | None = None,
    blobs: bool = True,
    report: Report = no_report,
    *,
    models: bool = True,
    key_file: Path | None = None,
    to: str = "",
    keep: int | None = None,
) -> Backup:
    """Write the catalog and, unless `blobs` is false, all blobs to a file, by default a new one in the
    workspace's `backups/`; without `models` it leaves out the files of detectors and generators.

    `to` is the URL of a folder that gets a copy, compared with the file. With `keep`, only as many automatic
    backups of this workspace stay in `backups/`, and in `to`. Raises as `copy_backup` and `keep_newest`.
    """
    folder = workspace.path / "backups"
    key = backup_key(key_file)
    made = backup.back_up(
        workspace,
        target or folder / second_place.backup_name(workspace),
        blobs=blobs,
        models=models,
        key=key,
        report=report,
    )
    if to:
        second_place.copy_backup(made.path, to)
    if keep is not None:
        for place in (str(folder), to):
            if place and (place == to or folder.is_dir()):
                second_place.keep_newest(workspace, place, keep)
    return made


def restore_backup(
    file: Path, folder: Path, report: Report = no_report, key_file: Path | None = None
) -> tuple[Backup, Workspace]:
    """Make the workspace that a backup holds in a folder. Raises `Conflict` if there is a catalog already,
    `InputRefused` for a file that is no whole backup, `Corrupt` for a damaged one or a wrong key.
    """
    key = backup_key(key_file)
    workspace = restore.restore(file, folder, report=report, key=key)
    make_private(workspace.path)
    return read_backup(file), workspace


def check_backup(file: Path, report: Report = no_report, key_file: Path | None = None) -> Backup:
    """Prove a backup by restoring it in a scratch folder. Raises as `restore_backup`."""
    return restore.check_backup(file, backup_key(key_file), report)


def backup_key(file: Path | None = None) -> bytes | None:
    """The key that signs backups: from a file, or from the environment; None if there is none.

    Raises `InputRefused` for a file that cannot be read.
    """
    file = file or (Path(os.environ[BACKUP_KEY_FILE]) if os.environ.get(BACKUP_KEY_FILE) else None)
    if file is None:
        return os.environ[BACKUP_KEY].encode() if os.environ.get(BACKUP_KEY) else None
    try:
        return file.read_bytes().strip()
    except OSError as error:
        raise InputRefused(
            f"the key file {file} cannot be read ({error.strerror}); name another one"
        ) from None


def signature_in_words(made: Backup, checked: bool) -> str:
    """What is known about who made a backup."""
    if not made.signed:
        return "it is not signed, so nothing proves who made it"
    return "its signature is the key's" if checked else "its signature was not checked: no key was given"


def salvage(folder: Path, replace: bool = False, report: Report = no_report) -> Salvaged:
    """Write what can be read of a damaged SQLite catalog into a new file, and with `replace` put that into
    its place; the damaged file is kept.

    Raises `Conflict` for a sound catalog, `InputRefused` for a team's database, `NotFound` without a catalog,
    `WorkspaceUnusable` if nothing can be read.
    """
    return salvaging.salvage(Workspace.located(folder, None, None), replace, report)


def check_stores(workspace: Workspace, whole_catalog: bool = True) -> None:
    """Raise `WorkspaceUnusable`, in one sentence, unless catalog and blob store answer. A SQLite catalog is
    also read for damage, all of it if `whole_catalog`.
    """
    with workspace.catalog(read_only=True) as catalog:
        catalog.users.count()
    problem = (
        salvaging.damage_of(workspace.catalog_file) if whole_catalog and workspace.own_database else None
    )
    if problem is not None:
        raise damaged(f"the catalog's database {workspace.catalog_file}", problem)
    if not owns_blobs(workspace):
        raise WorkspaceUnusable(
            f"the blob store {workspace.blob_url} does not carry this workspace's mark; check that its disk "
            "is mounted and its address is right"
        )


def blob_counts(workspace: Workspace) -> BlobCounts | None:
    """How many blobs there are, how many of them no row names, and how many that rows name are missing; None
    for an object store, where listing takes too long (`clinic gc --trial` does)."""
    return None if workspace.blobs.folder is None else count_blobs(workspace)


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
