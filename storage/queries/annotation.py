"""Read models of annotation."""

from dataclasses import dataclass

from sqlalchemy import exists, func, select

from dataengine.records import Lease
from storage import tables
from storage.catalog import Catalog
from storage.repositories.queue import open_to


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
