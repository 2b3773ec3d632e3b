"""Repositories of detectors, generators and treatments."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from sqlalchemy import Select, func, select, update

from dataengine.errors import Conflict
from dataengine.records import (
    AuditEvent,
    DetectorVersion,
    GeneratorVersion,
    OperatingPoint,
    Treatment,
    now,
)
from storage import tables
from storage.repositories.accounts import Audit
from storage.repositories.rows import Named


class Detectors(Named[DetectorVersion]):
    """Trained detectors; at most one of them is the champion."""

    table = tables.detectors
    makes = DetectorVersion
    what = "detector"

    def champion(self) -> DetectorVersion | None:
        """The champion."""
        return self._one(role="champion")

    def champion_id(self) -> str | None:
        """The id of the champion."""
        return self._connection.scalar(_champion_id())

    def record_metrics(self, detector_id: str, metrics: Mapping[str, Any]) -> None:
        """Add metrics to the detector's. Raises `NotFound`."""
        self._update(detector_id, metrics={**self.get(detector_id).metrics, **metrics})

    def set_operating_point(self, detector_id: str, point: OperatingPoint) -> None:
        """Store the detector's operating point over an earlier one. Raises `NotFound`."""
        self._update(detector_id, operating_point=asdict(point))

    def _row(self, record: DetectorVersion) -> dict[str, Any]:
        point = record.operating_point
        return super()._row(record) | {"operating_point": None if point is None else asdict(point)}

    def _records(
        self, statement: Select[Any], values: Mapping[str, Any] | None = None
    ) -> list[DetectorVersion]:
        return [
            replace(one, operating_point=_operating_point(one.operating_point))
            for one in super()._records(statement, values)
        ]

    def promote(self, detector_id: str, actor: str, reason: str) -> DetectorVersion:
        """Make the detector champion, retire the previous one, and write an audit event.

        Promoting the champion again changes nothing. Raises `NotFound`, and `Conflict` if another detector is
        promoted concurrently.
        """
        previous = self._lock_champion()
        candidate = self.get(detector_id)
        if previous is not None and previous.id == detector_id:
            return candidate
        self._hand_over(previous, detector_id)
        before = None if previous is None else previous.id
        self._connection.execute(
            tables.promotions.insert().values(
                detector_id=detector_id, previous_id=before, undone=False, at=now()
            )
        )
        self._audit(actor, "promote", detector_id, {"reason": reason, "previous": before})
        return self.get(detector_id)

    def rollback(self, actor: str) -> DetectorVersion:
        """Make the previous champion champion again, with an audit event; each call goes one further back.

        Raises `Conflict` when there is no previous champion.
        """
        current = self._lock_champion()
        promotions = tables.promotions.c
        last = self._connection.execute(
            select(tables.promotions)
            .where(promotions.undone.is_(False), promotions.detector_id == (current.id if current else None))
            .order_by(promotions.id.desc())
            .limit(1)
        ).first()
        if current is None or last is None or last.previous_id is None:
            raise Conflict("there is no previous champion; promote another detector instead")
        self._hand_over(current, last.previous_id)
        self._connection.execute(
            update(tables.promotions).where(promotions.id == last.id).values(undone=True)
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

    table = tables.generators
    makes = GeneratorVersion
    what = "generator"


class Treatments(Named[Treatment]):
    """LoRA fine-tuning runs against a frozen detector."""

    table = tables.treatments
    makes = Treatment
    what = "treatment"

    def finish(self, treatment_id: str, result: dict[str, Any], treated_id: str | None) -> None:
        """Store the result of the run and the generator that it produced. Raises `NotFound`."""
        self._update(treatment_id, result=result, treated_id=treated_id)

    def count(self) -> int:
        """Number of runs."""
        return self._connection.scalar(select(func.count()).select_from(self.table)) or 0


def _operating_point(stored: Any) -> OperatingPoint | None:
    if stored is None:
        return None
    interval = stored["interval"]
    return OperatingPoint(**stored | {"interval": None if interval is None else tuple(interval)})


@cache
def _champion_id() -> Select[Any]:
    table = tables.detectors.c
    return select(table.id).where(table.role == "champion")
