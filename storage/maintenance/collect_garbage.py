"""Clear what nothing needs: artifact maps of detectors past, and blobs that no row names."""

from dataclasses import dataclass

from sqlalchemy import exists, func, select, update

from dataengine.records import Report, no_report, now
from storage import tables
from storage.catalog import Catalog
from storage.maintenance.references import referenced
from storage.workspace import Workspace

GRACE_SECONDS = 7 * 24 * 3600.0
"""Nothing younger is touched: a running stage stores its blobs before the rows that name them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleared:
    """What was cleared, or in a trial would be: maps of predictions, blobs, their bytes, unfinished files."""

    maps: int
    blobs: int
    bytes: int
    unfinished: int


def collect(
    workspace: Workspace,
    grace_seconds: float = GRACE_SECONDS,
    trial: bool = False,
    report: Report = no_report,
) -> Cleared:
    """Clear maps and blobs that are older than the grace period and that nothing needs.

    Maps stay for the champion, for images whose label was drawn over them, in pseudo-labels and in snapshots;
    a cleared map leaves its figures behind. With `trial` nothing is changed.
    """
    before = now() - grace_seconds
    with workspace.catalog() as catalog:
        maps = _clear_maps(catalog, before)
        report(0, 0, "looking for what is in use")
        kept = referenced(catalog.connection, workspace.blobs, workspace.checkpoints)
        if not trial:
            catalog.commit()
    count = size = 0
    for blob in workspace.blobs.stored():
        if blob.sha256 in kept or blob.modified >= before:
            continue
        if trial or workspace.blobs.delete(blob.sha256):
            count, size = count + 1, size + blob.size
            report(count, 0, "clearing blobs")
    unfinished = 0 if trial else workspace.blobs.sweep(grace_seconds)
    return Cleared(maps=maps, blobs=count, bytes=size, unfinished=unfinished)


def _clear_maps(catalog: Catalog, before: float) -> int:
    predictions, labels = tables.predictions.c, tables.labels.c
    champion = select(tables.detectors.c.id).where(tables.detectors.c.role == "champion")
    seen = exists().where(
        labels.image_id == predictions.image_id, labels.detector_id == predictions.detector_id
    )
    unneeded = (
        predictions.map_ref.is_not(None),
        predictions.created < before,
        predictions.detector_id.not_in(champion),
        ~seen,
    )
    count = catalog.connection.scalar(select(func.count()).select_from(tables.predictions).where(*unneeded))
    catalog.connection.execute(update(tables.predictions).where(*unneeded).values(map_ref=None))
    return count or 0
