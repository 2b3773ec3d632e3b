"""Accounts say when they were last seen and whether a new password is due, sessions from which browser they
come, classes have a colour, a place and an end; settings that an admin may change have a table."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """The columns' defaults stay, as in 0004."""
    op.add_column("users", sa.Column("must_change", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("users", sa.Column("seen", sa.Float()))
    op.add_column("sessions", sa.Column("client", sa.Text(), nullable=False, server_default=""))
    op.add_column("label_classes", sa.Column("color", sa.Text(), nullable=False, server_default=""))
    op.add_column("label_classes", sa.Column("place", sa.Integer(), nullable=False, server_default="0"))
    op.add_column(
        "label_classes", sa.Column("retired", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.execute(sa.text("UPDATE label_classes SET place = value"))
    op.create_table(
        "settings",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_settings")),
    )
