"""Pages of images: filtered, sorted, with keyset pagination."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select, tuple_

from dataengine.records import INJECTED
from storage import tables
from storage.catalog import Catalog
from storage.prompt_search import ARRIVAL, FOUND, in_order_of_arrival, prompt_matches
from storage.queries.lasso import Lasso, inside, refuse_outdated

PAGE = 48
COUNT_LIMIT = 10_000

Order = Literal["uncertainty", "max", "newest", "oldest"]
State = Literal["unlabelled", "waiting", "unreviewed", "approved", "returned", "refused"]
STATES: tuple[State, ...] = ("unlabelled", "waiting", "unreviewed", "approved", "returned", "refused")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFilter:
    """The filter of a page; `lowest` and `highest` bound the maximum confidence, inclusive."""

    ids: tuple[str, ...] = ()
    """Only these images; all if empty."""
    category: str | None = None
    lowest: float = 0.0
    highest: float = 1.0
    detector_id: str | None = None
    """Only images that this detector has predicted, and its predictions; None means any, the champion's
    first."""
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
    tag: str | None = None
    search: str | None = None
    """Words of the prompt (see `prompt_search`)."""
    order: Order = "uncertainty"
    """Images without the champion's prediction come last, newest first."""

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
    detector_id: str | None
    """The detector that predicted it."""
    labelled: bool


class Cursor(NamedTuple):
    """The end of a page. Opaque to clients."""

    key: float
    """The sort key of the last card."""
    image_id: str
    unranked: bool = False
    """Whether the last card was one of those that the order does not rank, which follow by age."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Cards in order and the cursor of the next page, None on the last one."""

    cards: tuple[ImageCard, ...]
    after: Cursor | None


def page_of_images(
    catalog: Catalog, image_filter: ImageFilter | None = None, after: Cursor | None = None, limit: int = PAGE
) -> Page:
    """Images in the requested order; those that it does not rank, because the champion has not predicted
    them, follow, newest first. All are newest first while no detector is promoted or given.

    The last page is as fast as the first, and no image occurs on two pages.
    """
    image_filter = image_filter or ImageFilter()
    refuse_outdated(catalog, image_filter.lasso)
    champion = champion_id(catalog)
    detector_id = image_filter.detector_id or champion
    keys: list[Cursor] = []
    if after is None or not after.unranked:
        keys = _ranked(catalog, image_filter, champion, after, limit + 1)
    if len(keys) <= limit and detector_id and _leaves_others(image_filter):
        ranked = exists().where(
            tables.predictions.c.image_id == tables.images.c.id,
            tables.predictions.c.detector_id == detector_id,
        )
        start = after if after is not None and after.unranked else None
        keys += unranked(catalog, image_filter, ranked, start, limit + 1 - len(keys))
    shown = keys[:limit]
    cards = cards_of(catalog, [one.image_id for one in shown], image_filter.detector_id)
    return Page(cards=cards, after=shown[-1] if len(keys) > limit else None)


def _ranked(
    catalog: Catalog, image_filter: ImageFilter, champion: str | None, after: Cursor | None, limit: int
) -> list[Cursor]:
    statement, key, ascending = _ordered(catalog, image_filter, champion)
    if after is not None:
        last = after[: len(key)]
        statement = statement.where(tuple_(*key) > last if ascending else tuple_(*key) < last)
    direction = [column.asc() if ascending else column.desc() for column in key]
    rows = catalog.connection.execute(statement.order_by(*direction).limit(limit))
    return [Cursor(float(row.key), str(row.image_id)) for row in rows]


def unranked(
    catalog: Catalog,
    image_filter: ImageFilter,
    ranked: ColumnElement[bool],
    after: Cursor | None,
    limit: int,
) -> list[Cursor]:
    """Images within the filter that an order does not rank, newest first: those without `ranked`."""
    images = tables.images.c
    key = images.created, images.id
    statement = (
        select(images.created, images.id)
        .where(*conditions_of(catalog, image_filter), ~ranked)
        .order_by(*(column.desc() for column in key))
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(tuple_(*key) < after[:2])
    return [Cursor(float(created), str(id), True) for created, id in catalog.connection.execute(statement)]


def _leaves_others(image_filter: ImageFilter) -> bool:
    """Whether images without a prediction lie within the filter and are not in its order."""
    by_age = image_filter.order in ("newest", "oldest")
    return not (by_age or image_filter.bounded or image_filter.detector_id)


def count_of_images(
    catalog: Catalog, image_filter: ImageFilter | None = None, limit: int = COUNT_LIMIT
) -> int:
    """Number of images that match the filter, counted up to `limit` only: pages then show "10,000 or
    more"."""
    found = ids_within(catalog, image_filter or ImageFilter()).limit(limit).subquery()
    return catalog.connection.scalar(select(func.count()).select_from(found)) or 0


def ids_within(catalog: Catalog, image_filter: ImageFilter) -> Select[Any]:
    """The ids of the images that match the filter, in no order."""
    detector_id = image_filter.detector_id or champion_id(catalog)
    if detector_id is None or not (image_filter.bounded or image_filter.detector_id):
        return select(tables.images.c.id).where(*conditions_of(catalog, image_filter))
    statement, _, _ = _scored(image_filter, detector_id)
    return statement.with_only_columns(tables.predictions.c.image_id)


def conditions_of(catalog: Catalog, image_filter: ImageFilter) -> list[ColumnElement[bool]]:
    """The filter's conditions on `images`, with the bounds of confidence by its detector or else today's
    champion, or by any detector without a champion."""
    refuse_outdated(catalog, image_filter.lasso)
    conditions = matching(image_filter)
    if image_filter.bounded or image_filter.detector_id:
        conditions.append(within_bounds(image_filter, image_filter.detector_id or champion_id(catalog)))
    return conditions


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
    if image_filter.ids:
        conditions.append(images.id.in_(image_filter.ids))
    labelled = images.id.in_(select(tables.labels.c.image_id))
    if image_filter.labelled is not None:
        conditions.append(labelled if image_filter.labelled else ~labelled)
    if image_filter.label_class is not None:
        conditions.append(images.id.in_(_marked_with(image_filter.label_class)))
    if image_filter.tag is not None:
        tags = tables.image_tags.c
        conditions.append(images.id.in_(select(tags.image_id).where(tags.tag == image_filter.tag)))
    if image_filter.search is not None:
        conditions.append(prompt_matches(image_filter.search))
    if image_filter.state == "unlabelled":
        conditions.append(~labelled)
    elif image_filter.state not in (None, "refused"):
        conditions.append(images.id.in_(in_state(image_filter.state)))
    return conditions


def cards_of(catalog: Catalog, ids: Sequence[str], detector_id: str | None = None) -> tuple[ImageCard, ...]:
    """The cards of these images in their order, with the detector's predictions; without one with the
    champion's, or else with those of the detector that predicted the image last. Erased images are omitted.
    """
    images = tables.images
    labelled = exists().where(tables.labels.c.image_id == images.c.id)
    names = (
        *("id", "prompt", "category", "source", "split", "generator_id", "height", "width"),
        *("sha256", "thumbnail", "round_id", "created"),
    )
    statement = select(*(images.c[name] for name in names), labelled.label("labelled"))
    predictions = _predictions_of(catalog, ids, detector_id)
    unknown = dict.fromkeys(_PREDICTED)
    cards = {
        row["id"]: ImageCard(
            **{**row, "labelled": bool(row["labelled"])}, **predictions.get(row["id"], unknown)
        )
        for row in catalog.connection.execute(statement.where(images.c.id.in_(ids))).mappings()
    }
    return tuple(cards[id] for id in ids if id in cards)


_PREDICTED = ("max", "mean", "uncertainty", "map_ref", "detector_id")


def _predictions_of(
    catalog: Catalog, ids: Sequence[str], detector_id: str | None
) -> dict[str, dict[str, Any]]:
    """The prediction that each image's card shows, by image."""
    predictions = tables.predictions.c
    statement = select(predictions.image_id, *(predictions[name] for name in _PREDICTED))
    statement = statement.where(predictions.image_id.in_(ids))
    if detector_id is not None:
        statement = statement.where(predictions.detector_id == detector_id)
    # Later rows replace earlier ones.
    champion = predictions.detector_id == champion_id(catalog)
    found = {}
    for row in catalog.connection.execute(statement.order_by(champion, predictions.created)).mappings():
        found[row["image_id"]] = {name: row[name] for name in _PREDICTED}
    return found


def _ordered(
    catalog: Catalog, image_filter: ImageFilter, champion: str | None
) -> tuple[Select[Any], tuple[Any, ...], bool]:
    """The statement of sorting keys and image ids, the columns of the key, and whether it ascends."""
    detector_id = image_filter.detector_id or champion
    images = tables.images.c
    if detector_id is not None and image_filter.order not in ("newest", "oldest"):
        return _scored(image_filter, detector_id)
    ascending = image_filter.order == "oldest"
    if catalog.connection.dialect.name == "sqlite" and image_filter.search is not None:
        found = in_order_of_arrival(image_filter.search)
        if found is not None:
            rest = conditions_of(catalog, replace(image_filter, search=None))
            inside = exists().where(images.id == FOUND, *rest)
            return found.where(inside), (ARRIVAL,), ascending
    columns: list[Any] = [images.created.label("key"), images.id.label("image_id")]
    statement: Select[Any] = select(*columns).where(*conditions_of(catalog, image_filter))
    return statement, (images.created, images.id), ascending


def within_bounds(image_filter: ImageFilter, detector_id: str | None) -> ColumnElement[bool]:
    """Images whose highest confidence by that detector, or any, lies within the filter's bounds."""
    same_image = tables.predictions.c.image_id == tables.images.c.id
    inside = exists().where(*_bounds(image_filter, detector_id), same_image)
    return inside.correlate(tables.images)  # a statement around it may join predictions of its own


def _bounds(image_filter: ImageFilter, detector_id: str | None) -> list[ColumnElement[bool]]:
    predictions = tables.predictions.c
    # An index cannot be searched for a sum, so SQLite uses the one that gives the order by uncertainty.
    highest = predictions.max if image_filter.order == "max" else predictions.max + 0.0
    bounds: list[ColumnElement[bool]] = [highest.between(image_filter.lowest, image_filter.highest)]
    return bounds if detector_id is None else [predictions.detector_id == detector_id, *bounds]


def _scored(image_filter: ImageFilter, detector_id: str) -> tuple[Select[Any], tuple[Any, ...], bool]:
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
        or image_filter.tag
        or image_filter.ids
        or image_filter.search is not None
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


def in_state(state: State) -> Select[Any]:
    """The images in a state other than "unlabelled" and "refused"; some of them several times."""
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
