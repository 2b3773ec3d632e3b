"""Read models of labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, func, select

from dataengine.records import INJECTED, Label
from storage import tables
from storage.catalog import Catalog
from storage.repositories.rows import chunks

Policy = Literal["unreturned", "approved"]


def valid_labels(
    catalog: Catalog, image_ids: Iterable[str], policy: Policy = "unreturned"
) -> dict[str, list[Label]]:
    """The labels of each image that training may use, oldest first; images without one are omitted.

    Each person's newest revision counts, unless its newest verdict is "rejected" (returned) or "corrected"
    (replaced by the curator's own). Approved labels supersede unreviewed ones; with policy "approved"
    unreviewed ones never count, nor do the label maps of injected artifacts.
    """
    newest = labels_of(catalog, image_ids)
    verdicts = catalog.reviews.verdicts(newest)
    counting: dict[str, list[Label]] = {}
    for image_id, labels in newest.items():
        reviewed = [(label, verdicts.get((image_id, label.author, label.revision))) for label in labels]
        approved = [label for label, verdict in reviewed if verdict == "accepted"]
        open_ones = (
            [label for label, verdict in reviewed if verdict is None] if policy == "unreturned" else []
        )
        if kept := approved or open_ones:
            counting[image_id] = sorted(kept, key=lambda label: (label.created, label.author))
    return counting


def labelled_by_several(catalog: Catalog, conditions: Sequence[ColumnElement[bool]] = ()) -> list[str]:
    """Ids of images labelled by two or more people."""
    labels, images = tables.labels.c, tables.images.c
    statement = _labelled_by_several()
    if conditions:
        inside = select(images.id).where(*conditions)
        statement = statement.where(labels.image_id.in_(inside))
    return list(catalog.connection.scalars(statement.order_by(labels.image_id)))


def with_several_labels() -> ColumnElement[bool]:
    """Images labelled by two or more people."""
    return tables.images.c.id.in_(_labelled_by_several())


def _labelled_by_several() -> Select[Any]:
    labels = tables.labels.c
    return (
        select(labels.image_id)
        .where(labels.source != INJECTED)
        .group_by(labels.image_id)
        .having(func.count(labels.author.distinct()) > 1)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """The values of the curation desk's filters."""

    categories: list[str]
    generators: list[str]
    rounds: list[str]
    label_rounds: list[str]
    """The rounds of the queue that labels belong to."""
    people: list[str]


def choices(catalog: Catalog) -> Choices:
    """The values in use."""

    def distinct(column: ColumnElement[Any], *conditions: ColumnElement[bool]) -> list[str]:
        statement = select(column).where(column.is_not(None), *conditions).distinct()
        return sorted(str(value) for value in catalog.connection.scalars(statement))

    images, labels = tables.images.c, tables.labels.c
    return Choices(
        categories=distinct(images.category),
        generators=distinct(images.generator_id),
        rounds=distinct(images.round_id),
        label_rounds=distinct(labels.round_id, labels.source != INJECTED),
        people=distinct(labels.author, labels.source != INJECTED),
    )


def labels_of(catalog: Catalog, image_ids: Iterable[str]) -> dict[str, list[Label]]:
    """Every person's newest revision, by image; label maps of injected artifacts are no person's."""
    by_image: dict[str, list[Label]] = {}
    for chunk in chunks(image_ids):
        for label in catalog.labels.of_images(chunk):
            if label.source != INJECTED:
                by_image.setdefault(label.image_id, []).append(label)
    return by_image
