"""Jobs count how often they failed in the same way."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """No job has failed yet. The columns' defaults stay, as in 0004."""
    op.add_column("jobs", sa.Column("failure", sa.Text(), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("failures", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("failed_at", sa.Float(), nullable=False, server_default="0"))
