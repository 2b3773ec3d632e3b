"""Generators and detectors can be taken off the lists; what refers to them stays."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """All that are there stay on the lists."""
    for table in ("generators", "detectors"):
        op.add_column(table, sa.Column("removed", sa.Float()))
