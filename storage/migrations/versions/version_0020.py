"""What a round cost: seconds of each job on each kind of device."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0018"


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
