"""What people did, for the admin's list of accounts."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, select

from storage import tables
from storage.catalog import Catalog


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkDone:
    """Counts of one person's work."""

    labelled: int = 0
    """Images that carry a label of theirs."""
    reviews: int = 0
    votes: int = 0
    """Answers in blind studies."""


def work_by_person(catalog: Catalog) -> dict[str, WorkDone]:
    """The work of everybody who did any, by name."""

    def counted(person: ColumnElement[Any], of: ColumnElement[Any]) -> dict[str, int]:
        rows = catalog.connection.execute(select(person, func.count(of)).group_by(person))
        return {name: count for name, count in rows}

    labels, reviews, votes = tables.labels.c, tables.reviews.c, tables.votes.c
    images = select(labels.author, labels.image_id).distinct().subquery().c
    labelled = counted(images.author, images.image_id)
    judged, voted = counted(reviews.reviewer, reviews.image_id), counted(votes.rater, votes.study_id)
    return {
        name: WorkDone(labelled=labelled.get(name, 0), reviews=judged.get(name, 0), votes=voted.get(name, 0))
        for name in labelled.keys() | judged.keys() | voted.keys()
    }
