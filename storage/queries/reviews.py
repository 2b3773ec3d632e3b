"""Read models of reviews."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, func, select, tuple_

from dataengine.records import INJECTED
from storage import tables
from storage.catalog import Catalog
from storage.queries.images import newest_revision, newest_verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewRow:
    """A person's newest revision in the review list; its last three fields are None without a review."""

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


PEOPLE = ("person", "import")
"""Sources of labels that people drew; the others are exact by construction, or simulated."""
ReviewCursor = tuple[float, str, str]


def page_of_reviews(
    catalog: Catalog,
    state: str = "unreviewed",
    author: str | None = None,
    category: str | None = None,
    round_id: str | None = None,
    after: ReviewCursor | None = None,
    limit: int = 48,
    people: bool = False,
) -> tuple[list[ReviewRow], ReviewCursor | None]:
    """Labels that are unreviewed, approved, returned or any, oldest first, and the cursor of the next page;
    with `people` only those that people drew."""
    labels = tables.labels.c
    key = labels.created, labels.image_id, labels.author
    statement = _within(_reviewed(state), author, category, round_id, people)
    statement = statement.order_by(*key).limit(limit + 1)
    if after is not None:
        statement = statement.where(tuple_(*key) > after)
    rows = [ReviewRow(**row) for row in catalog.connection.execute(statement).mappings()]
    shown = rows[:limit]
    last = (shown[-1].created, shown[-1].image_id, shown[-1].author) if len(rows) > limit else None
    return shown, last


def review_counts(
    catalog: Catalog,
    author: str | None = None,
    category: str | None = None,
    round_id: str | None = None,
    people: bool = False,
) -> dict[str, int]:
    """Number of unreviewed, approved and returned labels within the filter."""
    return {
        state: catalog.connection.scalar(
            select(func.count()).select_from(
                _within(_reviewed(state), author, category, round_id, people).subquery()
            )
        )
        or 0
        for state in ("unreviewed", "approved", "returned")
    }


def newest_labelled_round(catalog: Catalog) -> str | None:
    """The round of the queue to which people's newest label belongs; None without one."""
    labels = tables.labels.c
    theirs = labels.source.in_(PEOPLE), labels.round_id.is_not(None)
    statement = select(labels.round_id).where(*theirs).order_by(labels.created.desc()).limit(1)
    return catalog.connection.scalar(statement)


def _within(
    statement: Select[Any], author: str | None, category: str | None, round_id: str | None, people: bool
) -> Select[Any]:
    labels = tables.labels.c
    for column, value in (
        (labels.author, author),
        (tables.images.c.category, category),
        (labels.round_id, round_id),
    ):
        if value is not None:
            statement = statement.where(column == value)
    return statement.where(labels.source.in_(PEOPLE)) if people else statement


def _reviewed(state: str) -> Select[Any]:
    labels, reviews, images = tables.labels, tables.reviews, tables.images.c
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
    joined = labels.join(tables.images, images.id == labels.c.image_id).outerjoin(reviews, same)
    statement = (
        select(*columns).select_from(joined).where(newest_revision(labels.c), labels.c.source != INJECTED)
    )
    if state == "unreviewed":
        return statement.where(reviews.c.verdict.is_(None))
    verdicts = {"approved": ("accepted", "corrected"), "returned": ("rejected",)}.get(state)
    return statement if verdicts is None else statement.where(reviews.c.verdict.in_(verdicts))
