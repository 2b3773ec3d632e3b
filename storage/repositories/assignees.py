"""Whom queue items are assigned to, and images that one person opened for editing."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, delete, select, update

from dataengine.records import Lease, QueueItem, now
from storage import tables
from storage.repositories.queue import Queue
from storage.repositories.rows import chunks, insert_new

EDIT_PRIORITY = 20.0
"""Priority of an image that a curator opened for editing: before everything else."""
EDIT_SECONDS = 900.0
"""Seconds of its lease until the page is open and renews it."""


class Assignees:
    """Assignees of queue items; items without assignees are open to all."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add_many(
        self, image_ids: Iterable[str], round_id: str, people: Sequence[str], kind: str = "draw"
    ) -> int:
        """Assign items to people; returns the number of new rows."""
        rows = [
            {"image_id": id, "round_id": round_id, "kind": kind, "person": person}
            for id in image_ids
            for person in people
        ]
        return insert_new(self._connection, tables.queue_takers, rows)

    def replace(self, items: Iterable[tuple[str, str]], people: Sequence[str]) -> None:
        """Assign items to be drawn on, by image and round, to these people alone; to all without any."""
        takers = tables.queue_takers
        for image_id, round_id in items:
            item = takers.c.image_id == image_id, takers.c.round_id == round_id, takers.c.kind == "draw"
            self._connection.execute(delete(takers).where(*item))
            self.add_many([image_id], round_id, people)

    def lease_for_editing(self, image_id: str, person: str) -> None:
        """Lease an image to one person for editing now, whoever else has leased or labelled it."""
        round_id, items, answers = editing_round(person), tables.queue_items, tables.queue_answers
        item = QueueItem(
            image_id=image_id,
            round_id=round_id,
            priority=EDIT_PRIORITY,
            reason="opened from the curation desk",
        )
        if not Queue(self._connection).add_many([item]):
            own_answers = answers.c.image_id == image_id, answers.c.round_id == round_id
            self._connection.execute(delete(answers).where(*own_answers))
            again = items.c.image_id == image_id, items.c.round_id == round_id
            self._connection.execute(update(items).where(*again).values(given=0, done=False))
        self.add_many([image_id], round_id, [person])
        Queue(self._connection).lease_without_item(image_id, round_id, person, now() + EDIT_SECONDS)

    def close_editing(self, lease: Lease, person: str) -> int:
        """Remove the queue item of a lease that `lease_for_editing` gave, unless it was answered; returns 1
        or 0."""
        if lease.round_id != editing_round(person):
            return 0
        items = tables.queue_items.c
        open_item = items.image_id == lease.image_id, items.round_id == lease.round_id, items.given == 0
        return self._connection.execute(delete(tables.queue_items).where(*open_item)).rowcount

    def of(self, image_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The assignees of each image."""
        table = tables.queue_takers.c
        assignees: dict[str, tuple[str, ...]] = {}
        for chunk in chunks(image_ids):
            statement = select(table.image_id, table.person).where(table.image_id.in_(chunk)).distinct()
            for row in self._connection.execute(statement.order_by(table.person)):
                assignees[row.image_id] = (*assignees.get(row.image_id, ()), row.person)
        return assignees


def editing_round(person: str) -> str:
    """The round of the images that a curator opens for editing."""
    return f"edit by {person}"
