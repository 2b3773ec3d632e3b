"""The workspace's identity, by which a catalog, its folder and its blob store know each other."""

import time
import uuid

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Every catalog, new or old, gets an identity of its own."""
    table = op.create_table(
        "workspace",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workspace")),
    )
    op.bulk_insert(table, [{"id": uuid.uuid4().hex, "created": time.time()}])
