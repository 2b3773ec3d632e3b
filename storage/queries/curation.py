"""What the curation desk shows beside pages: categories, reviews, which labels count, balance, opinions."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Integer, Select, and_, cast, exists, func, select, tuple_

from dataengine.records import Label
from storage import schema
from storage.catalog import Catalog
from storage.queries.images import champion_id, newest_revision, newest_verdict
from storage.repositories.rows import chunks

BINS = 1000
"""Steps of confidence in a histogram."""

Policy = Literal["unreturned", "approved"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryCount:
    """A category with a detector's figures over its images."""

    category: str
    images: int
    mean_max: float
    share_with_artifact: float
    """Share of images whose maximum confidence is at least 0.5."""


def categories(catalog: Catalog, detector_id: str | None = None) -> list[CategoryCount]:
    """Categories by the mean of the (champion's) maximum confidence, highest first."""
    found = histograms(catalog, detector_id or champion_id(catalog))
    counts = [
        CategoryCount(
            category=category,
            images=sum(one.counts.values()),
            mean_max=one.mean,
            share_with_artifact=one.share(0.5),
        )
        for category, one in found.items()
    ]
    return sorted(counts, key=lambda one: (-one.mean_max, one.category))


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """Images of one category by their maximum confidence, in steps of 1/1000 (the last one holds 1)."""

    counts: dict[int, int]
    mean: float

    def share(self, threshold: float) -> float:
        """Share of the images at or above it."""
        above = sum(count for step, count in self.counts.items() if step >= step_of(threshold))
        return above / max(1, sum(self.counts.values()))

    def quantile(self, share: float) -> float:
        """The confidence that this share of the images does not exceed, to 1/1000."""
        wanted, seen = share * sum(self.counts.values()), 0
        for step in sorted(self.counts):
            seen += self.counts[step]
            if seen >= wanted:
                return step / BINS
        return 0.0


def step_of(confidence: float) -> int:
    """The step of a histogram that a threshold stands for."""
    return int(confidence * BINS + 1e-9)


def histograms(
    catalog: Catalog, detector_id: str | None, only: Sequence[ColumnElement[bool]] = ()
) -> dict[str, Histogram]:
    """Confidence by category over images with a prediction of the detector, or `only` some of them."""
    predictions, images = schema.predictions.c, schema.images.c
    step = _step(catalog)
    statement = (
        select(predictions.category, step.label("step"), func.count(), func.sum(predictions.max))
        .where(predictions.detector_id == detector_id, predictions.category.is_not(None))
        .group_by(predictions.category, step)
    )
    if only:
        inside = exists().where(images.id == predictions.image_id, images.status == "active", *only)
        statement = statement.where(inside)
    counts: dict[str, dict[int, int]] = {}
    sums: dict[str, float] = {}
    for category, at, count, total in catalog.connection.execute(statement):
        counts.setdefault(category, {})[int(at)] = count
        sums[category] = sums.get(category, 0.0) + total
    return {
        category: Histogram(counts=found, mean=sums[category] / sum(found.values()))
        for category, found in counts.items()
    }


def _step(catalog: Catalog) -> ColumnElement[int]:
    scaled = schema.predictions.c.max * BINS
    # SQLite's cast cuts off, PostgreSQL's rounds.
    return cast(scaled if catalog.connection.dialect.name == "sqlite" else func.floor(scaled), Integer)


def askable() -> list[ColumnElement[bool]]:
    """Conditions on `images`: nobody labelled it, it waits for nobody, and no benchmark holds it."""
    images, items = schema.images.c, schema.queue_items.c
    return [
        images.split != "benchmark",
        ~exists().where(schema.labels.c.image_id == images.id),
        ~exists().where(items.image_id == images.id),
    ]


def to_ask(
    catalog: Catalog, detector_id: str | None, thresholds: dict[str, float], limit: int
) -> list[tuple[str, float]]:
    """Askable images of these categories at or above their thresholds, the highest confidence first."""
    predictions, images = schema.predictions.c, schema.images.c
    step, found = _step(catalog), []
    for category, threshold in sorted(thresholds.items()):
        inside = exists().where(images.id == predictions.image_id, images.status == "active", *askable())
        statement = (
            select(predictions.image_id, predictions.max)
            .where(predictions.detector_id == detector_id, predictions.category == category)
            .where(step >= step_of(threshold), inside)
            .order_by(predictions.max.desc(), predictions.image_id)
            .limit(limit)
        )
        found += [(row.image_id, row.max) for row in catalog.connection.execute(statement)]
    return sorted(found, key=lambda one: (-one[1], one[0]))[:limit]


# ---- which labels count ------------------------------------------------------------------------------


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


# ---- reviews -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewRow:
    """A person's newest revision as the review lists it; without a review its last three fields are None."""

    image_id: str
    author: str
    revision: int
    created: float
    clean: bool
    lead_seconds: float
    source: str
    height: int
    width: int
    category: str | None
    prompt: str
    verdict: str | None
    reviewer: str | None
    note: str | None


ReviewCursor = tuple[float, str, str]


def page_of_reviews(
    catalog: Catalog,
    state: str = "unreviewed",
    author: str | None = None,
    category: str | None = None,
    round_id: str | None = None,
    after: ReviewCursor | None = None,
    limit: int = 48,
) -> tuple[list[ReviewRow], ReviewCursor | None]:
    """Labels that are unreviewed, approved, returned or any, oldest first, and where the next page starts."""
    labels = schema.labels.c
    key = labels.created, labels.image_id, labels.author
    statement = _reviewed(state).order_by(*key).limit(limit + 1)
    for column, value in (
        (labels.author, author),
        (schema.images.c.category, category),
        (labels.round_id, round_id),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if after is not None:
        statement = statement.where(tuple_(*key) > after)
    rows = [ReviewRow(**row) for row in catalog.connection.execute(statement).mappings()]
    shown = rows[:limit]
    last = (shown[-1].created, shown[-1].image_id, shown[-1].author) if len(rows) > limit else None
    return shown, last


def review_counts(catalog: Catalog) -> dict[str, int]:
    """How many labels are unreviewed, approved and returned."""
    return {
        state: catalog.connection.scalar(select(func.count()).select_from(_reviewed(state).subquery())) or 0
        for state in ("unreviewed", "approved", "returned")
    }


def _reviewed(state: str) -> Select[Any]:
    labels, reviews, images = schema.labels, schema.reviews, schema.images.c
    same = and_(
        reviews.c.image_id == labels.c.image_id,
        reviews.c.author == labels.c.author,
        reviews.c.revision == labels.c.revision,
        newest_verdict(reviews.c),
    )
    columns: list[Any] = [
        *(labels.c[name] for name in ("image_id", "author", "revision", "created", "clean", "lead_seconds")),
        *(labels.c[name] for name in ("source", "height", "width")),
        images.category,
        images.prompt,
        reviews.c.verdict,
        reviews.c.reviewer,
        reviews.c.note,
    ]
    joined = labels.join(schema.images, images.id == labels.c.image_id).outerjoin(reviews, same)
    statement = select(*columns).select_from(joined).where(newest_revision(labels.c))
    if state == "unreviewed":
        return statement.where(reviews.c.verdict.is_(None))
    wanted = {"approved": ("accepted", "corrected"), "returned": ("rejected",)}.get(state)
    return statement if wanted is None else statement.where(reviews.c.verdict.in_(wanted))


def reviewed_shares(catalog: Catalog) -> dict[str, tuple[int, int]]:
    """(flawed, clean) images by category among those with an approved label."""
    reviews, labels, images = schema.reviews.c, schema.labels.c, schema.images.c
    same = and_(
        reviews.image_id == labels.image_id,
        reviews.author == labels.author,
        reviews.revision == labels.revision,
    )
    statement = (
        select(images.category, labels.clean, func.count(images.id.distinct()))
        .select_from(schema.labels.join(schema.images, images.id == labels.image_id))
        .where(exists().where(same, newest_verdict(reviews), reviews.verdict == "accepted"))
        .where(newest_revision(labels), images.category.is_not(None))
        .group_by(images.category, labels.clean)
    )
    found: dict[str, list[int]] = {}
    for category, clean, count in catalog.connection.execute(statement):
        found.setdefault(category, [0, 0])[int(bool(clean))] += count
    return {category: (flawed, clean) for category, (flawed, clean) in found.items()}


# ---- several opinions, balance -----------------------------------------------------------------------


def with_several_opinions(catalog: Catalog, conditions: Sequence[ColumnElement[bool]] = ()) -> list[str]:
    """Ids of images that two or more people labelled."""
    labels, images = schema.labels.c, schema.images.c
    statement = (
        select(labels.image_id).group_by(labels.image_id).having(func.count(labels.author.distinct()) > 1)
    )
    if conditions:
        inside = select(images.id).where(*conditions)
        statement = statement.where(labels.image_id.in_(inside))
    return list(catalog.connection.scalars(statement.order_by(labels.image_id)))


def examples_of_snapshot(catalog: Catalog, snapshot_id: str) -> list[tuple[str, bool, int]]:
    """(category, is flawed, rows) of a snapshot; a pseudo-label is flawed from confidence 0.5."""
    items = schema.snapshot_items.c
    flawed = items.target.is_not(None) & ((items.kind != "pseudo") | (items.max_confidence >= 0.5))
    statement = (
        select(items.category, flawed.label("flawed"), func.count())
        .where(items.snapshot_id == snapshot_id)
        .group_by(items.category, "flawed")
    )
    rows = catalog.connection.execute(statement)
    return [(category or "", bool(sign), count) for category, sign, count in rows]


def pseudo_examples(catalog: Catalog, round_id: str | None, taken: Collection[str]) -> list[tuple[str, bool]]:
    """(category, is flawed) of a round's pseudo-labels on training images that are not `taken` already."""
    pseudo, images = schema.pseudo_labels.c, schema.images.c
    statement = (
        select(images.id, func.coalesce(images.category, ""), pseudo.max)
        .join(schema.images, images.id == pseudo.image_id)
        .where(pseudo.round_id == round_id, images.split == "train", images.status == "active")
    )
    rows = catalog.connection.execute(statement)
    return [(category, highest >= 0.5) for id, category, highest in rows if id not in taken]


def unlabelled_real(catalog: Catalog, split: str = "train") -> list[tuple[str, str]]:
    """(image id, category) of real pictures that nobody labelled."""
    images = schema.images.c
    labelled = exists().where(schema.labels.c.image_id == images.id)
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
    images, predictions, items = schema.images.c, schema.predictions, schema.snapshot_items.c
    groups = schema.images.alias("trained")
    trained = select(groups.c.group).where(groups.c.id.in_(select(items.image_id)), groups.c.group != "")
    reserved = images.split == "benchmark"
    fresh = and_(
        images.split == "train",
        ~exists().where(schema.labels.c.image_id == images.id),
        ~exists().where(schema.queue_items.c.image_id == images.id),
    )
    statement = (
        select(images.id, func.coalesce(images.category, ""), predictions.c.max, reserved.label("reserved"))
        .outerjoin(
            predictions, and_(predictions.c.image_id == images.id, predictions.c.detector_id == detector_id)
        )
        .where(images.status == "active", (images.source == "real") == real, reserved | fresh)
        .where(~images.id.in_(select(items.image_id)), ~images.group.in_(trained))
        .where(~images.id.in_(select(schema.benchmark_items.c.image_id)))
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

    images = schema.images.c
    return Choices(
        categories=distinct(images.category),
        generators=distinct(images.generator_id),
        rounds=distinct(images.round_id),
        people=distinct(schema.labels.c.author),
    )


def labels_of(catalog: Catalog, image_ids: Iterable[str]) -> dict[str, list[Label]]:
    """Every person's newest revision, by image."""
    found: dict[str, list[Label]] = {}
    for chunk in chunks(image_ids):
        for label in catalog.labels.of_images(chunk):
            found.setdefault(label.image_id, []).append(label)
    return found
