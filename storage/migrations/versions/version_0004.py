"""Blind studies: what is asked and of how many, and raters who come by invitation."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def study(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_study_id")
    return sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=name, ondelete="CASCADE")


def upgrade() -> None:
    """Studies that are there keep the questions they had, which are the defaults.

    The columns' own defaults stay: taking them away would make SQLite copy the table, and votes go with it.
    """
    op.add_column("studies", sa.Column("design", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("studies", sa.Column("created_by", sa.Text(), nullable=False, server_default=""))
    op.create_table(
        "invitations",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.Column("places", sa.Integer(), nullable=False),
        sa.Column("taken", sa.Integer(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        study("invitations"),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_invitations")),
    )
    op.create_index(op.f("ix_invitations_study_id"), "invitations", ["study_id"], unique=False)
    op.create_table(
        "guests",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["name"], ["users.name"], name=op.f("fk_guests_name"), ondelete="CASCADE"),
        study("guests"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_guests")),
    )
    op.create_index(op.f("ix_guests_study_id"), "guests", ["study_id"], unique=False)
