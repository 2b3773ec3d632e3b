"""What labels and drafts say of single regions: reason and importance."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """No label of before says anything of one."""
    for table in ("labels", "drafts"):
        op.add_column(table, sa.Column("regions", sa.JSON(), nullable=False, server_default="[]"))
