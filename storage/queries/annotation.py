"""Read models of annotation."""

from dataclasses import dataclass

from sqlalchemy import exists, func, select

from dataengine.records import Lease
from storage import tables
from storage.catalog import Catalog
from storage.repositories.queue import open_to


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
