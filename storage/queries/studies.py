"""Read models of blind studies: paired images of two generators, and the progress of raters."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import func, select

from dataengine.records import Study
from storage import tables
from storage.catalog import Catalog


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedPair:
    """One prompt and seed with both generators' images of one size; `before` and `after` are image ids."""

    before: str
    after: str
    prompt: str
    seed: int
    category: str | None
    purpose: str


def shared_pairs(
    catalog: Catalog,
    before_id: str,
    after_id: str,
    purpose: str | None = None,
    categories: Collection[str] = (),
    round_id: str | None = None,
) -> list[SharedPair]:
    """Every prompt and seed for which both generators have a usable image of one size, in a fixed order.

    If a generator has several, the image with the lowest id is used. An image without a category gets its
    prompt's.
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
        .where(
            before.c.generator_id == before_id,
            after.c.generator_id == after_id,
            before.c.status == "active",
            after.c.status == "active",
        )
        .group_by(before.c.prompt, before.c.seed)
        .order_by(before.c.prompt, before.c.seed)
    )
    if purpose is not None:
        statement = statement.where(before.c.purpose == purpose)
    if round_id is not None:
        statement = statement.where(before.c.round_id == round_id)
    meant = prompt_categories(catalog)
    rows = [dict(row) for row in catalog.connection.execute(statement).mappings()]
    pairs = [SharedPair(**row | {"category": row["category"] or meant.get(row["prompt"])}) for row in rows]
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
