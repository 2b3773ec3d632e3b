"""Jobs that pause, and what they write kept where every machine of a team reaches it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """No job that is there was asked to pause. The column's default stays, as in 0004."""
    asked: sa.Column[bool] = sa.Column(
        "pause_requested", sa.Boolean(), nullable=False, server_default=sa.false()
    )
    op.add_column("jobs", asked)
    op.create_table(
        "job_files",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "name", "number", name=op.f("pk_job_files")),
    )
