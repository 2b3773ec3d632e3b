"""Repositories of detectors, generators and treatments."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from itertools import chain, count
from typing import Any, TypeVar

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

V = TypeVar("V", DetectorVersion, GeneratorVersion)


class Versions(Named[V]):
    """Versions of models that can be taken off the lists and put back; no row is ever deleted."""

    removing: str
    """What an audit event calls it."""

    def offered(self) -> list[V]:
        """Those on the lists, oldest first."""
        return [version for version in self.list() if version.removed is None]

    def remove(self, id: str, actor: str, reason: str) -> V:
        """Take a version off the lists, with an audit event; one that is off already stays as it is. Raises
        `NotFound`."""
        if self.get(id).removed is None:
            self._update(id, removed=now())
            self._audit(actor, self.removing, id, {"reason": reason})
        return self.get(id)

    def restore(self, id: str, actor: str) -> V:
        """Put a version back on the lists, with an audit event. Raises `NotFound`."""
        if self.get(id).removed is not None:
            self._update(id, removed=None)
            self._audit(actor, "restore", id, {})
        return self.get(id)

    def rename(self, id: str, name: str, actor: str) -> V:
        """Give a version another name, with an audit event. Raises `NotFound`, and `Conflict` for a name that
        another version on the lists has."""
        before = self.get(id).name
        if name == before:
            return self.get(id)
        if any(one.name == name and one.id != id for one in self.offered()):
            raise Conflict(f"another {self.what} is already called {name!r}; choose another name")
        self._update(id, name=name)
        self._audit(actor, "rename", id, {"before": before, "after": name})
        return self.get(id)

    def free_name(self, name: str) -> str:
        """The name, or, where a version has it, the name with the first free number from 2."""
        taken = {one.name for one in self.list()}
        numbered = (f"{name} {number}" for number in count(2))
        return next(one for one in chain([name], numbered) if one not in taken)

    def _audit(self, actor: str, action: str, subject: str, details: dict[str, Any]) -> None:
        event = AuditEvent(actor=actor, action=f"{self.what}.{action}", subject=subject, details=details)
        Audit(self._connection).add(event)


class Detectors(Versions[DetectorVersion]):
    """Trained detectors; at most one of them is the champion."""

    table = tables.detectors
    makes = DetectorVersion
    what = "detector"
    removing = "retire"

    def champion(self) -> DetectorVersion | None:
        """The champion."""
        return self._one(role="champion")

    def champion_id(self) -> str | None:
        """The id of the champion."""
        return self._connection.scalar(_champion_id())

    def champion_since(self) -> float | None:
        """When the champion became champion, by promotion or by rolling back to it; None without one, or
        where that was not recorded."""
        promotions, events = tables.promotions.c, tables.audit_events.c
        champion = self.champion_id()
        promoted = select(func.max(promotions.at)).where(
            promotions.detector_id == champion, promotions.undone.is_(False)
        )
        restored = select(func.max(events.at)).where(
            events.action == f"{self.what}.rollback", events.subject == champion
        )
        moments = [self._connection.scalar(found) for found in (promoted, restored)]
        return max((at for at in moments if at is not None), default=None)

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

        Promoting the champion again changes nothing. Raises `NotFound`, and `Conflict` for a retired
        detector, and if another one is promoted concurrently.
        """
        previous = self._lock_champion()
        candidate = self.get(detector_id)
        if previous is not None and previous.id == detector_id:
            return candidate
        _require_offered(candidate)
        self._hand_over(previous, detector_id)
        before = None if previous is None else previous.id
        self._connection.execute(
            tables.promotions.insert().values(
                detector_id=detector_id, previous_id=before, undone=False, at=now()
            )
        )
        self._audit(actor, "promote", detector_id, {"reason": reason, "previous": before})
        return self.get(detector_id)

    def remove(self, id: str, actor: str, reason: str) -> DetectorVersion:
        """See `Versions.remove`. Raises `Conflict` for the champion."""
        champion = self._lock_champion()
        if champion is not None and champion.id == id:
            raise Conflict(f"{champion.name} is the champion; promote another detector before you retire it")
        return super().remove(id, actor, reason)

    def previous_champion_id(self) -> str | None:
        """The id of the detector that `rollback` would make champion; None without one."""
        last = self._last_promotion(self.champion_id())
        return last.previous_id if last else None

    def rollback(self, actor: str) -> DetectorVersion:
        """Make the previous champion champion again, with an audit event; each call goes one further back.

        Raises `Conflict` when there is no previous champion, or when it was retired.
        """
        current = self._lock_champion()
        last = self._last_promotion(current.id if current else None)
        if current is None or last is None or last.previous_id is None:
            raise Conflict("there is no previous champion; promote another detector instead")
        _require_offered(self.get(last.previous_id))
        self._hand_over(current, last.previous_id)
        self._connection.execute(
            update(tables.promotions).where(tables.promotions.c.id == last.id).values(undone=True)
        )
        self._audit(actor, "rollback", last.previous_id, {"from": current.id})
        return self.get(last.previous_id)

    def _last_promotion(self, champion: str | None) -> Any:
        promotions = tables.promotions.c
        return self._connection.execute(
            select(tables.promotions)
            .where(promotions.undone.is_(False), promotions.detector_id == champion)
            .order_by(promotions.id.desc())
            .limit(1)
        ).first()

    def _lock_champion(self) -> DetectorVersion | None:
        statement = self._select().where(self.table.c.role == "champion").with_for_update()
        return next(iter(self._records(statement)), None)

    def _hand_over(self, previous: DetectorVersion | None, detector_id: str) -> None:
        if previous is not None:
            self._update(previous.id, role="retired")
        self._update(detector_id, role="champion")


class Generators(Versions[GeneratorVersion]):
    """Diffusion pipelines, base or treated."""

    table = tables.generators
    makes = GeneratorVersion
    what = "generator"
    removing = "remove"


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


def _require_offered(version: DetectorVersion) -> None:
    if version.removed is not None:
        raise Conflict(f"{version.name} was retired, so it cannot be champion; restore it first")


def _operating_point(stored: Any) -> OperatingPoint | None:
    if stored is None:
        return None
    interval = stored["interval"]
    return OperatingPoint(**stored | {"interval": None if interval is None else tuple(interval)})


@cache
def _champion_id() -> Select[Any]:
    table = tables.detectors.c
    return select(table.id).where(table.role == "champion")
