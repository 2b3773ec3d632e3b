"""Blind studies: what two generators drew of the same prompt and seed, and how far the judging is."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import func, select

from dataengine.records import Study
from storage import tables
from storage.catalog import Catalog


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedPair:
    """One prompt and seed as both generators drew it, at one size; `before` and `after` are image ids."""

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
    """Every prompt and seed of which both generators have a usable picture of one size, in a fixed order.

    Where a generator drew one twice, the picture with the lowest id stands for it. A picture without a
    category has its prompt's.
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
    found = [SharedPair(**row | {"category": row["category"] or meant.get(row["prompt"])}) for row in rows]
    return [one for one in found if not categories or one.category in categories]


def prompt_categories(catalog: Catalog) -> dict[str, str]:
    """What prompts were written for, by their text."""
    prompts = tables.prompts.c
    known = select(prompts.text, prompts.category).where(prompts.category.is_not(None)).distinct()
    return {text: category for text, category in catalog.connection.execute(known)}


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyProgress:
    """How far a study is; attention checks are in neither figure."""

    study_id: str
    pairs: int
    votes: int
    raters: int
    by_pair: dict[int, int]
    """Raters who answered each pair; pairs without any are not listed."""


def study_progress(catalog: Catalog, study: Study) -> StudyProgress:
    """Raters and answers so far."""
    votes = tables.votes.c
    pairs = len(study.pairs)
    mine = votes.study_id == study.id, votes.pair < pairs
    answered = select(votes.pair, func.count(func.distinct(votes.rater))).where(*mine).group_by(votes.pair)
    totals = catalog.connection.execute(
        select(func.count(), func.count(func.distinct(votes.rater))).where(*mine)
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
    mine = select(votes.pair).where(votes.study_id == study_id, votes.rater == rater).distinct()
    return set(catalog.connection.scalars(mine))
