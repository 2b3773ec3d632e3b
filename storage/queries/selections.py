"""Selections of images for work: every image of a filter, page by page, in the order of ids."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, exists, func, or_, select

from dataengine.records import REPAIRED, Image
from dataengine.records.images import HARD, IMPORTED, SURVEY
from storage import tables
from storage.catalog import Catalog
from storage.queries.categories import not_queued
from storage.queries.images import (
    ImageFilter,
    collected,
    newest_revision,
    newest_verdict,
)

Conditions = Sequence[ColumnElement[bool]]
"""Conditions on the table of images."""


def page_of_selection(
    catalog: Catalog, conditions: Conditions, after: str | None = None, limit: int = 256
) -> list[Image]:
    """The next images by id; `after` is the last id of the page before."""
    ids = tables.images.c.id
    statement = select(ids).where(*conditions).order_by(ids).limit(limit)
    if after is not None:
        statement = statement.where(ids > after)
    return catalog.images.get_many(list(catalog.connection.scalars(statement)))


def ids_of_selection(catalog: Catalog, conditions: Conditions, limit: int | None = None) -> list[str]:
    """The ids of the images that meet the conditions, in order, at most `limit`."""
    ids = tables.images.c.id
    return list(catalog.connection.scalars(select(ids).where(*conditions).order_by(ids).limit(limit)))


def count_of_selection(catalog: Catalog, conditions: Conditions) -> int:
    """Number of images that meet the conditions."""
    statement = select(func.count()).select_from(tables.images).where(*conditions)
    return catalog.connection.scalar(statement) or 0


def not_predicted_by(detector_id: str) -> ColumnElement[bool]:
    """Images without a prediction of the detector."""
    predictions = tables.predictions.c
    return ~exists().where(predictions.image_id == tables.images.c.id, predictions.detector_id == detector_id)


def known_clean() -> list[ColumnElement[bool]]:
    """Images known to have no artifact: real ones without a label, and those that a label which counts calls
    clean and none calls flawed. An injected artifact's image is never clean."""
    images, labels, reviews = tables.images.c, tables.labels.c, tables.reviews.c
    returned = exists().where(
        reviews.image_id == labels.image_id,
        reviews.author == labels.author,
        reviews.revision == labels.revision,
        reviews.verdict.in_(("rejected", "corrected")),
        newest_verdict(reviews),
    )
    counting = labels.image_id == images.id, newest_revision(labels), ~returned
    clean = exists().where(*counting, labels.clean.is_(True))
    flawed = exists().where(*counting, labels.clean.is_(False))
    unlabelled = ~exists().where(labels.image_id == images.id)
    return [collected(), or_(and_(images.source == "real", unlabelled), and_(clean, ~flawed))]


def by_id(ids: Sequence[str]) -> ColumnElement[bool]:
    """The images with these ids."""
    return tables.images.c.id.in_(list(ids))


def active() -> ColumnElement[bool]:
    """Images that were not refused."""
    return tables.images.c.status == "active"


def uncategorised() -> ColumnElement[bool]:
    """Images without a category; repairs need none, so that no category's statistic counts them."""
    return and_(tables.images.c.category.is_(None), tables.images.c.source != REPAIRED)


def count_by_category(catalog: Catalog, conditions: Conditions) -> dict[str, int]:
    """Number of images of each category, "" for none."""
    category = func.coalesce(tables.images.c.category, "")
    statement = select(category, func.count()).where(*conditions).group_by(category).order_by(category)
    return {str(name): int(count) for name, count in catalog.connection.execute(statement)}


def minable(image_filter: ImageFilter) -> list[ColumnElement[bool]]:
    """Images that may go to annotators: not labelled, never queued, of no benchmark, and not drawn for
    comparing generators; real photos only if the filter asks for them."""
    conditions = [*not_queued(), _for_training()]
    if image_filter.source is None:
        conditions.append(tables.images.c.source.in_(IMPORTED))
    return conditions


def pseudo_labelable(detector_id: str, round_id: str) -> list[ColumnElement[bool]]:
    """Training images that people leave alone and that have no such pseudo-label yet.

    Left out are labelled and queued images, answered or not, those of no training split, those drawn for
    comparing generators, and real photos, which count as clean.
    """
    images, labels = tables.images.c, tables.pseudo_labels.c
    labelled = exists().where(
        labels.image_id == images.id, labels.detector_id == detector_id, labels.round_id == round_id
    )
    return [*not_queued(), _for_training(), images.split == "train", images.source != "real", ~labelled]


def _for_training() -> ColumnElement[bool]:
    images = tables.images.c
    return and_(images.purpose.in_(("", SURVEY, HARD)), images.source != REPAIRED)


def most_telling(
    catalog: Catalog,
    conditions: Conditions,
    detector_id: str,
    categories: Sequence[str],
    threshold: float,
    limits: tuple[int, int],
) -> list[Image]:
    """The images that the detector flags, at most `limits[0]` with the highest sum of confidence and
    uncertainty, and at most `limits[1]` of the others, drawn by their ids, which are random; by id.

    `categories` restricts both; of all when empty.
    """
    predictions, images = tables.predictions.c, tables.images.c
    inside = exists().where(images.id == predictions.image_id, *conditions)
    base = select(predictions.image_id).where(predictions.detector_id == detector_id, inside)
    if categories:
        base = base.where(predictions.category.in_(list(categories)))
    telling = (predictions.max + predictions.uncertainty).desc()
    flagged = base.where(predictions.max >= threshold).order_by(telling, predictions.image_id)
    quiet = base.where(predictions.max < threshold).order_by(predictions.image_id)
    found = [
        image_id
        for statement, limit in zip((flagged, quiet), limits, strict=True)
        for image_id in catalog.connection.scalars(statement.limit(limit))
    ]
    return catalog.images.get_many(sorted(found))


def reserved_or_trained_on() -> ColumnElement[bool]:
    """Images that cannot change their split: those of a benchmark, and those of a training set."""
    images, items = tables.images.c, tables.snapshot_items.c
    return or_(
        images.split == "benchmark", exists().where(items.image_id == images.id, items.split == "train")
    )


def groups_of(catalog: Catalog, conditions: Conditions) -> set[str]:
    """The groups of the images; what belongs to one group stays in one split."""
    group = tables.images.c.group
    return set(catalog.connection.scalars(select(group).where(*conditions, group != "").distinct()))


def in_groups(groups: Sequence[str]) -> ColumnElement[bool]:
    """The images of these groups."""
    return tables.images.c.group.in_(list(groups))


def waiting_items(catalog: Catalog, conditions: Conditions) -> list[tuple[str, str]]:
    """Image and round of everything among these images that waits to be drawn on."""
    items, images = tables.queue_items.c, tables.images.c
    inside = select(images.id).where(*conditions)
    statement = select(items.image_id, items.round_id).where(
        items.kind == "draw", items.done.is_(False), items.image_id.in_(inside)
    )
    rows = catalog.connection.execute(statement.order_by(items.image_id, items.round_id))
    return [(row.image_id, row.round_id) for row in rows]
