"""Creating and opening of workspaces; an older one is migrated after a backup."""

import errno
import fcntl
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from dataengine.errors import WorkspaceUnusable
from storage.identity import MARK, recognise, refuse_fresh_catalog
from storage.stores.blobs import writing
from storage.workspace import CATALOG_FILE, DATABASE_VARIABLE, Workspace

PRIVATE = (
    *("*.sqlite*", "*.json", "*.key", "*.log", "*.secret"),
    *("backups/*", "imports/*", "jobs/*/*", "uploads/*/*"),
)
"""Files of a workspace that hold personal data or secrets."""
MOUNTS = Path("/proc/self/mountinfo")
_NFS = frozenset({"nolock", "local_lock=all", "local_lock=posix"})
UNLOCKED = {"nfs": _NFS, "nfs4": _NFS, "cifs": frozenset({"nobrl"}), "smb3": frozenset({"nobrl"})}
"""Mount options of network file systems whose locks other machines do not see."""
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


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
    if workspace.own_database and (reason := why_no_locks(workspace.path)):
        raise WorkspaceUnusable(
            f"{workspace.path} is on a file system without locks between processes ({reason}), where two "
            "writers could destroy the catalog: mount it with locks, use a local disk, or keep the catalog "
            f"in PostgreSQL ({DATABASE_VARIABLE})"
        )
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


def why_no_locks(folder: Path, mounts: str | None = None) -> str:
    """Why files in this folder cannot be locked between processes, as SQLite needs; "" where they can.

    A network file system may keep its locks to this machine, which no trial on one machine shows; the mount's
    options do. `mounts` is the text of Linux's mountinfo.
    """
    kind, options = _mount_of(folder, mounts)
    if local := UNLOCKED.get(kind, frozenset()) & options:
        return f"{kind} mounted with {', '.join(sorted(local))}"
    mark = folder / MARK
    try:
        with mark.open("rb") if mark.is_file() else TemporaryFile(dir=folder) as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return f"{error.strerror}" if error.errno in NO_LOCKS else ""
    return ""


def _mount_of(folder: Path, mounts: str | None) -> tuple[str, frozenset[str]]:
    """Type and options of the mount that holds the folder; no type where Linux does not tell."""
    if mounts is None:
        try:
            mounts = MOUNTS.read_text()
        except OSError:
            return "", frozenset()
    held = folder.resolve()
    found, depth = ("", frozenset[str]()), -1
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        point, own = Path(left.split()[4].replace("\\040", " ")), left.split()[5]
        kind, _, options = right.split(" ", 2)
        if held.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = (kind, frozenset(f"{own},{options}".split(","))), len(point.parts)
    return found


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
