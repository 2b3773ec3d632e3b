"""Pages of images: filtered, sorted, with keyset pagination."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select, tuple_

from dataengine.records import INJECTED
from storage import tables
from storage.catalog import Catalog
from storage.queries.lasso import Lasso, inside, refuse_outdated

PAGE = 48
COUNT_LIMIT = 10_000

Order = Literal["uncertainty", "max", "newest", "oldest"]
State = Literal["unlabelled", "waiting", "unreviewed", "approved", "returned", "refused"]
STATES: tuple[State, ...] = ("unlabelled", "waiting", "unreviewed", "approved", "returned", "refused")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFilter:
    """The filter of a page; `lowest` and `highest` bound the maximum confidence, inclusive."""

    category: str | None = None
    lowest: float = 0.0
    highest: float = 1.0
    detector_id: str | None = None
    """The detector whose predictions are used; None means the champion."""
    generator_id: str | None = None
    source: str | None = None
    """None means every source but "injected"."""
    split: str | None = None
    round_id: str | None = None
    label_class: int | None = None
    """Only images on which the newest revision of any author marks that class."""
    state: State | None = None
    labelled: bool | None = None
    lasso: Lasso | None = None
    """Only images that lie inside of it on the map."""
    order: Order = "uncertainty"
    """Sorted by age, images without a prediction are included unless confidence is bounded."""

    @property
    def bounded(self) -> bool:
        """Whether the filter bounds confidence."""
        return self.lowest > 0 or self.highest < 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCard:
    """One image of a gallery; confidence figures are None without a prediction."""

    id: str
    prompt: str
    category: str | None
    source: str
    split: str
    generator_id: str | None
    height: int
    width: int
    sha256: str
    thumbnail: str | None
    round_id: str | None
    created: float
    max: float | None
    mean: float | None
    uncertainty: float | None
    map_ref: str | None
    labelled: bool


Cursor = tuple[float, str]
"""The end of a page: sort key and image id of its last card. Opaque to clients."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Cards in order and the cursor of the next page, None on the last one."""

    cards: tuple[ImageCard, ...]
    after: Cursor | None


def page_of_images(
    catalog: Catalog, image_filter: ImageFilter | None = None, after: Cursor | None = None, limit: int = PAGE
) -> Page:
    """Images in the requested order; newest first while no detector is promoted or given.

    The last page is as fast as the first, and no image occurs on two pages.
    """
    image_filter = image_filter or ImageFilter()
    refuse_outdated(catalog, image_filter.lasso)
    detector_id = image_filter.detector_id or champion_id(catalog)
    statement, key, ascending = _ordered(image_filter, detector_id)
    if after is not None:
        statement = statement.where(tuple_(*key) > after if ascending else tuple_(*key) < after)
    direction = [column.asc() if ascending else column.desc() for column in key]
    statement = statement.order_by(*direction).limit(limit + 1)
    keys = [(float(row.key), str(row.image_id)) for row in catalog.connection.execute(statement)]
    shown = keys[:limit]
    cards = cards_of(catalog, [image_id for _, image_id in shown], detector_id)
    return Page(cards=cards, after=shown[-1] if len(keys) > limit else None)


def count_of_images(
    catalog: Catalog, image_filter: ImageFilter | None = None, limit: int = COUNT_LIMIT
) -> int:
    """Number of images that match the filter, counted up to `limit` only: pages then show "10,000 or
    more"."""
    image_filter = image_filter or ImageFilter()
    refuse_outdated(catalog, image_filter.lasso)
    statement, _, _ = _ordered(image_filter, image_filter.detector_id or champion_id(catalog))
    return catalog.connection.scalar(select(func.count()).select_from(statement.limit(limit).subquery())) or 0


def champion_id(catalog: Catalog) -> str | None:
    """The id of the champion."""
    return catalog.detectors.champion_id()


def collected() -> ColumnElement[bool]:
    """Images without an injected artifact."""
    return tables.images.c.source != INJECTED


def matching(image_filter: ImageFilter, category: bool = True) -> list[ColumnElement[bool]]:
    """The filter's conditions on `images`, except the bounds of confidence. Images with an injected artifact
    match only a filter that names their source."""
    images = tables.images.c
    conditions: list[ColumnElement[bool]] = [
        images.status == ("refused" if image_filter.state == "refused" else "active")
    ]
    for column, value in (
        (images.category, image_filter.category if category else None),
        (images.source, image_filter.source),
        (images.split, image_filter.split),
        (images.generator_id, image_filter.generator_id),
        (images.round_id, image_filter.round_id),
    ):
        if value is not None:
            conditions.append(column == value)
    if image_filter.source is None:
        conditions.append(collected())
    if image_filter.lasso is not None:
        conditions.append(images.id.in_(inside(image_filter.lasso)))
    labelled = images.id.in_(select(tables.labels.c.image_id))
    if image_filter.labelled is not None:
        conditions.append(labelled if image_filter.labelled else ~labelled)
    if image_filter.label_class is not None:
        conditions.append(images.id.in_(_marked_with(image_filter.label_class)))
    if image_filter.state == "unlabelled":
        conditions.append(~labelled)
    elif image_filter.state not in (None, "refused"):
        conditions.append(images.id.in_(_in_state(image_filter.state)))
    return conditions


def cards_of(catalog: Catalog, ids: Sequence[str], detector_id: str | None) -> tuple[ImageCard, ...]:
    """The cards of these images in their order; erased images are omitted."""
    images, predictions = tables.images, tables.predictions
    labelled = exists().where(tables.labels.c.image_id == images.c.id)
    names = (
        *("id", "prompt", "category", "source", "split", "generator_id", "height", "width"),
        *("sha256", "thumbnail", "round_id", "created"),
    )
    statement = (
        select(
            *(images.c[name] for name in names),
            *(predictions.c[name] for name in ("max", "mean", "uncertainty", "map_ref")),
            labelled.label("labelled"),
        )
        .outerjoin(
            predictions,
            and_(predictions.c.image_id == images.c.id, predictions.c.detector_id == detector_id),
        )
        .where(images.c.id.in_(ids))
    )
    cards = {
        row["id"]: ImageCard(**{**row, "labelled": bool(row["labelled"])})
        for row in catalog.connection.execute(statement).mappings()
    }
    return tuple(cards[id] for id in ids if id in cards)


def _ordered(image_filter: ImageFilter, detector_id: str | None) -> tuple[Select[Any], tuple[Any, Any], bool]:
    """The statement of sorting keys and image ids, the columns of the key, and whether it ascends."""
    if detector_id is None or image_filter.order in ("newest", "oldest"):
        images = tables.images.c
        columns: list[Any] = [images.created.label("key"), images.id.label("image_id")]
        statement: Select[Any] = select(*columns).where(*matching(image_filter))
        if image_filter.bounded:
            statement = statement.where(within_bounds(image_filter, detector_id))
        return statement, (images.created, images.id), image_filter.order == "oldest"
    return _scored(image_filter, detector_id)


def within_bounds(image_filter: ImageFilter, detector_id: str | None) -> ColumnElement[bool]:
    """Images whose highest confidence by that detector lies within the filter's bounds."""
    same_image = tables.predictions.c.image_id == tables.images.c.id
    return exists().where(*_bounds(image_filter, detector_id), same_image)


def _bounds(image_filter: ImageFilter, detector_id: str | None) -> list[ColumnElement[bool]]:
    predictions = tables.predictions.c
    # An index cannot be searched for a sum, so SQLite uses the one that gives the order by uncertainty.
    highest = predictions.max if image_filter.order == "max" else predictions.max + 0.0
    return [
        predictions.detector_id == detector_id,
        highest.between(image_filter.lowest, image_filter.highest),
    ]


def _scored(image_filter: ImageFilter, detector_id: str) -> tuple[Select[Any], tuple[Any, Any], bool]:
    """Predictions of the detector within the filter, by the index that also gives the order.

    Labelled images, queued ones and those of one round are few, so they are selected first and then sorted.
    """
    predictions, images = tables.predictions, tables.images
    value = predictions.c.max if image_filter.order == "max" else predictions.c.uncertainty
    conditions = _bounds(image_filter, detector_id)
    if image_filter.category is not None:
        conditions.append(predictions.c.category == image_filter.category)
    statement: Select[Any] = select(value.label("key"), predictions.c.image_id).where(*conditions)
    of_image = matching(image_filter, category=False)
    few = (
        image_filter.labelled
        or image_filter.lasso
        or image_filter.round_id
        or image_filter.label_class
        or image_filter.state not in (None, "unlabelled")
    )
    if few:
        statement = statement.where(predictions.c.image_id.in_(select(images.c.id).where(*of_image)))
    else:
        statement = statement.where(exists().where(images.c.id == predictions.c.image_id, *of_image))
    return statement, (value, predictions.c.image_id), False


def _marked_with(label_class: int) -> Select[Any]:
    labels, statistics = tables.labels, tables.label_map_facts
    return (
        select(labels.c.image_id)
        .join(statistics, statistics.c.sha256 == labels.c.label_map)
        .where(statistics.c.classes.bitwise_and(1 << (label_class - 1)) != 0, newest_revision(labels.c))
    )


def newest_revision(labels: Any) -> ColumnElement[bool]:
    """True for the newest revision of each image and author."""
    later = tables.labels.alias("later")
    return ~exists().where(
        later.c.image_id == labels.image_id,
        later.c.author == labels.author,
        later.c.revision > labels.revision,
    )


def newest_verdict(reviews: Any) -> ColumnElement[bool]:
    """True for the newest verdict on each revision."""
    later = tables.reviews.alias("later_review")
    return ~exists().where(
        later.c.image_id == reviews.image_id,
        later.c.author == reviews.author,
        later.c.revision == reviews.revision,
        or_(
            later.c.created > reviews.created,
            and_(later.c.created == reviews.created, later.c.reviewer > reviews.reviewer),
        ),
    )


def _in_state(state: str | None) -> Select[Any]:
    labels, reviews, items = tables.labels.c, tables.reviews.c, tables.queue_items.c
    if state == "waiting":
        return select(items.image_id).where(items.done.is_(False))
    verdict = and_(
        reviews.image_id == labels.image_id,
        reviews.author == labels.author,
        reviews.revision == labels.revision,
    )
    if state == "unreviewed":
        return select(labels.image_id).where(newest_revision(labels), ~exists().where(verdict))
    verdicts = ("rejected",) if state == "returned" else ("accepted", "corrected")
    judged = exists().where(verdict, newest_verdict(reviews), reviews.verdict.in_(verdicts))
    return select(labels.image_id).where(newest_revision(labels), judged)
