"""Read models of categories."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Integer, and_, cast, exists, func, select

from dataengine.records import INJECTED
from storage import tables
from storage.catalog import Catalog
from storage.queries.images import collected, newest_revision, newest_verdict

BINS = 1000
"""Number of confidence steps of a histogram."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """Images of one category by their maximum confidence, in steps of 1/1000 (the last one holds 1)."""

    counts: dict[int, int]
    mean: float

    def share(self, threshold: float) -> float:
        """Share of the images at or above a threshold."""
        above = sum(count for step, count in self.counts.items() if step >= step_of(threshold))
        return above / max(1, sum(self.counts.values()))

    def quantile(self, share: float) -> float:
        """Quantile: the confidence that this share of the images does not exceed, to 1/1000."""
        target, seen = share * sum(self.counts.values()), 0
        for step in sorted(self.counts):
            seen += self.counts[step]
            if seen >= target:
                return step / BINS
        return 0.0


def step_of(confidence: float) -> int:
    """The histogram step of a threshold."""
    return int(confidence * BINS + 1e-9)


def histograms(
    catalog: Catalog, detector_id: str | None, only: Sequence[ColumnElement[bool]] = ()
) -> dict[str, Histogram]:
    """Confidence by category over the images with a prediction of the detector, restricted by `only`; never
    of injected artifacts."""
    predictions, images = tables.predictions.c, tables.images.c
    step = _step(catalog)
    statement = (
        select(predictions.category, step.label("step"), func.count(), func.sum(predictions.max))
        .where(predictions.detector_id == detector_id, predictions.category.is_not(None))
        .group_by(predictions.category, step)
    )
    if catalog.images.ids(source=INJECTED, limit=1):
        injected = select(images.id).where(images.source == INJECTED)
        statement = statement.where(predictions.image_id.not_in(injected))
    if only:
        inside = exists().where(images.id == predictions.image_id, images.status == "active", *only)
        statement = statement.where(inside)
    counts: dict[str, dict[int, int]] = {}
    sums: dict[str, float] = {}
    for category, at, count, total in catalog.connection.execute(statement):
        counts.setdefault(category, {})[int(at)] = count
        sums[category] = sums.get(category, 0.0) + total
    return {
        category: Histogram(counts=category_counts, mean=sums[category] / sum(category_counts.values()))
        for category, category_counts in counts.items()
    }


def _step(catalog: Catalog) -> ColumnElement[int]:
    scaled = tables.predictions.c.max * BINS
    # SQLite's cast truncates, PostgreSQL's rounds.
    return cast(scaled if catalog.connection.dialect.name == "sqlite" else func.floor(scaled), Integer)


def not_queued() -> list[ColumnElement[bool]]:
    """Conditions on `images`: not labelled, not queued, without an injected artifact, and in no benchmark."""
    images, items = tables.images.c, tables.queue_items.c
    return [
        images.split != "benchmark",
        collected(),
        ~exists().where(tables.labels.c.image_id == images.id),
        ~exists().where(items.image_id == images.id),
    ]


def queueable(
    catalog: Catalog, detector_id: str | None, thresholds: dict[str, float], limit: int
) -> list[tuple[str, float]]:
    """Images of these categories that can be queued, at or above their thresholds, highest confidence
    first."""
    predictions, images = tables.predictions.c, tables.images.c
    step, image_scores = _step(catalog), []
    for category, threshold in sorted(thresholds.items()):
        inside = exists().where(images.id == predictions.image_id, images.status == "active", *not_queued())
        statement = (
            select(predictions.image_id, predictions.max)
            .where(predictions.detector_id == detector_id, predictions.category == category)
            .where(step >= step_of(threshold), inside)
            .order_by(predictions.max.desc(), predictions.image_id)
            .limit(limit)
        )
        image_scores += [(row.image_id, row.max) for row in catalog.connection.execute(statement)]
    return sorted(image_scores, key=lambda one: (-one[1], one[0]))[:limit]


def reviewed_shares(catalog: Catalog) -> dict[str, tuple[int, int]]:
    """(flawed, clean) images by category among those with an approved label."""
    reviews, labels, images = tables.reviews.c, tables.labels.c, tables.images.c
    same = and_(
        reviews.image_id == labels.image_id,
        reviews.author == labels.author,
        reviews.revision == labels.revision,
    )
    statement = (
        select(images.category, labels.clean, func.count(images.id.distinct()))
        .select_from(tables.labels.join(tables.images, images.id == labels.image_id))
        .where(exists().where(same, newest_verdict(reviews), reviews.verdict == "accepted"))
        .where(newest_revision(labels), images.category.is_not(None), collected())
        .group_by(images.category, labels.clean)
    )
    reviewed: dict[str, list[int]] = {}
    for category, clean, count in catalog.connection.execute(statement):
        reviewed.setdefault(category, [0, 0])[int(bool(clean))] += count
    return {category: (flawed, clean) for category, (flawed, clean) in reviewed.items()}
