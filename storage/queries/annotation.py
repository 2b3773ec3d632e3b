"""Read models of annotation."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, exists, func, select, tuple_

from dataengine.records import Lease
from storage import tables
from storage.catalog import Catalog
from storage.queries.images import newest_revision, newest_verdict
from storage.repositories.labels import numbers_of
from storage.repositories.queue import open_to

STATES = {None: "unreviewed", "rejected": "returned", "accepted": "approved", "corrected": "approved"}
"""What each verdict on a label makes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatorDay:
    """An annotator's progress of the day, shown on the page."""

    remaining: int
    """Number of items of that kind that this person may still annotate."""
    done_today: int
    leases: tuple[Lease, ...]


def annotator_day(
    catalog: Catalog, annotator: str, now: float, day_start: float, kind: str = "draw"
) -> AnnotatorDay:
    """A person's queue: remaining items, labels since `day_start`, and current leases."""
    items, answers = tables.queue_items.c, tables.queue_answers.c
    answered = exists().where(
        answers.image_id == items.image_id,
        answers.round_id == items.round_id,
        answers.kind == items.kind,
        answers.author == annotator,
    )
    remaining = (
        select(func.count())
        .select_from(tables.queue_items)
        .where(items.kind == kind, items.done.is_(False), ~answered, open_to(annotator))
    )
    return AnnotatorDay(
        remaining=catalog.connection.scalar(remaining) or 0,
        done_today=catalog.labels.count(annotator, since=day_start),
        leases=tuple(catalog.queue.held(annotator, now)),
    )


def page_of_own_answers(
    catalog: Catalog,
    author: str,
    text: str = "",
    shows: int | None = None,
    state: str = "any",
    after: str | None = None,
    limit: int = 48,
) -> tuple[list[dict[str, Any]], bool]:
    """A person's newest answer of each image, newest first, and whether more follow.

    Only answers whose prompt contains `text` in any case, that show class `shows` (0: clean images), and of
    that state; `after` is the image of the last answer of the page before.
    """
    labels, reviews, images, facts = tables.labels, tables.reviews, tables.images, tables.label_map_facts
    same = and_(
        reviews.c.image_id == labels.c.image_id,
        reviews.c.author == labels.c.author,
        reviews.c.revision == labels.c.revision,
        newest_verdict(reviews.c),
    )
    key = labels.c.created, labels.c.image_id
    statement = (
        select(
            *(labels.c[name] for name in ("image_id", "created", "lead_seconds", "clean")),
            *(images.c.prompt, images.c.category, reviews.c.verdict, reviews.c.note, facts.c.classes),
        )
        .select_from(
            labels.join(images, images.c.id == labels.c.image_id)
            .outerjoin(reviews, same)
            .outerjoin(facts, facts.c.sha256 == labels.c.label_map)
        )
        .where(labels.c.author == author, newest_revision(labels.c))
        .order_by(*(column.desc() for column in key))
        .limit(limit + 1)
    )
    if text:
        # SQLite lowers ASCII letters only, so the text as it is counts as well.
        prompt, lowered = images.c.prompt, func.lower(images.c.prompt)
        as_typed = prompt.contains(text, autoescape=True)
        statement = statement.where(as_typed | lowered.contains(text.lower(), autoescape=True))
    if shows is not None:
        drawn = facts.c.classes.bitwise_and(1 << max(0, shows - 1)) != 0
        statement = statement.where(drawn if shows else labels.c.clean)
    if state == "unreviewed":
        statement = statement.where(reviews.c.verdict.is_(None))
    elif state != "any":
        verdicts = [verdict for verdict, named in STATES.items() if named == state]
        statement = statement.where(reviews.c.verdict.in_(verdicts))
    if after is not None:
        last = select(*key).where(labels.c.author == author, labels.c.image_id == after)
        last = last.order_by(labels.c.created.desc()).limit(1)
        place = catalog.connection.execute(last).first()
        if place is not None:
            statement = statement.where(tuple_(*key) < tuple(place))
    rows = catalog.connection.execute(statement).all()
    return [_own_answer(row) for row in rows[:limit]], len(rows) > limit


def _own_answer(row: Any) -> dict[str, Any]:
    return {
        "image": row.image_id,
        "prompt": row.prompt,
        "category": row.category,
        "created": row.created,
        "seconds": row.lead_seconds,
        "classes": list(numbers_of(row.classes or 0)),
        "state": STATES[row.verdict],
        "note": row.note or "",
        "editable": STATES[row.verdict] != "approved",
    }
