"""Counts of a workspace for the home page and `clinic status`."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, or_, select

from dataengine.records import CLINIC, INJECTED, REPAIRED
from storage import tables
from storage.catalog import Catalog
from storage.queries.images import champion_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """Counts of a workspace, for the home page and `clinic status`."""

    images: dict[str, int]
    """Images by source; here and in `splits` without repairs that nobody accepted."""
    splits: dict[str, int]
    labelled: int
    """Images with a label by people: not simulated, not the embedded clinic's, not an injected artifact's."""
    synthetic: int
    """Images with a simulated label or one of the embedded clinic, and none by people."""
    waiting: int
    """Queue items that still need annotations."""
    pseudo_labels: int
    snapshots: int
    detectors: int
    generators: int
    treatments: int
    studies: int
    users: int
    jobs: dict[str, int]
    """By state."""
    rounds: dict[str, int]
    """By state."""
    champion: str | None


def overview(catalog: Catalog) -> Overview:
    """Count all records of a workspace."""

    def total(name: str) -> int:
        table = tables.metadata.tables[name]
        return catalog.connection.scalar(select(func.count()).select_from(table)) or 0

    def grouped(column: ColumnElement[str]) -> dict[str, int]:
        rows = catalog.connection.execute(select(column, func.count()).group_by(column).order_by(column))
        return {name: count for name, count in rows}

    def images_by(column: ColumnElement[str]) -> dict[str, int]:
        # Subtracted, because the indexes that answer all counts hold no status.
        images = tables.images.c
        pending = select(column, func.count()).where(images.source == REPAIRED, images.status != "active")
        left_out = {name: count for name, count in catalog.connection.execute(pending.group_by(column))}
        counts = {name: count - left_out.get(name, 0) for name, count in grouped(column).items()}
        return {name: count for name, count in counts.items() if count}

    labels = tables.labels.c
    images = select(func.count(func.distinct(labels.image_id)))
    made_up = or_(labels.source == "simulated", labels.author == CLINIC)
    labelled = catalog.connection.scalar(images.where(labels.source != INJECTED, ~made_up)) or 0
    all_labelled = catalog.connection.scalar(images.where(labels.source != INJECTED)) or 0
    return Overview(
        images=images_by(tables.images.c.source),
        splits=images_by(tables.images.c.split),
        labelled=labelled,
        synthetic=all_labelled - labelled,
        waiting=catalog.queue.remaining(),
        pseudo_labels=total("pseudo_labels"),
        snapshots=total("snapshots"),
        detectors=total("detectors"),
        generators=total("generators"),
        treatments=total("treatments"),
        studies=total("studies"),
        users=catalog.users.count(),
        jobs=grouped(tables.jobs.c.state),
        rounds=grouped(tables.rounds.c.state),
        champion=champion_id(catalog),
    )
