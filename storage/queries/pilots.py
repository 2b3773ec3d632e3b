"""Read models of pilots: what belongs to one round of the queue."""

from dataclasses import dataclass

from sqlalchemy import func, select

from dataengine.records import Label
from storage import tables
from storage.catalog import Catalog


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """A person's answers in one round of the queue."""

    person: str
    answered: int
    skipped: int


def answers_by_person(catalog: Catalog, round_id: str) -> list[Answers]:
    """The answers to the round's items, by person."""
    answers = tables.queue_answers.c
    statement = (
        select(answers.author, answers.skipped, func.count(answers.image_id.distinct()))
        .where(answers.round_id == round_id)
        .group_by(answers.author, answers.skipped)
        .order_by(answers.author)
    )
    counts: dict[str, dict[bool, int]] = {}
    for author, skipped, count in catalog.connection.execute(statement):
        counts.setdefault(author, {})[bool(skipped)] = int(count)
    return [
        Answers(person=person, answered=one.get(False, 0), skipped=one.get(True, 0))
        for person, one in counts.items()
    ]


def images_of_round(catalog: Catalog, round_id: str) -> list[str]:
    """The ids of the images that the round queued to be drawn on."""
    items = tables.queue_items.c
    queued = items.round_id == round_id, items.kind == "draw"
    return list(catalog.connection.scalars(select(items.image_id).where(*queued).order_by(items.image_id)))


def labels_of_round(catalog: Catalog, round_id: str) -> list[Label]:
    """Each person's first label of each of the round's images: later revisions cost time of their own."""
    labels = tables.labels.c
    keys = select(labels.image_id, labels.author).where(labels.round_id == round_id).distinct()
    found = []
    for image_id, author in catalog.connection.execute(keys.order_by(labels.image_id, labels.author)):
        own = [one for one in catalog.labels.history(image_id) if one.author == author]
        found.append(min((one for one in own if one.round_id == round_id), key=lambda one: one.revision))
    return found
