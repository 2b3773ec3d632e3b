"""Repositories of labels, label classes, reviews and label map statistics."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from dataclasses import replace as with_changes
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, delete, exists, func, select

from dataengine.errors import Conflict, InputRefused
from dataengine.masks import MAX_CLASS, PackedMap
from dataengine.records import DEFAULT_CLASSES, Label, LabelClass, Review
from storage import tables
from storage.repositories.queue import Leases, Queue, owned_lease
from storage.repositories.rows import Rows, chunks, insert_new, replace, with_regions

MAX_CLASS_NAME = 60
COLOR = re.compile("#[0-9a-f]{6}")
CLASS_COLUMNS = tuple(one.name for one in fields(LabelClass))
MAX_FILTER_CLASS = 31
"""Images can be filtered by classes up to this one: the classes of a map are bits of a 32-bit column."""


class LabelMapStatistics:
    """Statistics of packed label maps by hash; immutable."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def missing(self, limit: int) -> list[tuple[str, int, int]]:
        """Label maps without statistics, as (hash, height, width), at most `limit`."""
        labels, statistics = tables.labels.c, tables.label_map_facts.c
        known = exists(select(statistics.sha256).where(statistics.sha256 == labels.label_map))
        statement = (
            select(labels.label_map, labels.height, labels.width)
            .where(labels.label_map.is_not(None), ~known)
            .distinct()
            .limit(limit)
        )
        return [(row.label_map, row.height, row.width) for row in self._connection.execute(statement)]

    def classes_of(self, hashes: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """The classes up to `MAX_FILTER_CLASS` that occur in each label map, ascending; maps without
        statistics are absent."""
        table = tables.label_map_facts.c
        found: dict[str, tuple[int, ...]] = {}
        for chunk in chunks(hashes):
            rows = self._connection.execute(
                select(table.sha256, table.classes).where(table.sha256.in_(chunk))
            )
            found |= {row.sha256: numbers_of(row.classes) for row in rows}
        return found

    def add_many(self, maps: Iterable[tuple[str, PackedMap]]) -> int:
        """Store the statistics of label maps by hash; returns the number of new ones."""
        rows = [
            {
                "sha256": sha256,
                "classes": sum(1 << (number - 1) for number in packed.areas if number <= MAX_FILTER_CLASS),
                "area": packed.share,
            }
            for sha256, packed in maps
        ]
        return insert_new(self._connection, tables.label_map_facts, rows)


def numbers_of(bits: int) -> tuple[int, ...]:
    """The classes that a bit mask of `label_map_facts` names, ascending."""
    return tuple(number for number in range(1, MAX_FILTER_CLASS + 1) if bits >> (number - 1) & 1)


class Labels(Rows[Label]):
    """People's labels; every change is a new revision."""

    table = tables.labels
    makes = Label
    what = "label"

    def _records(self, statement: Select[Any], values: Mapping[str, Any] | None = None) -> list[Label]:
        return [with_regions(label) for label in super()._records(statement, values)]

    def submit(
        self, label: Label, lease_id: str | None = None, expected_revision: int | None = None
    ) -> Label:
        """Store the label as the author's next revision, end the lease, and count it for the queue item.

        `expected_revision` is the author's newest revision that the label is based on (0 for none);
        `Conflict` if there is a newer one, or if the lease was lost. Sending the same label again after a
        lost response returns the stored one. Without a lease (an import, a correction) the label still counts
        for the queue item of its round.
        """
        newest = self._newest(label.image_id, label.author)
        at = newest.revision if newest else 0
        if newest and expected_revision == at - 1 and _same(newest, label):
            return newest
        if expected_revision is not None and expected_revision != at:
            raise Conflict(
                f"the label of image {label.image_id!r} by {label.author!r} is at revision {at}, not "
                f"{expected_revision}; reload it before changing it"
            )
        queue = Queue(self._connection)
        if lease_id is not None:
            lease = owned_lease(queue.lease(lease_id), label.author)
            if lease.image_id != label.image_id:
                raise Conflict(
                    f"lease {lease_id!r} is for another image; submit the label of the leased image"
                )
            label = with_changes(label, round_id=lease.round_id)
            Leases(self._connection).end(lease_id)
            queue.answer(lease.image_id, lease.round_id, lease.kind, label.author)
        elif label.round_id is not None:
            queue.answer(label.image_id, label.round_id, "draw", label.author)
        stored = with_changes(label, revision=at + 1)
        if not self._insert([stored]):
            raise Conflict(f"the label of image {label.image_id!r} was changed concurrently; reload it")
        return stored

    def withdraw(self, label: Label) -> int:
        """Delete a revision whose author takes it back, with its reviews; returns 1 or 0."""
        return self._drop(image_id=label.image_id, author=label.author, revision=label.revision)

    def latest(self, image_id: str, author: str | None = None) -> Label | None:
        """The newest revision of the author, or without one of any author."""
        if author is not None:
            return self._newest(image_id, author)
        table = self.table.c
        newest = self._select().where(table.image_id == image_id)
        order = table.created.desc(), table.revision.desc(), table.author
        return next(iter(self._records(newest.order_by(*order).limit(1))), None)

    def lock(self, image_id: str, author: str) -> None:
        """Let nobody else lock this person's labels of the image until the transaction ends."""
        table = self.table.c
        mine = table.image_id == image_id, table.author == author
        rows = select(table.revision).where(*mine).order_by(table.revision)
        self._connection.execute(rows.with_for_update()).all()

    def of_images(self, image_ids: Iterable[str]) -> list[Label]:
        """Every author's newest revision for these images, by image and author."""
        return _newest_each(self._in(self.table.c.image_id, image_ids))

    def of_round(self, round_id: str) -> list[Label]:
        """Every author's newest revision among the labels of a round, by image and author."""
        return _newest_each(self._records(self._select().where(self.table.c.round_id == round_id)))

    def by(self, author: str) -> list[Label]:
        """All revisions by a person, by time."""
        table = self.table.c
        return self._records(self._select().where(table.author == author).order_by(table.created))

    def history(self, image_id: str) -> list[Label]:
        """All revisions of an image's labels, by author and revision."""
        table = self.table.c
        order = table.author, table.revision
        return self._records(self._select().where(table.image_id == image_id).order_by(*order))

    def count(self, author: str | None = None, since: float = 0.0) -> int:
        """Number of images labelled (by a person) since that time."""
        table = self.table.c
        pairs = select(table.image_id, table.author).where(table.created >= since).distinct()
        if author is not None:
            pairs = pairs.where(table.author == author)
        return self._connection.scalar(select(func.count()).select_from(pairs.subquery())) or 0

    def _newest(self, image_id: str, author: str) -> Label | None:
        return self._one(newest="revision", image_id=image_id, author=author)


def _newest_each(labels: Iterable[Label]) -> list[Label]:
    newest: dict[tuple[str, str], Label] = {}
    for label in sorted(labels, key=lambda label: (label.image_id, label.author, label.revision)):
        newest[label.image_id, label.author] = label
    return list(newest.values())


def _same(stored: Label, sent: Label) -> bool:
    def content(label: Label) -> tuple[object, ...]:
        return label.label_map, label.clean, label.height, label.width, label.note, label.regions

    return content(stored) == content(sent)


class Reviews(Rows[Review]):
    """Curators' verdicts on label revisions."""

    table = tables.reviews
    makes = Review
    what = "review"

    def add(self, review: Review) -> int:
        """Store the verdict unless there is one of that reviewer on that revision; returns 1 or 0.

        Raises `NotFound` if there is no such label revision.
        """
        return self._insert([review])

    def decide(self, review: Review) -> None:
        """Store the verdict, replacing an earlier one of the same reviewer. Raises `NotFound` as `add`."""
        replace(self._connection, self.table, self._row(review))

    def of_image(self, image_id: str) -> list[Review]:
        """The verdicts on an image's labels, oldest first."""
        table = self.table.c
        return self._records(self._select().where(table.image_id == image_id).order_by(table.created))

    def verdicts(self, image_ids: Iterable[str]) -> dict[tuple[str, str, int], str]:
        """The newest verdict for each (image, author, revision) among these images."""
        reviews = sorted(self._in(self.table.c.image_id, image_ids), key=lambda review: review.created)
        return {(one.image_id, one.author, one.revision): one.verdict for one in reviews}


@cache
def _class_names() -> Select[Any]:
    table = tables.label_classes
    return select(table.c.name).order_by(table.c.value)


class Classes:
    """The workspace's label classes; without any of its own it has the project's three."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def names(self) -> tuple[str, ...]:
        """The names in order of their values, retired ones too: label map value 1 is the first."""
        return tuple(self._connection.scalars(_class_names())) or DEFAULT_CLASSES

    def list(self) -> list[LabelClass]:
        """The classes in order of their places."""
        rows = self._connection.execute(select(tables.label_classes)).mappings()
        stored = [LabelClass(**row) for row in rows]
        found = stored or [
            LabelClass(value=value, name=name, place=value) for value, name in enumerate(DEFAULT_CLASSES, 1)
        ]
        return sorted(found, key=lambda one: (one.place, one.value))

    def offered(self) -> Sequence[LabelClass]:
        """Those to draw with, which are not retired, in order of their places; at least one."""
        return [one for one in self.list() if not one.retired]

    def add(self, name: str, color: str = "") -> LabelClass:
        """Append a class. Raises `InputRefused` for a bad or taken name, or beyond `masks.MAX_CLASS`."""
        current = self.list()
        if len(current) >= MAX_CLASS:
            raise InputRefused(f"there are {MAX_CLASS} classes already; rename a retired one instead")
        place = max(one.place for one in current) + 1
        added = LabelClass(value=len(current) + 1, name=name.strip(), color=color, place=place)
        self._store([*current, added])
        return added

    def change(self, seen: LabelClass, changed: LabelClass) -> None:
        """Rename, recolour, move, retire or revive a class. Its value stays, and another class that has the
        new place moves on.

        Raises `Conflict` unless the class is stored as `seen`, `InputRefused` for a bad or taken name, or
        where no class would be left to draw.
        """
        current = self.list()
        stored = next((one for one in current if one.value == seen.value), None)
        if stored != seen:
            raise Conflict(
                f"somebody else changed class {seen.value} meanwhile"
                + (f": it is now {stored.name!r}" if stored else "")
                + "; look at it and try again"
            )
        others = [one for one in current if one.value != seen.value]
        place = min(max(changed.place, 1), len(current))
        ordered = [*others[: place - 1], changed, *others[place - 1 :]]
        self._store([with_changes(one, place=at) for at, one in enumerate(ordered, 1)])

    def _store(self, classes: Sequence[LabelClass]) -> None:
        for one in classes:
            if (
                not 1 <= len(one.name) <= MAX_CLASS_NAME
                or not one.name.isprintable()
                or one.name.strip() != one.name
            ):
                raise InputRefused(
                    f"a class has a name of 1 to {MAX_CLASS_NAME} printable characters, not {one.name[:80]!r}"
                )
            if one.color and not COLOR.fullmatch(one.color):
                raise InputRefused(f"a colour is written as #d55e00, not {one.color[:80]!r}")
        names = [one.name.casefold() for one in classes]
        if taken := next((one.name for one in classes if names.count(one.name.casefold()) > 1), None):
            raise InputRefused(f"there is a class {taken!r} already; choose another name")
        if all(one.retired for one in classes):
            raise InputRefused("this would leave no class to draw; add another one first")
        self._connection.execute(delete(tables.label_classes))
        rows = [{name: getattr(one, name) for name in CLASS_COLUMNS} for one in classes]
        insert_new(self._connection, tables.label_classes, rows)
