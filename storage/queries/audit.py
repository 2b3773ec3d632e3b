"""Read models of the audit trail."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, String, Text, cast, func, or_, select

from dataengine.records import AuditEvent
from storage import tables
from storage.catalog import Catalog
from storage.repositories.rows import chunks

NAMED = ("detectors", "generators", "studies", "endpoints")
"""Tables whose rows have a name that a page shows instead of their id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditFilter:
    """Which events are wanted; every field narrows."""

    actor: str = ""
    topic: str = ""
    """What actions begin with, such as "user"."""
    since: float | None = None
    until: float | None = None
    text: str = ""
    """A part of the actor, the action, the subject or its name, or the details."""


def events_of(
    catalog: Catalog, wanted: AuditFilter, limit: int | None = None, offset: int = 0
) -> list[AuditEvent]:
    """The matching events, newest first; all of them without a limit."""
    events = tables.audit_events.c
    columns = events.actor, events.action, events.subject, events.details, events.at
    statement = (
        select(*columns).where(*_conditions(catalog, wanted)).order_by(events.at.desc(), events.id.desc())
    )
    rows = catalog.connection.execute(statement.limit(limit).offset(offset)).mappings()
    return [AuditEvent(**row) for row in rows]


def count_events(catalog: Catalog, wanted: AuditFilter) -> int:
    """The number of matching events."""
    statement = select(func.count()).select_from(tables.audit_events).where(*_conditions(catalog, wanted))
    return catalog.connection.scalar(statement) or 0


def audit_actors(catalog: Catalog) -> list[str]:
    """Everybody, person or part of the program, who did something audited."""
    actor = tables.audit_events.c.actor
    return list(catalog.connection.scalars(select(actor).distinct().order_by(actor)))


def names_of(catalog: Catalog, ids: Iterable[str]) -> dict[str, str]:
    """The names of those ids that are a detector's, a generator's, a study's or an endpoint's."""
    wanted, names = sorted(set(ids)), dict[str, str]()
    for table in (tables.metadata.tables[name] for name in NAMED):
        for chunk in chunks(wanted):
            rows = catalog.connection.execute(select(table.c.id, table.c.name).where(table.c.id.in_(chunk)))
            names |= {id: name for id, name in rows}
    return names


def _conditions(catalog: Catalog, wanted: AuditFilter) -> list[ColumnElement[bool]]:
    events, conditions = tables.audit_events.c, []
    if wanted.actor:
        conditions.append(events.actor == wanted.actor)
    if wanted.topic:
        conditions.append(events.action.startswith(f"{wanted.topic}.", autoescape=True))
    if wanted.since is not None:
        conditions.append(events.at >= wanted.since)
    if wanted.until is not None:
        conditions.append(events.at < wanted.until)
    if wanted.text:
        texts = (
            events.actor,
            events.action,
            cast(events.subject, Text),
            cast(cast(events.details, String), Text),
        )
        found: list[ColumnElement[bool]] = [one.icontains(wanted.text, autoescape=True) for one in texts]
        found += [
            events.subject.in_(select(table.c.id).where(table.c.name.icontains(wanted.text, autoescape=True)))
            for table in (tables.metadata.tables[name] for name in NAMED)
        ]
        conditions.append(or_(*found))
    return conditions
