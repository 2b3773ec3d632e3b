"""What screens show: rows shaped for them, read through a (read-only) unit of work."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, exists, func, or_, select, tuple_

from dataengine.records import Lease, Round
from storage import schema
from storage.catalog import Catalog

PAGE = 48
COUNT_LIMIT = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFilter:
    """Which images a page shows; `lowest` and `highest` bound the maximum confidence, inclusive."""

    category: str | None = None
    lowest: float = 0.0
    highest: float = 1.0
    detector_id: str | None = None
    """Whose predictions count; None means the champion's."""
    source: str | None = None
    split: str | None = None
    round_id: str | None = None
    labelled: bool | None = None
    newest: bool = False
    """Newest first, diagnosed or not; the bounds of confidence then do not apply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCard:
    """One image as a gallery shows it; figures are None without a prediction."""

    id: str
    prompt: str
    category: str | None
    source: str
    split: str
    height: int
    width: int
    sha256: str
    thumbnail: str | None
    round_id: str | None
    max: float | None
    mean: float | None
    uncertainty: float | None
    map_ref: str | None
    labelled: bool


Cursor = tuple[float, str]
"""Where a page ends: the sorting value and the image id of its last card. Opaque to screens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Cards in order and the cursor of the next page, None on the last one."""

    cards: tuple[ImageCard, ...]
    after: Cursor | None


def page_of_images(
    catalog: Catalog, wanted: ImageFilter | None = None, after: Cursor | None = None, limit: int = PAGE
) -> Page:
    """Images most uncertain first; newest first as long as no detector has been promoted or named.

    Pages follow a key, never an offset: the last one is as quick as the first and none repeats an image.
    """
    wanted = wanted or ImageFilter()
    detector_id = wanted.detector_id or _champion(catalog)
    if detector_id is None or wanted.newest:
        images = schema.images.c
        order = images.created, images.id
        columns: list[Any] = [images.created.label("key"), images.id.label("image_id")]
        statement: Select[Any] = select(*columns).where(images.status == "active", *_of_image(wanted))
    else:
        predictions = schema.predictions.c
        order = predictions.uncertainty, predictions.image_id
        statement = _scored(wanted, detector_id, predictions.uncertainty.label("key"), predictions.image_id)
    if after is not None:
        statement = statement.where(tuple_(*order) < after)
    statement = statement.order_by(*(column.desc() for column in order)).limit(limit + 1)
    keys = [(float(row.key), str(row.image_id)) for row in catalog.connection.execute(statement)]
    shown = keys[:limit]
    cards = _cards(catalog, [image_id for _, image_id in shown], detector_id)
    return Page(cards=cards, after=shown[-1] if len(keys) > limit else None)


def count_of_images(catalog: Catalog, wanted: ImageFilter | None = None, limit: int = COUNT_LIMIT) -> int:
    """How many images the filter finds, counted up to `limit` only: screens then show "10,000 or more"."""
    wanted = wanted or ImageFilter()
    detector_id = wanted.detector_id or _champion(catalog)
    if detector_id is None or wanted.newest:
        found: Select[Any] = select(schema.images.c.id).where(
            schema.images.c.status == "active", *_of_image(wanted)
        )
    else:
        found = _scored(wanted, detector_id, schema.predictions.c.image_id)
    inner = found.limit(limit).subquery()
    return catalog.connection.scalar(select(func.count()).select_from(inner)) or 0


def _champion(catalog: Catalog) -> str | None:
    champion = catalog.detectors.champion()
    return None if champion is None else champion.id


def _scored(wanted: ImageFilter, detector_id: str, *columns: Any) -> Select[Any]:
    """Predictions of the detector within the filter, on the one index that also gives the order.

    Without the hint SQLite may choose another one once ANALYZE has run, and sort a million rows. Labelled
    images and those of one round are few, so they are looked up first and sorted.
    """
    predictions, images = schema.predictions, schema.images
    conditions = [
        predictions.c.detector_id == detector_id,
        predictions.c.max.between(wanted.lowest, wanted.highest),
    ]
    if wanted.category is not None:
        conditions.append(predictions.c.category == wanted.category)
    statement = select(*columns).where(*conditions)
    of_image = [images.c.status == "active", *_of_image(wanted, category=False)]
    if not wanted.labelled and wanted.round_id is None:
        index = "ix_predictions_page_all" if wanted.category is None else "ix_predictions_page"
        inside = exists().where(images.c.id == predictions.c.image_id, *of_image)
        return statement.where(inside).with_hint(predictions, f"INDEXED BY {index}", "sqlite")
    return statement.where(predictions.c.image_id.in_(select(images.c.id).where(*of_image)))


def _of_image(wanted: ImageFilter, category: bool = True) -> list[ColumnElement[bool]]:
    images = schema.images.c
    conditions: list[ColumnElement[bool]] = []
    if category and wanted.category is not None:
        conditions.append(images.category == wanted.category)
    for column, value in (
        (images.source, wanted.source),
        (images.split, wanted.split),
        (images.round_id, wanted.round_id),
    ):
        if value is not None:
            conditions.append(column == value)
    if wanted.labelled is not None:
        labelled = images.id.in_(select(schema.labels.c.image_id))
        conditions.append(labelled if wanted.labelled else ~labelled)
    return conditions


def _cards(catalog: Catalog, ids: Sequence[str], detector_id: str | None) -> tuple[ImageCard, ...]:
    images, predictions = schema.images, schema.predictions
    labelled = exists().where(schema.labels.c.image_id == images.c.id)
    names = (
        "id",
        "prompt",
        "category",
        "source",
        "split",
        "height",
        "width",
        "sha256",
        "thumbnail",
        "round_id",
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
    found = {
        row["id"]: ImageCard(**{**row, "labelled": bool(row["labelled"])})
        for row in catalog.connection.execute(statement).mappings()
    }
    return tuple(found[id] for id in ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryCount:
    """A category with the champion's figures over its images."""

    category: str
    images: int
    mean_max: float
    share_with_artifact: float
    """Share of images whose maximum confidence is at least 0.5."""


def categories(catalog: Catalog, detector_id: str | None = None) -> list[CategoryCount]:
    """Categories by the mean of the (champion's) maximum confidence, highest first."""
    predictions = schema.predictions.c
    mean = func.avg(predictions.max)
    statement = (
        select(
            predictions.category,
            func.count().label("images"),
            mean.label("mean_max"),
            func.avg(case((predictions.max >= 0.5, 1.0), else_=0.0)).label("share_with_artifact"),
        )
        .where(
            predictions.detector_id == (detector_id or _champion(catalog)), predictions.category.is_not(None)
        )
        .group_by(predictions.category)
        .order_by(mean.desc(), predictions.category)
    )
    return [CategoryCount(**row) for row in catalog.connection.execute(statement).mappings()]


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """The workspace in figures, for the home page and `clinic status`."""

    images: dict[str, int]
    """By source."""
    splits: dict[str, int]
    labelled: int
    waiting: int
    """Queue items that still need opinions."""
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
    """Counts of everything."""

    def total(name: str) -> int:
        table = schema.metadata.tables[name]
        return catalog.connection.scalar(select(func.count()).select_from(table)) or 0

    def grouped(column: ColumnElement[str]) -> dict[str, int]:
        rows = catalog.connection.execute(select(column, func.count()).group_by(column).order_by(column))
        return {name: count for name, count in rows}

    labelled = select(func.count(func.distinct(schema.labels.c.image_id)))
    return Overview(
        images=grouped(schema.images.c.source),
        splits=grouped(schema.images.c.split),
        labelled=catalog.connection.scalar(labelled) or 0,
        waiting=catalog.queue.remaining(),
        pseudo_labels=total("pseudo_labels"),
        snapshots=total("snapshots"),
        detectors=total("detectors"),
        generators=total("generators"),
        treatments=total("treatments"),
        studies=total("studies"),
        users=catalog.users.count(),
        jobs=grouped(schema.jobs.c.state),
        rounds=grouped(schema.rounds.c.state),
        champion=_champion(catalog),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundProgress:
    """A round and what it has brought so far."""

    round: Round
    images: dict[str, int]
    """By purpose."""
    queued: int
    answered: int
    labels: int
    pseudo_labels: int
    hard_categories: tuple[str, ...]


def round_progress(catalog: Catalog, round_id: str) -> RoundProgress:
    """Where a round stands. Raises `NotFound`."""
    images, labels, pseudo = schema.images.c, schema.labels.c, schema.pseudo_labels.c
    by_purpose = catalog.connection.execute(
        select(images.purpose, func.count())
        .where(images.round_id == round_id)
        .group_by(images.purpose)
        .order_by(images.purpose)
    )
    pairs = select(labels.image_id, labels.author).where(labels.round_id == round_id).distinct().subquery()
    remaining, done = catalog.queue.remaining(round_id), catalog.queue.done(round_id)
    pseudo_count = select(func.count()).select_from(schema.pseudo_labels).where(pseudo.round_id == round_id)
    return RoundProgress(
        round=catalog.rounds.get(round_id),
        images={purpose: count for purpose, count in by_purpose},
        queued=remaining + done,
        answered=done,
        labels=catalog.connection.scalar(select(func.count()).select_from(pairs)) or 0,
        pseudo_labels=catalog.connection.scalar(pseudo_count) or 0,
        hard_categories=tuple(one.category for one in catalog.hard.of_round(round_id) if one.hard),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatorDay:
    """What an annotator sees in the corner of the page."""

    remaining: int
    """Items of that kind that this person may still answer."""
    done_today: int
    leases: tuple[Lease, ...]


def annotator_day(
    catalog: Catalog, annotator: str, now: float, day_start: float, kind: str = "draw"
) -> AnnotatorDay:
    """A person's own queue: what they have not answered, what they did since `day_start`, what they hold."""
    items, answers = schema.queue_items.c, schema.queue_answers.c
    answered = exists().where(
        answers.image_id == items.image_id,
        answers.round_id == items.round_id,
        answers.kind == items.kind,
        answers.author == annotator,
    )
    remaining = (
        select(func.count())
        .select_from(schema.queue_items)
        .where(items.kind == kind, items.done.is_(False), ~answered)
    )
    return AnnotatorDay(
        remaining=catalog.connection.scalar(remaining) or 0,
        done_today=catalog.labels.count(annotator, since=day_start),
        leases=tuple(catalog.queue.held(annotator, now)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyProgress:
    """A study's pairs and who answered how many questions."""

    study_id: str
    pairs: int
    votes: int
    by_rater: dict[str, int]


def study_progress(catalog: Catalog, study_id: str) -> StudyProgress:
    """How far a study is. Raises `NotFound`."""
    votes = schema.votes.c
    rows = catalog.connection.execute(
        select(votes.rater, func.count())
        .where(votes.study_id == study_id)
        .group_by(votes.rater)
        .order_by(votes.rater)
    )
    by_rater = {rater: count for rater, count in rows}
    pairs = len(catalog.studies.get(study_id).pairs)
    return StudyProgress(study_id=study_id, pairs=pairs, votes=sum(by_rater.values()), by_rater=by_rater)


def is_shown(catalog: Catalog, sha256: str) -> bool:
    """Whether a blob is the picture or thumbnail of an image in use, so that a page may serve it."""
    images = schema.images.c
    found = select(images.id).where(
        or_(images.sha256 == sha256, images.thumbnail == sha256), images.status == "active"
    )
    return catalog.connection.scalar(found.limit(1)) is not None
