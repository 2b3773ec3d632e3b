"""Create and open workspaces; an older one is migrated after a backup."""

from contextlib import suppress
from pathlib import Path

from dataengine.errors import WorkspaceUnusable
from storage.identity import recognise, refuse_fresh_catalog
from storage.stores.blobs import writing
from storage.workspace import CATALOG_FILE, DATABASE_VARIABLE, Workspace

PRIVATE = ("*.sqlite*", "*.json", "*.key", "*.log", "*.secret", "backups/*", "jobs/*/*")
"""Files of a workspace that hold what people wrote, or secrets."""


def create_workspace(
    path: str | Path, database_url: str | None = None, blob_url: str | None = None
) -> Workspace:
    """Make the workspace in `path`, or open and upgrade the one that is there.

    Arguments win over the environment. Raises `WorkspaceUnusable`, leaving no half-made catalog behind, when
    the folder is full or read-only, and when a newer version wrote it.
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
    """Open the workspace in `path`, upgrading its catalog after a backup where that is needed.

    Raises `WorkspaceUnusable` when there is none, it cannot be used, or a newer version wrote it.
    """
    workspace = Workspace.located(path, database_url, blob_url)
    if workspace.own_database and not workspace.catalog_file.is_file():
        raise WorkspaceUnusable(
            f"there is no workspace in {workspace.path}: it has no {CATALOG_FILE}. Give the right folder "
            f"with --workspace, make one with `clinic app`, or set {DATABASE_VARIABLE}."
        )
    return create_workspace(path, database_url, blob_url)


def make_private(folder: Path) -> None:
    """Take the folder, its catalog, keys, logs and backups away from other accounts of this machine.

    Workspaces of older versions were readable by everybody. What belongs to another account is left alone.
    """
    private = [file for pattern in PRIVATE for file in folder.glob(pattern) if file.is_file()]
    for path, mode in [(folder, 0o700), *((file, 0o600) for file in private)]:
        with suppress(PermissionError, FileNotFoundError):
            if path.stat().st_mode & 0o077 and not path.is_symlink():
                path.chmod(mode)


def _is_empty(workspace: Workspace) -> bool:
    """Whether a database is there, and holds no catalog."""
    if workspace.own_database:
        return not workspace.catalog_file.stat().st_size
    from storage.migrate import revision

    return revision(workspace.engine) is None


def _has_schema(workspace: Workspace) -> bool:
    """Whether the catalog is there after all: another process may have made it meanwhile."""
    from storage.migrate import revision

    try:
        return revision(workspace.engine) is not None
    except WorkspaceUnusable:
        return False


def _migrate(workspace: Workspace) -> None:
    from storage.maintenance.backup import before_upgrade
    from storage.migrate import migrate

    migrate(workspace.engine, backup=lambda: before_upgrade(workspace))
