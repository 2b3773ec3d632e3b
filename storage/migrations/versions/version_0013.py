"""Images have a place on a map by their features; features no longer depend on a detector."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Vectors of detectors' encoders are of no further use: a job computes the new ones in minutes."""
    op.execute(sa.text("DELETE FROM image_features"))
    op.create_table(
        "map_places",
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.Column("map_id", sa.Text(), nullable=False),
        sa.Column("x", sa.Integer(), nullable=False),
        sa.Column("y", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_map_places_image_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", "map_id", name=op.f("pk_map_places")),
    )
    op.create_index(op.f("ix_map_places_map_id_x_y"), "map_places", ["map_id", "x", "y"], unique=False)
