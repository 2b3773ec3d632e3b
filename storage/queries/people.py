"""What people did, for the admin's list of accounts."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, select

from storage import tables
from storage.catalog import Catalog


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkDone:
    """Counts of one person's work."""

    labels: int = 0
    """Labels that they submitted, each revision counted."""
    reviews: int = 0
    votes: int = 0
    """Answers in blind studies."""


def work_by_person(catalog: Catalog) -> dict[str, WorkDone]:
    """The work of everybody who did any, by name."""

    def counted(person: ColumnElement[Any]) -> dict[str, int]:
        rows = catalog.connection.execute(select(person, func.count()).group_by(person))
        return {name: count for name, count in rows}

    labels = counted(tables.labels.c.author)
    reviews, votes = counted(tables.reviews.c.reviewer), counted(tables.votes.c.rater)
    return {
        name: WorkDone(labels=labels.get(name, 0), reviews=reviews.get(name, 0), votes=votes.get(name, 0))
        for name in labels.keys() | reviews.keys() | votes.keys()
    }
