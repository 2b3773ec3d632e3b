"""Creating and opening of workspaces; an older one is migrated after a backup."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dataengine.errors import WorkspaceUnusable
from storage.identity import recognise, refuse_fresh_catalog
from storage.stores.blobs import writing
from storage.workspace import CATALOG_FILE, DATABASE_VARIABLE, Workspace

PRIVATE = ("*.sqlite*", "*.json", "*.key", "*.log", "*.secret", "backups/*", "imports/*", "jobs/*/*")
"""Files of a workspace that hold personal data or secrets."""


def create_workspace(
    path: str | Path, database_url: str | None = None, blob_url: str | None = None
) -> Workspace:
    """Create the workspace in `path`, or open and upgrade an existing one.

    Arguments override the environment. Raises `WorkspaceUnusable`, without leaving an incomplete catalog,
    when the folder is full or read-only, and when a newer version wrote it.
    """
    workspace = Workspace.located(path, database_url, blob_url)
    fresh = workspace.own_database and not workspace.catalog_file.exists()
    if fresh or _is_empty(workspace):
        refuse_fresh_catalog(workspace)
    with writing(workspace.path):
        workspace.path.mkdir(parents=True, exist_ok=True)
        make_private(workspace.path)
    try:
        _migrate(workspace)
    except BaseException:
        half_made = fresh and not _has_schema(workspace)
        workspace.close()
        if half_made:
            for leftover in workspace.path.glob(f"{CATALOG_FILE}*"):
                leftover.unlink(missing_ok=True)
        raise
    recognise(workspace)
    make_private(workspace.path)
    return workspace


def open_workspace(
    path: str | Path, database_url: str | None = None, blob_url: str | None = None
) -> Workspace:
    """Open the workspace in `path`; an older catalog is upgraded after a backup.

    Raises `WorkspaceUnusable` when there is none, it is unusable, or a newer version wrote it.
    """
    workspace = Workspace.located(path, database_url, blob_url)
    if workspace.own_database and not workspace.catalog_file.is_file():
        raise WorkspaceUnusable(
            f"there is no workspace in {workspace.path}: it has no {CATALOG_FILE}. Name the right folder "
            f"with --workspace, create one with `clinic app`, or set {DATABASE_VARIABLE}."
        )
    return create_workspace(path, database_url, blob_url)


@contextmanager
def private_files() -> Iterator[None]:
    """Within the block, files and folders that this process and its children create are their owner's alone.

    Around a whole process: the mask holds for all of its threads.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def make_private(folder: Path) -> None:
    """Restrict the folder, its catalog, keys, logs and backups to the owner's account.

    Workspaces of older versions were readable by all accounts. Files of another owner are not changed.
    """
    private = [file for pattern in PRIVATE for file in folder.glob(pattern) if file.is_file()]
    for path, mode in [(folder, 0o700), *((file, 0o600) for file in private)]:
        with suppress(PermissionError, FileNotFoundError):
            if path.stat().st_mode & 0o077 and not path.is_symlink():
                path.chmod(mode)


def _is_empty(workspace: Workspace) -> bool:
    """Whether the database exists and holds no catalog."""
    if workspace.own_database:
        return not workspace.catalog_file.stat().st_size
    from storage.migrate import revision

    return revision(workspace.engine) is None


def _has_schema(workspace: Workspace) -> bool:
    """Whether the catalog exists now: another process may have created it meanwhile."""
    from storage.migrate import revision

    try:
        return revision(workspace.engine) is not None
    except WorkspaceUnusable:
        return False


def _migrate(workspace: Workspace) -> None:
    from storage.maintenance.backup import back_up_before_upgrade
    from storage.migrate import migrate

    migrate(workspace.engine, backup=lambda: back_up_before_upgrade(workspace))
