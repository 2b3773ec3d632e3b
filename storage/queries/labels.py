"""Read models of labels."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, exists, func, select

from dataengine.records import THRESHOLD, Label
from storage import tables
from storage.catalog import Catalog
from storage.repositories.rows import chunks

Policy = Literal["unreturned", "approved"]


def counting_labels(
    catalog: Catalog, image_ids: Iterable[str], policy: Policy = "unreturned"
) -> dict[str, list[Label]]:
    """The labels of each image that training may use, oldest first; images without one are left out.

    Each person's newest revision is an opinion. One whose newest verdict is "rejected" (returned) or
    "corrected" (replaced by the curator's own) never counts. Approved ones put unreviewed ones aside; with
    policy "approved" unreviewed ones never count.
    """
    opinions: dict[str, list[Label]] = {}
    for label in catalog.labels.of_images(image_ids):
        opinions.setdefault(label.image_id, []).append(label)
    verdicts = catalog.reviews.verdicts(opinions)
    counting: dict[str, list[Label]] = {}
    for image_id, labels in opinions.items():
        said = [(label, verdicts.get((image_id, label.author, label.revision))) for label in labels]
        approved = [label for label, verdict in said if verdict == "accepted"]
        open_ones = [label for label, verdict in said if verdict is None] if policy == "unreturned" else []
        if kept := approved or open_ones:
            counting[image_id] = sorted(kept, key=lambda label: (label.created, label.author))
    return counting


def with_several_opinions(catalog: Catalog, conditions: Sequence[ColumnElement[bool]] = ()) -> list[str]:
    """Ids of images that two or more people labelled."""
    labels, images = tables.labels.c, tables.images.c
    statement = (
        select(labels.image_id).group_by(labels.image_id).having(func.count(labels.author.distinct()) > 1)
    )
    if conditions:
        inside = select(images.id).where(*conditions)
        statement = statement.where(labels.image_id.in_(inside))
    return list(catalog.connection.scalars(statement.order_by(labels.image_id)))


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
    """(category, is flawed) of a round's pseudo-labels on training images that are not `taken` already."""
    pseudo, images = tables.pseudo_labels.c, tables.images.c
    statement = (
        select(images.id, func.coalesce(images.category, ""), pseudo.max)
        .join(tables.images, images.id == pseudo.image_id)
        .where(pseudo.round_id == round_id, images.split == "train", images.status == "active")
    )
    rows = catalog.connection.execute(statement)
    return [(category, highest >= THRESHOLD) for id, category, highest in rows if id not in taken]


def unlabelled_real(catalog: Catalog, split: str = "train") -> list[tuple[str, str]]:
    """(image id, category) of real pictures that nobody labelled."""
    images = tables.images.c
    labelled = exists().where(tables.labels.c.image_id == images.id)
    statement = select(images.id, func.coalesce(images.category, "")).where(
        images.source == "real", images.split == split, images.status == "active", ~labelled
    )
    return [(row[0], row[1]) for row in catalog.connection.execute(statement.order_by(images.id))]


def benchmark_candidates(
    catalog: Catalog, detector_id: str | None, real: bool
) -> list[tuple[str, str, float, bool]]:
    """(image, category, maximum confidence, is reserved) that a new benchmark may draw.

    None that a snapshot holds, nor any of its group; none of another benchmark, of validation, or with a
    label, unless it is reserved for benchmarks anyway.
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
        .where(~images.id.in_(select(items.image_id)), ~images.group.in_(trained))
        .where(~images.id.in_(select(tables.benchmark_items.c.image_id)))
        .order_by(images.id)
    )
    rows = catalog.connection.execute(statement)
    return [
        (row[0], row[1], float(row[2] or 0.0), bool(row[3])) for row in rows if real or row[2] is not None
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What filters of the desk may be set to."""

    categories: list[str]
    generators: list[str]
    rounds: list[str]
    people: list[str]


def choices(catalog: Catalog) -> Choices:
    """Values in use."""

    def distinct(column: ColumnElement[Any]) -> list[str]:
        found = catalog.connection.scalars(select(column).where(column.is_not(None)).distinct())
        return sorted(str(value) for value in found)

    images = tables.images.c
    return Choices(
        categories=distinct(images.category),
        generators=distinct(images.generator_id),
        rounds=distinct(images.round_id),
        people=distinct(tables.labels.c.author),
    )


def labels_of(catalog: Catalog, image_ids: Iterable[str]) -> dict[str, list[Label]]:
    """Every person's newest revision, by image."""
    found: dict[str, list[Label]] = {}
    for chunk in chunks(image_ids):
        for label in catalog.labels.of_images(chunk):
            found.setdefault(label.image_id, []).append(label)
    return found
