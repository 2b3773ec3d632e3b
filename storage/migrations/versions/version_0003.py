"""The annotation desk: drafts, receipts, comments, gold images; several people may hold an image."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def image() -> sa.Column:
    return sa.Column("image_id", sa.Text(), nullable=False)


def of_image(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_image_id")
    return sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=name, ondelete="CASCADE")


def upgrade() -> None:
    """Create its tables; leases are promises of minutes, so theirs is made anew."""
    op.drop_table("leases")
    op.create_table(
        "leases",
        sa.Column("id", sa.Text(), nullable=False),
        image(),
        sa.Column("round_id", sa.Text(), nullable=False),
        sa.Column("annotator", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        of_image("leases"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
        sa.UniqueConstraint("image_id", "annotator", name=op.f("uq_leases_image_id_annotator")),
    )
    op.create_index(op.f("ix_leases_annotator"), "leases", ["annotator"], unique=False)
    op.create_index(op.f("ix_leases_expires"), "leases", ["expires"], unique=False)
    op.create_table(
        "drafts",
        image(),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("label_map", sa.LargeBinary(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("saved", sa.Float(), nullable=False),
        of_image("drafts"),
        sa.PrimaryKeyConstraint("image_id", "author", name=op.f("pk_drafts")),
    )
    op.create_table(
        "receipts",
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        image(),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        of_image("receipts"),
        sa.PrimaryKeyConstraint("author", "key", name=op.f("pk_receipts")),
    )
    op.create_index(op.f("ix_receipts_image_id"), "receipts", ["image_id"], unique=False)
    op.create_table(
        "comments",
        sa.Column("id", sa.Text(), nullable=False),
        image(),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        of_image("comments"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comments")),
    )
    op.create_index(op.f("ix_comments_image_id_created"), "comments", ["image_id", "created"], unique=False)
    op.create_index(op.f("ix_comments_created"), "comments", ["created"], unique=False)
    op.create_index(op.f("ix_comments_author"), "comments", ["author"], unique=False)
    op.create_table(
        "gold_images",
        image(),
        sa.Column("label_map", sa.Text(), nullable=True),
        sa.Column("clean", sa.Boolean(), nullable=False),
        sa.Column("chosen_by", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        of_image("gold_images"),
        sa.PrimaryKeyConstraint("image_id", name=op.f("pk_gold_images")),
    )
    op.create_index(op.f("ix_gold_images_label_map"), "gold_images", ["label_map"], unique=False)
    op.create_table(
        "gold_scores",
        image(),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("iou", sa.Float(), nullable=False),
        sa.Column("right_class", sa.Float(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        of_image("gold_scores"),
        sa.PrimaryKeyConstraint("image_id", "author", "revision", name=op.f("pk_gold_scores")),
    )
    op.create_index(op.f("ix_gold_scores_author"), "gold_scores", ["author"], unique=False)
