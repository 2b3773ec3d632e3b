"""The annotation queue: items, leases and assignees."""

import secrets
from collections.abc import Iterable
from dataclasses import replace as with_changes
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, delete, exists, func, select, update
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
"""The reason of segmentation items requested by triage."""
RETURNED = "returned"
"""The round of returned images whose label belonged to no round."""
RETURN_PRIORITY = 5.0
"""Priority of returned images, above those of mining and triage."""
LATE_SECONDS = 7 * 86_400.0
"""Seconds after its end during which a lease still identifies the author of a late answer."""


class Queue(Rows[QueueItem]):
    """Images to annotate. An image is leased to as many people at a time as it still needs annotations."""

    table = tables.queue_items
    makes = QueueItem
    what = "queue item"

    def add_many(self, items: Iterable[QueueItem]) -> int:
        """Store the items with a new triple of image, round and kind; returns their number."""
        return self._insert(items, given=0, done=False, queued=now())

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
        """Lease the free image of highest priority that this person has not annotated.

        An image is free while fewer people lease it than it needs annotations; expired leases do not count.
        Returns None when the queue is empty. Each call leases another image: `held` lists those already
        leased. With a `category`, for triage, images already found flawed are skipped.
        """
        leases = Leases(self._connection)
        leases.forget(now - LATE_SECONDS)
        while (item := self._first_free(annotator, now, kind, round_id, image_id, category)) is not None:
            # Another transaction may have committed since the search; the item's row is locked from here on.
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
        own_leases = exists().where(*live, leases.annotator == annotator)
        answered = exists().where(
            answers.image_id == items.image_id,
            answers.round_id == items.round_id,
            answers.kind == items.kind,
            answers.author == annotator,
        )
        statement = (
            self._select()
            .where(items.kind == kind, items.done.is_(False), ~own_leases, ~answered)
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
        """Categories with open items of that kind for this person, and their number; most urgent first."""
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
        rows = self._connection.execute(waiting).all()
        return [(row[0], row[1]) for row in sorted(rows, key=lambda row: (-row[2], row[0]))]

    def request_drawing(self, lease_id: str, annotator: str) -> None:
        """Queue the segmentation, with priority, of an image that triage found flawed. Raises `Conflict`."""
        lease = owned_lease(self.lease(lease_id), annotator)
        items = self.table.c
        item = items.image_id == lease.image_id, items.round_id == lease.round_id
        of_round = items.round_id == lease.round_id, items.reason != FLAWED
        highest = self._connection.scalar(select(func.max(items.priority)).where(*of_round)) or 0.0
        drawing = QueueItem(
            image_id=lease.image_id,
            round_id=lease.round_id,
            priority=highest + 1,
            reason=FLAWED,
            detector_id=self.sent_by(lease.image_id, lease.round_id),
        )
        if not self.add_many([drawing]):
            changed = update(self.table).where(*item, items.kind == "draw", items.reason != FLAWED)
            self._connection.execute(changed.values(priority=highest + 1, reason=FLAWED))
        if lease.kind != "draw":
            self.answer(lease.image_id, lease.round_id, lease.kind, annotator)
        Leases(self._connection).end(lease_id)

    def sent_by(self, image_id: str, round_id: str) -> str | None:
        """The detector whose map sent the image into this round's queue; None where none did."""
        items = self.table.c
        named = items.image_id == image_id, items.round_id == round_id, items.detector_id.is_not(None)
        return self._connection.scalar(select(items.detector_id).where(*named).limit(1))

    def lease_without_item(self, image_id: str, round_id: str, annotator: str, expires: float) -> Lease:
        """Lease an image without a queue item, such as a gold image."""
        item = QueueItem(image_id=image_id, round_id=round_id)
        return Leases(self._connection).take(item, annotator, expires)

    def held(self, annotator: str, now: float) -> list[Lease]:
        """The person's current leases, by end time."""
        return Leases(self._connection).held(annotator, now)

    def lease(self, lease_id: str) -> Lease | None:
        """The lease of that id, even if expired: late answers are accepted."""
        return Leases(self._connection).find(lease_id)

    def was_leased(self, image_id: str, annotator: str) -> bool:
        """Whether the person holds a lease of the image, or held one that expired and was not ended."""
        return Leases(self._connection).any_of(image_id, annotator)

    def renew(self, lease_id: str, annotator: str, expires: float, now: float) -> Lease:
        """Extend a lease. Raises `Conflict` if it was lost: it expired, and the image was leased to
        others."""
        lease, leases = owned_lease(self.lease(lease_id), annotator), Leases(self._connection)
        other_holders = leases.holders(lease.image_id, now, but=annotator)
        items = self.table.c
        item = items.image_id == lease.image_id, items.round_id == lease.round_id, items.kind == lease.kind
        needed = self._connection.scalar(select(items.annotations_per_image - items.given).where(*item))
        if lease.expires <= now and needed is not None and other_holders >= needed:
            raise Conflict("this lease expired and the image is leased to somebody else; take the next one")
        leases.extend(lease_id, expires)
        return with_changes(lease, expires=expires)

    def release(self, lease_id: str, annotator: str) -> bool:
        """Release a lease without an answer; returns whether it was still this person's."""
        lease = self.lease(lease_id)
        return (
            lease is not None
            and lease.annotator == annotator
            and bool(Leases(self._connection).end(lease_id))
        )

    def skip(self, lease_id: str, annotator: str, reason: str) -> None:
        """Skip an image permanently for this person; others still get it. Raises `Conflict` if the lease was
        lost."""
        lease = owned_lease(self.lease(lease_id), annotator)
        self._answer(lease.image_id, lease.round_id, lease.kind, annotator, skipped=True, reason=reason)
        Leases(self._connection).end(lease_id)

    def answer(self, image_id: str, round_id: str, kind: QueueKind, author: str) -> bool:
        """Count a person's answer for an item; returns whether the item is now done.

        A repeated answer counts once; without such an item nothing happens.
        """
        item = {"of_image": image_id, "of_round": round_id, "of_kind": kind}
        if self._connection.scalar(_locking(), item) is None:
            return False
        self._answer(image_id, round_id, kind, author, skipped=False, reason="")
        return self._recount(image_id, round_id, kind)

    def take_back_answer(self, image_id: str, round_id: str, author: str) -> None:
        """Uncount a person's answer for an image of a round, whose items are then open to them again."""
        answers = tables.queue_answers.c
        own = answers.image_id == image_id, answers.round_id == round_id, answers.author == author
        kinds = list(self._connection.scalars(select(answers.kind).where(*own)))
        self._connection.execute(delete(tables.queue_answers).where(*own))
        for kind in kinds:
            self._recount(image_id, round_id, kind)

    def cancel_drawing(self, image_id: str, annotator: str) -> bool:
        """Undo `request_drawing`; False where it was not asked for, or somebody draws or has drawn the
        image."""
        items, leases = self.table.c, tables.leases.c
        asked = items.image_id == image_id, items.kind == "draw", items.reason == FLAWED, items.given == 0
        drawn_now = exists().where(leases.image_id == image_id, leases.kind == "draw")
        undone = False
        for round_id in list(self._connection.scalars(select(items.round_id).where(*asked, ~drawn_now))):
            triaged = select(items.round_id).where(
                items.image_id == image_id, items.round_id == round_id, items.kind == "triage"
            )
            of_item = (*asked, items.round_id == round_id)
            if self._connection.scalar(triaged) is None:  # it waited to be drawn before
                self._connection.execute(update(self.table).where(*of_item).values(reason=""))
            else:
                self._connection.execute(delete(self.table).where(*of_item))
                self.take_back_answer(image_id, round_id, annotator)
            undone = True
        return undone

    def give_back(self, label: Label, reason: str) -> None:
        """Return the image to the label's author with priority, because their label no longer counts."""
        items, answers = self.table.c, tables.queue_answers.c
        round_id = label.round_id or RETURNED
        key = items.image_id == label.image_id, items.round_id == round_id, items.kind == "draw"
        item = QueueItem(
            image_id=label.image_id,
            round_id=round_id,
            priority=RETURN_PRIORITY,
            reason=reason,
            detector_id=label.detector_id,
        )
        if self.add_many([item]):
            row = {"image_id": label.image_id, "round_id": round_id, "kind": "draw", "person": label.author}
            insert_new(self._connection, tables.queue_takers, [row])
            return
        of_label = answers.image_id == label.image_id, answers.round_id == round_id, answers.kind == "draw"
        self._connection.execute(
            delete(tables.queue_answers).where(*of_label, answers.author == label.author)
        )
        self._connection.execute(
            update(self.table).where(*key).values(priority=RETURN_PRIORITY, reason=reason)
        )
        self._recount(label.image_id, round_id, "draw")

    def withdraw(self, image_id: str, round_id: str) -> int:
        """Remove an image from a round's queue; returns the number of removed items."""
        items, leases = self.table.c, tables.leases.c
        of_image = leases.image_id == image_id, leases.round_id == round_id
        self._connection.execute(delete(tables.leases).where(*of_image))
        gone = delete(self.table).where(items.image_id == image_id, items.round_id == round_id)
        return self._connection.execute(gone).rowcount

    def remaining(self, round_id: str | None = None) -> int:
        """Number of items (of a round) that still need annotations."""
        return self._count(False, round_id)

    def done(self, round_id: str | None = None) -> int:
        """Number of completed items (of a round)."""
        return self._count(True, round_id)

    def among(self, image_ids: Iterable[str]) -> set[str]:
        """Those of the images that were ever queued, in any round."""
        column, queued = self.table.c.image_id, set[str]()
        for chunk in chunks(image_ids):
            queued.update(self._connection.scalars(select(column).where(column.in_(chunk)).distinct()))
        return queued

    def of_round(self, round_id: str) -> list[QueueItem]:
        """A round's items, highest priority first."""
        items = self.table.c
        order = items.priority.desc(), items.image_id
        return self._records(self._select().where(items.round_id == round_id).order_by(*order))

    def waiting(self, round_id: str | None = None) -> list[QueueItem]:
        """The items (of a round) that still need annotations, highest priority first."""
        items = self.table.c
        statement = self._select().where(items.done.is_(False))
        if round_id is not None:
            statement = statement.where(items.round_id == round_id)
        return self._records(statement.order_by(items.priority.desc(), items.image_id, items.round_id))

    def rounds(self) -> set[str]:
        """The rounds in which images were queued, also those that nobody started, such as a desk's."""
        return set(self._connection.scalars(select(self.table.c.round_id).distinct()))

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
            own_answer = [table.c[name] == value for name, value in row.items()]
            self._connection.execute(update(table).where(*own_answer).values(skipped=False))

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
    """The condition that a table's columns refer to the queue item of the parameters."""
    return (
        table.image_id == bindparam("of_image"),
        table.round_id == bindparam("of_round"),
        table.kind == bindparam("of_kind"),
    )


def open_to(annotator: str) -> ColumnElement[bool]:
    """True for queue items without assignees or assigned to this person."""
    items, assignees = tables.queue_items.c, tables.queue_takers.c
    of_item = (
        assignees.image_id == items.image_id,
        assignees.round_id == items.round_id,
        assignees.kind == items.kind,
    )
    return ~exists().where(*of_item) | exists().where(*of_item, assignees.person == annotator)


def owned_lease(lease: Lease | None, annotator: str) -> Lease:
    """The lease. Raises `Conflict` unless it exists and is this person's."""
    if lease is None or lease.annotator != annotator:
        raise Conflict(
            "this image is no longer leased to you and may be leased to somebody else; take the next one"
        )
    return lease


class Leases(Rows[Lease]):
    """The leases of `Queue`."""

    table = tables.leases
    makes = Lease
    what = "lease"

    def take(self, item: QueueItem, annotator: str, expires: float) -> Lease:
        """Create a lease of the item; the person's own expired one is renewed."""
        table = self.table.c
        own_lease = self._select().where(table.image_id == item.image_id, table.annotator == annotator)
        for old in self._records(own_lease):
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
        """Number of people (other than `but`) who lease the image."""
        table = self.table.c
        live = select(func.count()).select_from(self.table)
        live = live.where(table.image_id == image_id, table.expires > now)
        if but is not None:
            live = live.where(table.annotator != but)
        return self._connection.scalar(live) or 0

    def forget(self, before: float) -> None:
        """Delete leases that expired before that time."""
        self._connection.execute(delete(self.table).where(self.table.c.expires < before))

    def find(self, lease_id: str) -> Lease | None:
        """The lease of that id."""
        return self._one(id=lease_id)

    def end(self, lease_id: str) -> int:
        """Delete the lease, of any person; returns 1 or 0."""
        return self._drop(id=lease_id)

    def held(self, annotator: str, now: float) -> list[Lease]:
        """A person's current leases, by end time."""
        table = self.table.c
        own_leases = self._select().where(table.annotator == annotator, table.expires > now)
        return self._records(own_leases.order_by(table.expires, table.id))

    def any_of(self, image_id: str, annotator: str) -> bool:
        """Whether the person has a lease of the image, even if expired."""
        table = self.table.c
        own_lease = table.image_id == image_id, table.annotator == annotator
        return bool(self._connection.scalar(select(exists().where(*own_lease))))

    def extend(self, lease_id: str, expires: float) -> None:
        """Set the end of a lease."""
        self._connection.execute(
            update(self.table).where(self.table.c.id == lease_id).values(expires=expires)
        )
