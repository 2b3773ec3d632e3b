"""The identity of a workspace: stored in the catalog, in the folder, and at the root of the blob store.

The catalog's row is authoritative. The folder's mark (`workspace.json`) distinguishes a lost, empty or
foreign catalog from a new one. The blob store's mark names the owner of the blobs: blobs under another mark
are neither used nor cleared.
"""

import json

from sqlalchemy import Engine, select

from dataengine import durable
from dataengine.errors import WorkspaceUnusable
from storage import tables
from storage.engine import connect_for_reading
from storage.references import referenced
from storage.stores.blobs import writing
from storage.workspace import BLOB_VARIABLE, CATALOG_FILE, Workspace

MARK = "workspace.json"
KNOWN_SHARE = 0.5
"""A catalog adopts unmarked blobs if it refers to at least this share of them."""


def identity_of(engine: Engine) -> str:
    """The catalog's identity."""
    with connect_for_reading(engine) as connection:
        identity = connection.scalar(select(tables.workspace.c.id))
    if identity is None:
        raise WorkspaceUnusable("the catalog's identity is missing; restore the catalog from a backup")
    return str(identity)


def refuse_fresh_catalog(workspace: Workspace) -> None:
    """Raise `WorkspaceUnusable` if a new catalog would be created for the data of another: of a folder whose
    catalog was lost, or of another workspace's blobs.
    """
    file = workspace.catalog_file
    state = "is empty" if file.is_file() else "is missing"
    own_blobs = workspace.blobs.folder is not None and workspace.blobs.folder.is_relative_to(workspace.path)
    if workspace.own_database and (
        (workspace.path / MARK).is_file() or (own_blobs and next(workspace.blobs.stored(), None) is not None)
    ):
        raise WorkspaceUnusable(
            f"{file} {state}, but this workspace has been used: its {MARK} or its blobs are still there. "
            f"Put {CATALOG_FILE} back, or restore a backup into an empty folder: clinic restore BACKUP "
            f"(backups lie in {workspace.path / 'backups'}); nothing was changed"
        )
    known = workspace.blobs.read_root(MARK)
    if known is not None:
        raise _foreign_blobs(workspace, read_mark(known, f"{workspace.shown_blob_url}/{MARK}"))
    stored = sum(1 for _ in workspace.blobs.stored())
    if stored:
        raise _unmarked_blobs(workspace, stored, 0)


def recognise(workspace: Workspace) -> None:
    """Compare the three marks, and set missing ones.

    Raises `WorkspaceUnusable` for the catalog of another folder, and for the blob store of another workspace.
    """
    identity = identity_of(workspace.engine)
    _recognise_folder(workspace, identity)
    _recognise_blobs(workspace, identity)


def _recognise_folder(workspace: Workspace, identity: str) -> None:
    if not workspace.own_database:
        return  # on a team's machine the folder is only a cache
    mark = workspace.path / MARK
    known = read_mark(mark.read_bytes(), str(mark)) if mark.is_file() else None
    if known is None:
        with writing(workspace.path):
            durable.write_text(mark, written_mark(identity))
    elif known != identity:
        raise WorkspaceUnusable(
            f"{workspace.catalog_file} belongs to another workspace ({identity[:8]}…) than this folder "
            f"({known[:8]}…). Put the folder's own catalog back, or restore a backup into an empty folder; "
            "nothing was changed"
        )


def _recognise_blobs(workspace: Workspace, identity: str) -> None:
    known = workspace.blobs.read_root(MARK)
    if known is not None:
        other = read_mark(known, f"{workspace.shown_blob_url}/{MARK}")
        if other != identity:
            raise _foreign_blobs(workspace, other)
        return
    stored = {blob.sha256 for blob in workspace.blobs.stored()}
    if stored:
        with workspace.catalog(read_only=True) as catalog:
            named = referenced(catalog.connection, workspace.blobs, workspace.checkpoints)
        if len(stored & named) < KNOWN_SHARE * len(stored):
            raise _unmarked_blobs(workspace, len(stored), len(stored & named))
    workspace.blobs.write_root(MARK, written_mark(identity).encode())


def _foreign_blobs(workspace: Workspace, other: str) -> WorkspaceUnusable:
    return WorkspaceUnusable(
        f"the blobs in {workspace.shown_blob_url} belong to another workspace ({other[:8]}…). Give each "
        f"workspace a prefix of its own in {BLOB_VARIABLE}, for example "
        f"{workspace.shown_blob_url.rstrip('/')}/NAME; nothing was changed"
    )


def _unmarked_blobs(workspace: Workspace, stored: int, known: int) -> WorkspaceUnusable:
    return WorkspaceUnusable(
        f"{workspace.shown_blob_url} has {stored} blobs without an owner's mark; this catalog refers to "
        f"{known} of them. Give this workspace another place in {BLOB_VARIABLE}, or restore the catalog that "
        "belongs to these blobs; nothing was changed"
    )


def written_mark(identity: str) -> str:
    return json.dumps({"workspace": identity}) + "\n"


def read_mark(content: bytes, where: str) -> str:
    """The identity in a mark. Raises `WorkspaceUnusable` when it cannot be read."""
    try:
        return str(json.loads(content)["workspace"])
    except (ValueError, KeyError, TypeError):
        raise WorkspaceUnusable(
            f"{where} is damaged: it should name the workspace. Restore it from a backup of the folder, or "
            "delete it if you are sure that these blobs belong to this workspace"
        ) from None


def owns_blobs(workspace: Workspace) -> bool:
    """Whether the blob store carries this workspace's mark."""
    known = workspace.blobs.read_root(MARK)
    return known is not None and read_mark(known, workspace.shown_blob_url) == identity_of(workspace.engine)
