"""Give a person another name, wherever the catalog names them as a person.

The rows of training sets go along, merged labels too, while their manifests, which are immutable, and texts,
the audit trail and settings keep the former name: they say what was written.
"""

from sqlalchemy import Connection, delete, exists, insert, literal, select, update

from dataengine.errors import Conflict
from dataengine.records import AuditEvent
from storage.accounts import check_name
from storage.catalog import Catalog
from storage.maintenance.erase_rows import column_of
from storage.maintenance.personal_columns import PERSON

PARENTS = ("users.name", "labels.author")
"""Columns that other tables refer to: a row of the new name comes first, the former one goes last."""
NAMING = tuple(name for name, handling in PERSON.items() if handling in ("delete", "goes along", "replace"))
"""Every column that holds nothing but a person's name."""


def rename_person(catalog: Catalog, name: str, new_name: str, actor: str) -> int:
    """Rename an account, and whatever the person made; returns the number of changed values.

    Raises `InputRefused` for an invalid name, `NotFound` without such an account, `Conflict` if anything in
    the catalog carries the new name: two people's work would become one person's.
    """
    check_name(new_name)
    catalog.users.get(name)
    if _in_use(catalog.connection, new_name):
        raise Conflict(f"there is an account or work of {new_name!r} already; choose another name")
    changed = sum(_rename(catalog.connection, column, name, new_name) for column in _ordered())
    changed += catalog.snapshots.rename_author(name, new_name)
    changed += catalog.benchmarks.rename_author(name, new_name)
    catalog.audit.add(
        AuditEvent(actor=actor, action="user.rename", subject=new_name, details={"before": name})
    )
    return changed


def _ordered() -> list[str]:
    return [*PARENTS, *(name for name in NAMING if name not in PARENTS), *(f"-{name}" for name in PARENTS)]


def _rename(connection: Connection, place: str, name: str, new_name: str) -> int:
    column = column_of(place.removeprefix("-"))
    if place.startswith("-"):
        connection.execute(delete(column.table).where(column == name))
        return 0
    if place not in PARENTS:
        return connection.execute(
            update(column.table).where(column == name).values({column: new_name})
        ).rowcount
    columns = list(column.table.c)
    rows = select(*(literal(new_name) if one is column else one for one in columns)).where(column == name)
    return connection.execute(insert(column.table).from_select(columns, rows)).rowcount


def _in_use(connection: Connection, name: str) -> bool:
    return any(connection.scalar(select(exists().where(column_of(place) == name))) for place in NAMING)
