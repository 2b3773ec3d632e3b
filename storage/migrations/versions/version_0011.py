"""Detectors say for which kind of images they were made."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """The clinic's detector and those trained from it, as far as known, were made for the clinic's drawings.
    The column's default stays, as in 0004."""
    op.add_column("detectors", sa.Column("domain", sa.Text(), nullable=False, server_default=""))
    connection = op.get_bind()
    rows = connection.execute(sa.text("SELECT id, parent FROM detectors")).all()
    clinic = {"first-doctor"}
    while more := {row.id for row in rows if row.parent in clinic} - clinic:
        clinic |= more
    mark = sa.text("UPDATE detectors SET domain = 'clinic' WHERE id = :id")
    for detector in sorted(clinic):
        connection.execute(mark, {"id": detector})
