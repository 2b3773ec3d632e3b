"""The annotation queue: items, leases, and who is to take what."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace as with_changes
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, exists, func, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from dataengine.errors import Conflict
from dataengine.records import (
    Label,
    Lease,
    QueueItem,
    QueueKind,
    now,
)
from storage import tables
from storage.repositories.rows import Rows, chunks, insert_new

FLAWED = "flawed"
"""The reason of drawings that triage asked for."""
RETURNED = "returned"
"""The round of images that a curator returned although their label belonged to none."""
RETURN_FIRST = 5.0
"""Priority of returned images, above what mining and triage give."""
LATE_SECONDS = 7 * 86_400.0
"""How long after its end a lease still tells whose a late answer is."""


EDIT_FIRST = 20.0
"""Priority of an image that a curator opened: it comes before everything else."""
EDIT_SECONDS = 900.0
"""How long it waits for them before they have the page open, which renews the lease."""


class Queue(Rows[QueueItem]):
    """Images that wait for people. As many people at a time hold an image as it still needs opinions."""

    table = tables.queue_items
    makes = QueueItem
    what = "queue item"

    def add_many(self, items: Iterable[QueueItem]) -> int:
        """Store those whose image, round and kind are new together; returns how many were."""
        return self._insert(items, given=0, done=False)

    def next(
        self,
        annotator: str,
        now: float,
        lease_seconds: float,
        kind: QueueKind = "draw",
        round_id: str | None = None,
        image_id: str | None = None,
        category: str | None = None,
    ) -> Lease | None:
        """Lease the image of highest priority that this person has not answered and that is free.

        An image is free while fewer people hold it than it needs annotations; expired leases do not
        count. None when there is nothing to do. Asking again gives another image: `held` lists those already
        leased. Of a `category`, for triage, those that it has shown to be flawed do not come again.
        """
        leases = Leases(self._connection)
        leases.forget(now - LATE_SECONDS)
        while (item := self._first_free(annotator, now, kind, round_id, image_id, category)) is not None:
            # Since the search another transaction may have ended; the item's row is locked from here on.
            if leases.holders(item.image_id, now) >= item.annotations_per_image:
                continue
            return leases.take(item, annotator, now + lease_seconds)
        return None

    def _first_free(
        self,
        annotator: str,
        now: float,
        kind: QueueKind,
        round_id: str | None,
        image_id: str | None,
        category: str | None,
    ) -> QueueItem | None:
        items, leases, answers = self.table.c, tables.leases.c, tables.queue_answers.c
        live = leases.image_id == items.image_id, leases.expires > now
        holders = select(func.count()).select_from(tables.leases).where(*live).scalar_subquery()
        mine = exists().where(*live, leases.annotator == annotator)
        answered = exists().where(
            answers.image_id == items.image_id,
            answers.round_id == items.round_id,
            answers.kind == items.kind,
            answers.author == annotator,
        )
        statement = (
            self._select()
            .where(items.kind == kind, items.done.is_(False), ~mine, ~answered)
            .where(holders < items.annotations_per_image - items.given, open_to(annotator))
            .order_by(items.priority.desc(), items.image_id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        if round_id is not None:
            statement = statement.where(items.round_id == round_id)
        if image_id is not None:
            statement = statement.where(items.image_id == image_id)
        if category is not None:
            images = tables.images.c
            of_category = exists().where(images.id == items.image_id, images.category == category)
            statement = statement.where(of_category, items.reason != FLAWED)
        return next(iter(self._records(statement)), None)

    def categories(self, annotator: str, kind: QueueKind) -> list[tuple[str, int]]:
        """Categories with open items of that kind for this person, and how many; most urgent first."""
        items, images, answers = self.table.c, tables.images.c, tables.queue_answers.c
        answered = exists().where(
            answers.image_id == items.image_id,
            answers.round_id == items.round_id,
            answers.kind == items.kind,
            answers.author == annotator,
        )
        waiting = (
            select(images.category, func.count(), func.max(items.priority))
            .select_from(self.table.join(tables.images, images.id == items.image_id))
            .where(
                items.kind == kind,
                items.done.is_(False),
                items.reason != FLAWED,
                ~answered,
                open_to(annotator),
            )
            .where(images.category.is_not(None))
            .group_by(images.category)
        )
        found = self._connection.execute(waiting).all()
        return [(row[0], row[1]) for row in sorted(found, key=lambda row: (-row[2], row[0]))]

    def to_draw(self, lease_id: str, annotator: str) -> None:
        """Ask for a drawing, soon, of the image that triage showed to be flawed. Raises `Conflict`."""
        lease = owned_lease(self.lease(lease_id), annotator)
        items = self.table.c
        item = items.image_id == lease.image_id, items.round_id == lease.round_id
        others = items.round_id == lease.round_id, items.reason != FLAWED
        highest = self._connection.scalar(select(func.max(items.priority)).where(*others)) or 0.0
        drawing = QueueItem(
            image_id=lease.image_id, round_id=lease.round_id, priority=highest + 1, reason=FLAWED
        )
        if not self.add_many([drawing]):
            changed = update(self.table).where(*item, items.kind == "draw", items.reason != FLAWED)
            self._connection.execute(changed.values(priority=highest + 1, reason=FLAWED))
        if lease.kind != "draw":
            self.answer(lease.image_id, lease.round_id, lease.kind, annotator)
        Leases(self._connection).end(lease_id)

    def lend(self, image_id: str, round_id: str, annotator: str, expires: float) -> Lease:
        """Lease an image that no item asks for, as gold images are."""
        item = QueueItem(image_id=image_id, round_id=round_id)
        return Leases(self._connection).take(item, annotator, expires)

    def held(self, annotator: str, now: float) -> list[Lease]:
        """The person's live leases, the one that ends first before the others."""
        return Leases(self._connection).held(annotator, now)

    def lease(self, lease_id: str) -> Lease | None:
        """The lease of that id, even if its time is over: the person may still answer, late."""
        return Leases(self._connection).find(lease_id)

    def renew(self, lease_id: str, annotator: str, expires: float, now: float) -> Lease:
        """Move the end of a lease. Raises `Conflict` if it was lost: it ended, and others took the image."""
        lease, leases = owned_lease(self.lease(lease_id), annotator), Leases(self._connection)
        others = leases.holders(lease.image_id, now, but=annotator)
        items = self.table.c
        item = items.image_id == lease.image_id, items.round_id == lease.round_id, items.kind == lease.kind
        wanted = self._connection.scalar(select(items.annotations_per_image - items.given).where(*item))
        if lease.expires <= now and wanted is not None and others >= wanted:
            raise Conflict("this lease ended and somebody else has the image; take the next one")
        leases.extend(lease_id, expires)
        return with_changes(lease, expires=expires)

    def release(self, lease_id: str, annotator: str) -> bool:
        """Give an image back unanswered; returns whether the lease was still this person's."""
        lease = self.lease(lease_id)
        return (
            lease is not None
            and lease.annotator == annotator
            and bool(Leases(self._connection).end(lease_id))
        )

    def skip(self, lease_id: str, annotator: str, reason: str) -> None:
        """Decline an image for good: others may still get it. Raises `Conflict` if the lease was lost."""
        lease = owned_lease(self.lease(lease_id), annotator)
        self._answer(lease.image_id, lease.round_id, lease.kind, annotator, skipped=True, reason=reason)
        Leases(self._connection).end(lease_id)

    def answer(self, image_id: str, round_id: str, kind: QueueKind, author: str) -> bool:
        """Count a person's answer for an item; returns whether the item is now done.

        Answering again counts once; without such an item nothing happens.
        """
        item = {"of_image": image_id, "of_round": round_id, "of_kind": kind}
        if self._connection.scalar(_locking(), item) is None:
            return False
        self._answer(image_id, round_id, kind, author, skipped=False, reason="")
        return self._recount(image_id, round_id, kind)

    def give_back(self, label: Label, reason: str) -> None:
        """Ask a label's author for the image again, soon, as their answer no longer counts."""
        items, answers = self.table.c, tables.queue_answers.c
        round_id = label.round_id or RETURNED
        key = items.image_id == label.image_id, items.round_id == round_id, items.kind == "draw"
        item = QueueItem(image_id=label.image_id, round_id=round_id, priority=RETURN_FIRST, reason=reason)
        if self.add_many([item]):
            row = {"image_id": label.image_id, "round_id": round_id, "kind": "draw", "person": label.author}
            insert_new(self._connection, tables.queue_takers, [row])
            return
        mine = answers.image_id == label.image_id, answers.round_id == round_id, answers.kind == "draw"
        self._connection.execute(delete(tables.queue_answers).where(*mine, answers.author == label.author))
        self._connection.execute(update(self.table).where(*key).values(priority=RETURN_FIRST, reason=reason))
        self._recount(label.image_id, round_id, "draw")

    def withdraw(self, image_id: str, round_id: str) -> int:
        """Take an image that everybody skips out of a round's queue; returns how many items went."""
        items, leases = self.table.c, tables.leases.c
        mine = leases.image_id == image_id, leases.round_id == round_id
        self._connection.execute(delete(tables.leases).where(*mine))
        gone = delete(self.table).where(items.image_id == image_id, items.round_id == round_id)
        return self._connection.execute(gone).rowcount

    def remaining(self, round_id: str | None = None) -> int:
        """How many items (of a round) still need opinions."""
        return self._count(False, round_id)

    def done(self, round_id: str | None = None) -> int:
        """How many items (of a round) have all their opinions."""
        return self._count(True, round_id)

    def of_round(self, round_id: str) -> list[QueueItem]:
        """A round's items, highest priority first."""
        items = self.table.c
        order = items.priority.desc(), items.image_id
        return self._records(self._select().where(items.round_id == round_id).order_by(*order))

    def _count(self, done: bool, round_id: str | None) -> int:
        statement = select(func.count()).select_from(self.table).where(self.table.c.done.is_(done))
        if round_id is not None:
            statement = statement.where(self.table.c.round_id == round_id)
        return self._connection.scalar(statement) or 0

    def _answer(
        self, image_id: str, round_id: str, kind: str, author: str, *, skipped: bool, reason: str
    ) -> None:
        table = tables.queue_answers
        row = {"image_id": image_id, "round_id": round_id, "kind": kind, "author": author}
        fresh = insert_new(
            self._connection, table, [row | {"skipped": skipped, "reason": reason, "created": now()}]
        )
        if not fresh and not skipped:
            mine = [table.c[name] == value for name, value in row.items()]
            self._connection.execute(update(table).where(*mine).values(skipped=False))

    def _recount(self, image_id: str, round_id: str, kind: str) -> bool:
        item = {"of_image": image_id, "of_round": round_id, "of_kind": kind}
        return bool(self._connection.scalar(_counting(), item))


@cache
def _locking() -> Select[Any]:
    items = tables.queue_items.c
    return select(items.annotations_per_image).where(*_of_item(items)).with_for_update()


@cache
def _counting() -> ReturningUpdate[Any]:
    items, answers = tables.queue_items.c, tables.queue_answers.c
    counted = select(func.count()).select_from(tables.queue_answers)
    given = counted.where(*_of_item(answers), answers.skipped.is_(False)).scalar_subquery()
    changed = update(tables.queue_items).where(*_of_item(items))
    return changed.values(given=given, done=given >= items.annotations_per_image).returning(items.done)


def _of_item(table: Any) -> tuple[ColumnElement[bool], ...]:
    """Columns of a table that names queue items, held against the parameters of one."""
    return (
        table.image_id == bindparam("of_image"),
        table.round_id == bindparam("of_round"),
        table.kind == bindparam("of_kind"),
    )


def open_to(annotator: str) -> ColumnElement[bool]:
    """True for queue items that everybody, or this person among others, may take."""
    items, assignees = tables.queue_items.c, tables.queue_takers.c
    of_item = (
        assignees.image_id == items.image_id,
        assignees.round_id == items.round_id,
        assignees.kind == items.kind,
    )
    return ~exists().where(*of_item) | exists().where(*of_item, assignees.person == annotator)


def owned_lease(lease: Lease | None, annotator: str) -> Lease:
    """The lease itself. Raises `Conflict` unless it exists and is this person's."""
    if lease is None or lease.annotator != annotator:
        raise Conflict("this image is no longer leased to you, somebody else may have it; take the next one")
    return lease


class Leases(Rows[Lease]):
    """The leases of `Queue`."""

    table = tables.leases
    makes = Lease
    what = "lease"

    def take(self, item: QueueItem, annotator: str, expires: float) -> Lease:
        """A lease of the item; the person's own expired one lives on."""
        table = self.table.c
        mine = self._select().where(table.image_id == item.image_id, table.annotator == annotator)
        for old in self._records(mine):
            if (old.round_id, old.kind) == (item.round_id, item.kind):
                self.extend(old.id, expires)
                return with_changes(old, expires=expires)
            self._connection.execute(delete(self.table).where(table.id == old.id))
        lease = Lease(
            id=secrets.token_hex(12),
            image_id=item.image_id,
            round_id=item.round_id,
            annotator=annotator,
            kind=item.kind,
            expires=expires,
        )
        self._insert([lease])
        return lease

    def holders(self, image_id: str, now: float, but: str | None = None) -> int:
        """How many people (others than `but`) hold the image."""
        table = self.table.c
        live = select(func.count()).select_from(self.table)
        live = live.where(table.image_id == image_id, table.expires > now)
        if but is not None:
            live = live.where(table.annotator != but)
        return self._connection.scalar(live) or 0

    def forget(self, before: float) -> None:
        """Delete leases that ended before that time."""
        self._connection.execute(delete(self.table).where(self.table.c.expires < before))

    def find(self, lease_id: str) -> Lease | None:
        """The lease of that id."""
        return self._one(id=lease_id)

    def end(self, lease_id: str) -> int:
        """Delete the lease, whosever it is; returns 1 or 0."""
        return self._drop(id=lease_id)

    def held(self, annotator: str, now: float) -> list[Lease]:
        """A person's live leases, by their end."""
        table = self.table.c
        mine = self._select().where(table.annotator == annotator, table.expires > now)
        return self._records(mine.order_by(table.expires, table.id))

    def extend(self, lease_id: str, expires: float) -> None:
        """Move the end."""
        self._connection.execute(
            update(self.table).where(self.table.c.id == lease_id).values(expires=expires)
        )


class Assignees:
    """Who alone may take a queue item; items without assignees are open to all."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add_many(
        self, image_ids: Iterable[str], round_id: str, people: Sequence[str], kind: str = "draw"
    ) -> int:
        """Reserve items for people; returns how many rows were new."""
        rows = [
            {"image_id": id, "round_id": round_id, "kind": kind, "person": person}
            for id in image_ids
            for person in people
        ]
        return insert_new(self._connection, tables.queue_takers, rows)

    def hand(self, image_id: str, person: str) -> None:
        """Lease one person an image to draw now, whoever else holds it or has drawn it before."""
        round_id, items, answers = f"edit by {person}", tables.queue_items, tables.queue_answers
        item = QueueItem(
            image_id=image_id, round_id=round_id, priority=EDIT_FIRST, reason="opened from the curation desk"
        )
        if not Queue(self._connection).add_many([item]):
            mine = answers.c.image_id == image_id, answers.c.round_id == round_id
            self._connection.execute(delete(answers).where(*mine))
            again = items.c.image_id == image_id, items.c.round_id == round_id
            self._connection.execute(update(items).where(*again).values(given=0, done=False))
        self.add_many([image_id], round_id, [person])
        Queue(self._connection).lend(image_id, round_id, person, now() + EDIT_SECONDS)

    def of(self, image_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The people who alone may take each image, by image."""
        table = tables.queue_takers.c
        found: dict[str, tuple[str, ...]] = {}
        for chunk in chunks(image_ids):
            statement = select(table.image_id, table.person).where(table.image_id.in_(chunk)).distinct()
            for row in self._connection.execute(statement.order_by(table.person)):
                found[row.image_id] = (*found.get(row.image_id, ()), row.person)
        return found
