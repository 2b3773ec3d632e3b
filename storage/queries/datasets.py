"""Read models of datasets: the composition of training sets, and candidates for benchmarks."""

from collections.abc import Collection

from sqlalchemy import and_, exists, func, select

from dataengine.records import REPAIRED, THRESHOLD
from storage import tables
from storage.catalog import Catalog
from storage.queries.images import collected


def examples_of_snapshot(catalog: Catalog, snapshot_id: str) -> list[tuple[str, bool, int]]:
    """(category, is flawed, rows) of a snapshot; a pseudo-label is flawed from confidence `THRESHOLD`."""
    items = tables.snapshot_items.c
    flawed = items.target.is_not(None) & ((items.kind != "pseudo") | (items.max_confidence >= THRESHOLD))
    statement = (
        select(items.category, flawed.label("flawed"), func.count())
        .where(items.snapshot_id == snapshot_id)
        .group_by(items.category, "flawed")
    )
    rows = catalog.connection.execute(statement)
    return [(category or "", bool(sign), count) for category, sign, count in rows]


def pseudo_examples(catalog: Catalog, round_id: str | None, taken: Collection[str]) -> list[tuple[str, bool]]:
    """(category, is flawed) of a round's pseudo-labels on unlabelled training images that are not in `taken`;
    without a round, of the images' newest ones."""
    pseudo, images = tables.pseudo_labels.c, tables.images.c
    labelled = exists().where(tables.labels.c.image_id == images.id)
    statement = (
        select(images.id, func.coalesce(images.category, "").label("category"), pseudo.max)
        .join(tables.images, images.id == pseudo.image_id)
        .where(images.split == "train", images.status == "active", ~labelled)
        .order_by(pseudo.created)
    )
    if round_id is not None:
        statement = statement.where(pseudo.round_id == round_id)
    newest = {row.id: (row.category, row.max >= THRESHOLD) for row in catalog.connection.execute(statement)}
    return [example for id, example in newest.items() if id not in taken]


def unlabelled_real(catalog: Catalog, split: str = "train") -> list[tuple[str, str]]:
    """(image id, category) of unlabelled real images."""
    images = tables.images.c
    labelled = exists().where(tables.labels.c.image_id == images.id)
    statement = select(images.id, func.coalesce(images.category, "")).where(
        images.source == "real", images.split == split, images.status == "active", ~labelled
    )
    return [(row[0], row[1]) for row in catalog.connection.execute(statement.order_by(images.id))]


def benchmark_candidates(
    catalog: Catalog, detector_id: str | None, real: bool
) -> list[tuple[str, str, float, bool]]:
    """(image, category, maximum confidence, is reserved) of the candidates for a new benchmark.

    Excluded are repairs, images of groups in a snapshot and of other benchmarks, and, unless reserved for
    benchmarks, validation and labelled images.
    """
    images, predictions, items = tables.images.c, tables.predictions, tables.snapshot_items.c
    groups = tables.images.alias("trained")
    trained = select(groups.c.group).where(groups.c.id.in_(select(items.image_id)), groups.c.group != "")
    reserved = images.split == "benchmark"
    fresh = and_(
        images.split == "train",
        ~exists().where(tables.labels.c.image_id == images.id),
        ~exists().where(tables.queue_items.c.image_id == images.id),
    )
    statement = (
        select(images.id, func.coalesce(images.category, ""), predictions.c.max, reserved.label("reserved"))
        .outerjoin(
            predictions, and_(predictions.c.image_id == images.id, predictions.c.detector_id == detector_id)
        )
        .where(images.status == "active", (images.source == "real") == real, reserved | fresh)
        .where(collected(), images.source != REPAIRED)
        .where(~images.id.in_(select(items.image_id)), ~images.group.in_(trained))
        .where(~images.id.in_(select(tables.benchmark_items.c.image_id)))
        .order_by(images.id)
    )
    rows = catalog.connection.execute(statement)
    return [
        (row[0], row[1], float(row[2] or 0.0), bool(row[3])) for row in rows if real or row[2] is not None
    ]
