"""Read models of blind studies: paired images of two ways of drawing, and the progress of raters."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Text, cast, func, select

from dataengine.records import Study, digest
from storage import tables
from storage.catalog import Catalog

SETTINGS = "~"
"""Separates a side's generator from the digest of its images' settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way of drawing: a generator's images with the same settings."""

    generator: str
    settings: dict[str, object]
    images: int

    @property
    def side(self) -> str:
        """What names this way as a side of a study."""
        return f"{self.generator}{SETTINGS}{digest_of_settings(self.settings)}"


def digest_of_settings(settings: dict[str, object]) -> str:
    """A short digest of an image's settings, the same for every order of their names."""
    return digest(json.dumps(settings, sort_keys=True))[:12]


def ways_of_drawing(catalog: Catalog, generators: Collection[str] = ()) -> list[Way]:
    """The ways in which usable images with a seed were drawn, by generator, the most used first; only of
    these generators if any."""
    images = tables.images.c
    settings = cast(images.settings, Text)
    statement = (
        select(images.generator_id, settings, func.count())
        .where(images.status == "active", images.generator_id.is_not(None), images.seed.is_not(None))
        .group_by(images.generator_id, settings)
    )
    if generators:
        statement = statement.where(images.generator_id.in_(list(generators)))
    found: dict[str, Way] = {}
    for generator, text, count in catalog.connection.execute(statement):
        way = Way(generator=generator, settings=json.loads(text), images=count)
        known = found[way.side].images if way.side in found else 0
        found[way.side] = Way(generator=generator, settings=way.settings, images=known + count)
    return sorted(found.values(), key=lambda way: (way.generator, -way.images, way.side))


def flagged_by(catalog: Catalog, detector_id: str, threshold: float) -> set[str]:
    """The images in which the detector's highest confidence reaches the threshold."""
    predictions = tables.predictions.c
    flagged = predictions.detector_id == detector_id, predictions.max >= threshold
    return set(catalog.connection.scalars(select(predictions.image_id).where(*flagged)))


def _of_side(catalog: Catalog, images: FromClause, side: str) -> list[ColumnElement[bool]]:
    """The usable images of a side: a generator's, or those of one of its ways of drawing."""
    generator, _, settings = side.partition(SETTINGS)
    conditions = [images.c.generator_id == generator, images.c.status == "active"]
    if not settings:
        return conditions
    stored = cast(images.c.settings, Text)
    texts = select(cast(tables.images.c.settings, Text)).where(tables.images.c.generator_id == generator)
    same = [
        text
        for text in catalog.connection.scalars(texts.distinct())
        if digest_of_settings(json.loads(text)) == settings
    ]
    return [*conditions, stored.in_(same)]


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedPair:
    """One prompt and seed with both sides' images of one size; `before` and `after` are image ids."""

    before: str
    after: str
    prompt: str
    seed: int
    category: str | None
    purpose: str


def shared_pairs(
    catalog: Catalog,
    before_side: str,
    after_side: str,
    purpose: str | None = None,
    categories: Collection[str] = (),
    round_id: str | None = None,
) -> list[SharedPair]:
    """Every prompt and seed for which both sides have a usable image of one size, in a fixed order.

    A side is a generator's id, or a `Way.side`. If a side has several such images, the one with the lowest
    id is used. An image without a category gets its prompt's.
    """
    before, after = tables.images.alias("before"), tables.images.alias("after")
    statement = (
        select(
            func.min(before.c.id).label("before"),
            func.min(after.c.id).label("after"),
            before.c.prompt,
            before.c.seed,
            func.min(before.c.category).label("category"),
            func.min(before.c.purpose).label("purpose"),
        )
        .join(
            after,
            (after.c.prompt == before.c.prompt)
            & (after.c.seed == before.c.seed)
            & (after.c.height == before.c.height)
            & (after.c.width == before.c.width),
        )
        .where(*_of_side(catalog, before, before_side), *_of_side(catalog, after, after_side))
        .where(before.c.id != after.c.id)
        .group_by(before.c.prompt, before.c.seed, before.c.height, before.c.width)
        .order_by(before.c.prompt, before.c.seed, before.c.height, before.c.width)
    )
    if purpose is not None:
        statement = statement.where(before.c.purpose == purpose)
    if round_id is not None:
        statement = statement.where(before.c.round_id == round_id)
    meant = prompt_categories(catalog)
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for row in catalog.connection.execute(statement).mappings():
        rows.setdefault((row["prompt"], row["seed"]), dict(row))
    pairs = [
        SharedPair(**row | {"category": row["category"] or meant.get(row["prompt"])}) for row in rows.values()
    ]
    return [one for one in pairs if not categories or one.category in categories]


def prompt_categories(catalog: Catalog) -> dict[str, str]:
    """The categories of prompts, by their text."""
    prompts = tables.prompts.c
    known = select(prompts.text, prompts.category).where(prompts.category.is_not(None)).distinct()
    return {text: category for text, category in catalog.connection.execute(known)}


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyProgress:
    """The progress of a study; attention checks are not counted."""

    study_id: str
    pairs: int
    votes: int
    raters: int
    by_pair: dict[int, int]
    """Number of raters of each pair that count; pairs without any are not listed."""


def study_progress(catalog: Catalog, study: Study, left_out: Collection[str] = ()) -> StudyProgress:
    """Count the raters and answers so far. Raters who are `left_out` hold no place in `by_pair`."""
    votes = tables.votes.c
    pairs = len(study.pairs)
    votes_on_pairs = votes.study_id == study.id, votes.pair < pairs
    answered = (
        select(votes.pair, func.count(func.distinct(votes.rater)))
        .where(*votes_on_pairs, votes.rater.not_in(list(left_out)))
        .group_by(votes.pair)
    )
    totals = catalog.connection.execute(
        select(func.count(), func.count(func.distinct(votes.rater))).where(*votes_on_pairs)
    ).one()
    return StudyProgress(
        study_id=study.id,
        pairs=pairs,
        votes=totals[0],
        raters=totals[1],
        by_pair={pair: raters for pair, raters in catalog.connection.execute(answered)},
    )


def pairs_answered(catalog: Catalog, study_id: str, rater: str) -> set[int]:
    """The pairs and attention checks that a rater has answered."""
    votes = tables.votes.c
    answered = select(votes.pair).where(votes.study_id == study_id, votes.rater == rater).distinct()
    return set(catalog.connection.scalars(answered))
