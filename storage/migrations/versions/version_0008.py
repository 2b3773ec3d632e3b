"""Paths in the workspace's folder become relative to it, so that a workspace can be moved."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

TEXTS = (("generators", "location"), ("endpoints", "location"), ("audit_events", "subject"))
VALUES = (
    ("audit_events", "details"),
    ("endpoints", "settings"),
    ("detectors", "config"),
    ("detectors", "metrics"),
    ("generators", "settings"),
    ("images", "settings"),
    ("jobs", "args"),
    ("jobs", "result"),
    ("rounds", "recipe"),
    ("rounds", "results"),
    ("treatments", "config"),
    ("treatments", "result"),
)


def upgrade() -> None:
    """Rewrite each absolute path below the workspace's folder; others stay, and keep working on this machine.

    Does nothing for an engine that knows no folder, or for a team's, whose machines have their own.
    """
    from storage.locations import Places, every_text
    from storage.tables.columns import places_of

    connection = op.get_bind()
    places = places_of(connection.dialect)
    if places is None or places.shared:
        return
    within = Places(places.root)
    for table, column in (*TEXTS, *VALUES):
        kind: sa.types.TypeEngine[Any] = sa.Text() if (table, column) in TEXTS else sa.JSON()
        rows = sa.table(table, sa.column("id"), sa.column(column, kind))
        field = rows.c[column]
        pathlike = sa.cast(field, sa.Text()).like("%/%")
        for id, value in connection.execute(sa.select(rows.c.id, field).where(pathlike)).all():
            changed = every_text(value, within.stored)
            if changed != value:
                connection.execute(rows.update().where(rows.c.id == id).values({column: changed}))
