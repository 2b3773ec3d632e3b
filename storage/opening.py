"""Create and open workspaces; an older one is migrated after a backup."""

from pathlib import Path

from dataengine.errors import WorkspaceUnusable
from storage.stores.blobs import writing
from storage.workspace import CATALOG_FILE, DATABASE_VARIABLE, Workspace


def create_workspace(
    path: str | Path, database_url: str | None = None, blob_url: str | None = None
) -> Workspace:
    """Make the workspace in `path`, or open and upgrade the one that is there.

    Arguments win over the environment. Raises `WorkspaceUnusable`, leaving no half-made catalog behind, when
    the folder is full or read-only, and when a newer version wrote it.
    """
    workspace = Workspace.located(path, database_url, blob_url)
    fresh = workspace.own_database and not workspace.catalog_file.exists()
    with writing(workspace.path):
        workspace.path.mkdir(parents=True, exist_ok=True)
    try:
        _migrate(workspace)
    except BaseException:
        half_made = fresh and not _has_schema(workspace)
        workspace.close()
        if half_made:
            for leftover in workspace.path.glob(f"{CATALOG_FILE}*"):
                leftover.unlink(missing_ok=True)
        raise
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
