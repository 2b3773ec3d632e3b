"""Garbage collection: artifact maps of retired detectors, and blobs without a reference."""

from dataclasses import dataclass

from sqlalchemy import Connection, exists, func, select, update

from dataengine.errors import Conflict, WorkspaceUnusable
from dataengine.records import Report, no_report, now
from storage import tables
from storage.catalog import Catalog
from storage.identity import owns_blobs
from storage.maintenance.archives import drop_exports
from storage.references import referenced
from storage.stores.blobs import SHA256, Blobs
from storage.workspace import Workspace

GRACE_SECONDS = 7 * 24 * 3600.0
"""Grace period: a running stage stores its blobs before the rows that refer to them."""


MOST_SHARE = 0.25
"""A run that would clear a larger share of the blobs is refused unless their number is passed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleared:
    """What was cleared, or would be in a trial: maps of predictions, blobs moved to the trash with their
    bytes, unfinished files, blobs deleted from the trash. `missing` counts blobs that the catalog refers to
    and the store lacks."""

    maps: int
    blobs: int
    bytes: int
    unfinished: int
    deleted: int = 0
    missing: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class BlobCounts:
    """Blobs in the store; those that no row of the catalog refers to; and those that images and labels refer
    to and the store lacks."""

    stored: int
    unknown: int
    missing: int


def count_blobs(workspace: Workspace) -> BlobCounts:
    """Compare store and catalog; nothing is changed."""
    with workspace.catalog(read_only=True) as catalog:
        kept = referenced(catalog.connection, workspace.blobs, workspace.checkpoints)
        stored = {blob.sha256 for blob in workspace.blobs.stored()}
        missing = len(_blobs_named(catalog.connection) - stored)
    return BlobCounts(stored=len(stored), unknown=len(stored - kept), missing=missing)


def collect(
    workspace: Workspace,
    grace_seconds: float = GRACE_SECONDS,
    trial: bool = False,
    report: Report = no_report,
    most_share: float = MOST_SHARE,
    expected: int | None = None,
) -> Cleared:
    """Clear unneeded maps and blobs that are older than the grace period.

    Maps are kept for the champion, for images that were labelled over them or were queued because of them,
    in pseudo-labels and in snapshots; the figures of a cleared map are kept. Blobs are moved to the trash
    first, and deleted after the grace period. With `trial` nothing is changed. Raises `WorkspaceUnusable`
    unless the blob store carries this workspace's mark, `Conflict` when more than `most_share` of the blobs
    would be cleared and `expected` is not their number.
    """
    if not owns_blobs(workspace):
        raise WorkspaceUnusable(
            f"{workspace.shown_blob_url} does not carry this workspace's mark, so its blobs may belong to "
            "another one; nothing was cleared. `clinic status` shows the owner"
        )
    before = now() - grace_seconds
    if not trial:
        drop_exports(workspace)
    with workspace.catalog() as catalog:
        maps = _clear_maps(catalog, before)
        report(0, 0, "collecting references")
        kept = referenced(catalog.connection, workspace.blobs, workspace.checkpoints)
        stored = list(workspace.blobs.stored())
        unneeded = [blob for blob in stored if blob.sha256 not in kept and blob.modified < before]
        _refuse_too_many(len(unneeded), len(stored), most_share, expected)
        missing = len(_blobs_named(catalog.connection) - {blob.sha256 for blob in stored})
        if not trial:
            catalog.commit()
    deleted = 0 if trial else _empty_trash(workspace.blobs, kept, before)
    for number, blob in enumerate(unneeded, start=1):
        if not trial:
            workspace.blobs.discard(blob.sha256)
        report(number, len(unneeded), "clearing blobs")
    return Cleared(
        maps=maps,
        blobs=len(unneeded),
        bytes=sum(blob.size for blob in unneeded),
        unfinished=0 if trial else workspace.blobs.sweep(grace_seconds),
        deleted=deleted,
        missing=missing,
    )


def _refuse_too_many(count: int, total: int, most_share: float, expected: int | None) -> None:
    if count > most_share * total and count != expected:
        raise Conflict(
            f"{count} of {total} blobs would be cleared, more than the limit of {most_share:g}; nothing was "
            "cleared. If the catalog is current and this is intended, confirm the number: "
            f"clinic gc --clear {count}"
        )


def _empty_trash(blobs: Blobs, kept: set[str], before: float) -> int:
    """Delete blobs that were trashed before `before`; restore those that a row refers to again."""
    deleted = 0
    for blob in list(blobs.trashed()):
        if blob.sha256 in kept:
            blobs.take_back(blob.sha256)
        elif blob.modified < before:
            blobs.empty_trash(blob.sha256)
            deleted += 1
    return deleted


def _blobs_named(connection: Connection) -> set[str]:
    """Blobs that the catalog's images and labels refer to directly."""
    columns = (tables.images.c.sha256, tables.images.c.thumbnail, tables.labels.c.label_map)
    return {
        name
        for column in columns
        for name in connection.scalars(select(column).where(column.is_not(None)))
        if SHA256.fullmatch(name)
    }


def _clear_maps(catalog: Catalog, before: float) -> int:
    predictions, labels, items = tables.predictions.c, tables.labels.c, tables.queue_items.c
    champion = select(tables.detectors.c.id).where(tables.detectors.c.role == "champion")
    seen = exists().where(
        labels.image_id == predictions.image_id, labels.detector_id == predictions.detector_id
    )
    waiting = exists().where(
        items.image_id == predictions.image_id,
        items.detector_id == predictions.detector_id,
        items.done.is_(False),
    )
    unneeded = (
        predictions.map_ref.is_not(None),
        predictions.created < before,
        predictions.detector_id.not_in(champion),
        ~seen,
        ~waiting,
    )
    count = catalog.connection.scalar(select(func.count()).select_from(tables.predictions).where(*unneeded))
    catalog.connection.execute(update(tables.predictions).where(*unneeded).values(map_ref=None))
    return count or 0
