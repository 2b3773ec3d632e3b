"""What a round cost: seconds of each job on each kind of device; failed attempts that throttles count."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Jobs that ended before count nothing: how long they held a device was not recorded."""
    op.create_table(
        "device_seconds",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_device_seconds_job_id_jobs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "device", name="pk_device_seconds"),
    )
    op.create_table(
        "failed_attempts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_failed_attempts"),
    )
    op.create_index("ix_failed_attempts_key_at", "failed_attempts", ["key", "at"])
    op.create_index("ix_failed_attempts_at", "failed_attempts", ["at"])
