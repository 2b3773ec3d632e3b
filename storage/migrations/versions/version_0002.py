"""The curation desk: benchmarks, facts of label maps, detector features, takers, sorting by confidence."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create its tables, and the indexes for pages by maximum confidence."""
    op.create_table(
        "benchmarks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("frozen_by", sa.Text(), nullable=True),
        sa.Column("frozen", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_benchmarks")),
        sa.UniqueConstraint("version", name=op.f("uq_benchmarks_version")),
    )
    op.create_table(
        "benchmark_items",
        sa.Column("benchmark_id", sa.Text(), nullable=False),
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.Column("stratum", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("opinions", sa.Integer(), nullable=False),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("settled_by", sa.Text(), nullable=False),
        sa.Column("how", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["benchmark_id"],
            ["benchmarks.id"],
            name=op.f("fk_benchmark_items_benchmark_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_benchmark_items_image_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("benchmark_id", "image_id", name=op.f("pk_benchmark_items")),
    )
    op.create_index(op.f("ix_benchmark_items_image_id"), "benchmark_items", ["image_id"], unique=False)
    op.create_index(op.f("ix_benchmark_items_target"), "benchmark_items", ["target"], unique=False)
    op.create_table(
        "label_map_facts",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("classes", sa.Integer(), nullable=False),
        sa.Column("area", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_label_map_facts")),
    )
    op.create_table(
        "image_features",
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.Column("detector_id", sa.Text(), nullable=False),
        sa.Column("vector", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_image_features_image_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", "detector_id", name=op.f("pk_image_features")),
    )
    op.create_index(op.f("ix_image_features_detector_id"), "image_features", ["detector_id"], unique=False)
    op.create_table(
        "queue_takers",
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.Column("round_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id", "round_id", "kind"],
            ["queue_items.image_id", "queue_items.round_id", "queue_items.kind"],
            name=op.f("fk_queue_takers_image_id_round_id_kind"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("image_id", "round_id", "kind", "person", name=op.f("pk_queue_takers")),
    )
    op.create_index(op.f("ix_queue_takers_person"), "queue_takers", ["person"], unique=False)
    op.create_index(
        "ix_predictions_max", "predictions", ["detector_id", "category", "max", "image_id"], unique=False
    )
    op.create_index("ix_predictions_max_all", "predictions", ["detector_id", "max", "image_id"], unique=False)
