"""Detectors have operating points, and queued images name the detector whose map sent them."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """No detector has an operating point yet. What a round queued was sent by the detector of its maps."""
    op.add_column("detectors", sa.Column("operating_point", sa.JSON()))
    op.add_column("queue_items", sa.Column("detector_id", sa.Text()))
    connection = op.get_bind()
    rounds = sa.table("rounds", sa.column("id"), sa.column("results", sa.JSON()))
    items = sa.table("queue_items", sa.column("round_id"), sa.column("detector_id"))
    for id, results in connection.execute(sa.select(rounds.c.id, rounds.c.results)).all():
        detector = (results or {}).get("diagnose", {}).get("detector")
        if detector:
            connection.execute(items.update().where(items.c.round_id == id).values(detector_id=detector))
