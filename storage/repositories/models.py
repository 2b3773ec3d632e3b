"""Snapshots, detectors, generators and treatments: what was trained on what."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Select, func, select, update

from dataengine.errors import Conflict
from dataengine.records import (
    AND,
    AuditEvent,
    DetectorVersion,
    GeneratorVersion,
    Snapshot,
    SnapshotItem,
    Treatment,
    now,
)
from storage import schema
from storage.repositories.people import Audit
from storage.repositories.rows import Named, Rows, insert_new


class _Items(Rows[SnapshotItem]):
    table = schema.snapshot_items
    makes = SnapshotItem
    what = "snapshot item"

    def add(self, snapshot_id: str, items: Iterable[SnapshotItem]) -> int:
        rows = [
            self._row(item) | {"snapshot_id": snapshot_id, "position": position}
            for position, item in enumerate(items)
        ]
        return insert_new(self._connection, self.table, rows)

    def of(self, snapshot_id: str) -> list[SnapshotItem]:
        table = self.table.c
        return self._records(self._select().where(table.snapshot_id == snapshot_id).order_by(table.position))


class Snapshots(Named[Snapshot]):
    """Immutable training sets and their rows."""

    table = schema.snapshots
    makes = Snapshot
    what = "snapshot"

    def add(self, record: Snapshot, items: Iterable[SnapshotItem] = ()) -> int:
        """Store the snapshot with its rows unless its id is taken; returns 1 or 0."""
        new = super().add(record)
        if new:
            _Items(self._connection).add(record.id, items)
        return new

    def items(self, snapshot_id: str) -> Sequence[SnapshotItem]:
        """The snapshot's rows in their order."""
        return _Items(self._connection).of(snapshot_id)

    def containing(self, image_id: str) -> Sequence[Snapshot]:
        """The snapshots that an image went into, oldest first; an erased image is still found."""
        return self._where_item(schema.snapshot_items.c.image_id == image_id)

    def drawn_by(self, author: str) -> Sequence[Snapshot]:
        """The snapshots that a person's labels went into, alone or merged with others', oldest first."""
        names = AND + schema.snapshot_items.c.author + AND
        return self._where_item(names.contains(AND + author + AND, autoescape=True))

    def _where_item(self, condition: Any) -> Sequence[Snapshot]:
        inside = select(schema.snapshot_items.c.snapshot_id).where(condition)
        table = self.table.c
        return self._records(self._select().where(table.id.in_(inside)).order_by(table.created, table.id))


@cache
def _champion_id() -> Select[Any]:
    table = schema.detectors.c
    return select(table.id).where(table.role == "champion")


class Detectors(Named[DetectorVersion]):
    """Trained detectors; at most one of them is the champion."""

    table = schema.detectors
    makes = DetectorVersion
    what = "detector"

    def champion(self) -> DetectorVersion | None:
        """The detector in use."""
        return self._one(role="champion")

    def champion_id(self) -> str | None:
        """The id of the detector in use."""
        return self._connection.scalar(_champion_id())

    def record_metrics(self, detector_id: str, metrics: Mapping[str, Any]) -> None:
        """Add measurements to those that the detector has. Raises `NotFound`."""
        self._update(detector_id, metrics={**self.get(detector_id).metrics, **metrics})

    def promote(self, detector_id: str, actor: str, reason: str) -> DetectorVersion:
        """Make the detector champion, retire the one before it, and keep an audit event.

        Promoting the champion again changes nothing. Raises `NotFound`, and `Conflict` if somebody else
        promoted another one in the same moment.
        """
        previous = self._lock_champion()
        candidate = self.get(detector_id)
        if previous is not None and previous.id == detector_id:
            return candidate
        self._hand_over(previous, detector_id)
        before = None if previous is None else previous.id
        self._connection.execute(
            schema.promotions.insert().values(
                detector_id=detector_id, previous_id=before, undone=False, at=now()
            )
        )
        self._audit(actor, "promote", detector_id, {"reason": reason, "previous": before})
        return self.get(detector_id)

    def rollback(self, actor: str) -> DetectorVersion:
        """Make the previous champion champion again, with an audit event; once more goes one further back.

        Raises `Conflict` when there is none to go back to.
        """
        current = self._lock_champion()
        promotions = schema.promotions.c
        last = self._connection.execute(
            select(schema.promotions)
            .where(promotions.undone.is_(False), promotions.detector_id == (current.id if current else None))
            .order_by(promotions.id.desc())
            .limit(1)
        ).first()
        if current is None or last is None or last.previous_id is None:
            raise Conflict("there is no previous champion to go back to; promote another detector instead")
        self._hand_over(current, last.previous_id)
        self._connection.execute(
            update(schema.promotions).where(promotions.id == last.id).values(undone=True)
        )
        self._audit(actor, "rollback", last.previous_id, {"from": current.id})
        return self.get(last.previous_id)

    def _lock_champion(self) -> DetectorVersion | None:
        statement = self._select().where(self.table.c.role == "champion").with_for_update()
        return next(iter(self._records(statement)), None)

    def _hand_over(self, previous: DetectorVersion | None, detector_id: str) -> None:
        if previous is not None:
            self._update(previous.id, role="retired")
        self._update(detector_id, role="champion")

    def _audit(self, actor: str, action: str, subject: str, details: dict[str, Any]) -> None:
        event = AuditEvent(actor=actor, action=f"detector.{action}", subject=subject, details=details)
        Audit(self._connection).add(event)


class Generators(Named[GeneratorVersion]):
    """Diffusion pipelines, base or treated."""

    table = schema.generators
    makes = GeneratorVersion
    what = "generator"


class Treatments(Named[Treatment]):
    """LoRA fine-tuning runs against a frozen detector."""

    table = schema.treatments
    makes = Treatment
    what = "treatment"

    def finish(self, treatment_id: str, result: dict[str, Any], treated_id: str | None) -> None:
        """Record what came of the run and which generator it made. Raises `NotFound`."""
        self._update(treatment_id, result=result, treated_id=treated_id)

    def count(self) -> int:
        """How many runs there are."""
        return self._connection.scalar(select(func.count()).select_from(self.table)) or 0
