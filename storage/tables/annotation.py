"""Tables of the annotation queue."""

from sqlalchemy import (
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
)

from storage.tables.columns import boolean, float_, image_key, integer, key, metadata, optional_text, text

# The packed label map itself: a draft changes every few seconds and is worth no blob.
drafts = Table(
    "drafts",
    metadata,
    image_key(),
    key("author"),
    Column("label_map", LargeBinary, nullable=False),
    float_("seconds"),
    float_("saved"),
)

# What was answered under an idempotency key, so that the same request twice counts once.
receipts = Table(
    "receipts",
    metadata,
    key("author"),
    key("key"),
    text("digest"),
    Column("image_id", Text, ForeignKey("images.id", ondelete="CASCADE"), nullable=False),
    integer("revision"),
    float_("created"),
    Index(None, "image_id"),
)

comments = Table(
    "comments",
    metadata,
    key("id"),
    Column("image_id", Text, ForeignKey("images.id", ondelete="CASCADE"), nullable=False),
    text("author"),
    text("text"),
    float_("created"),
    Index(None, "image_id", "created"),
    Index(None, "created"),
    Index(None, "author"),
)

gold_images = Table(
    "gold_images",
    metadata,
    image_key(),
    optional_text("label_map"),
    boolean("clean"),
    text("chosen_by"),
    float_("created"),
    Index(None, "label_map"),
)

gold_scores = Table(
    "gold_scores",
    metadata,
    image_key(),
    key("author"),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    float_("iou"),
    float_("right_class"),
    float_("created"),
    Index(None, "author"),
)

# An item without rows here is open to everybody who may annotate.
queue_takers = Table(
    "queue_takers",
    metadata,
    key("image_id"),
    key("round_id"),
    key("kind"),
    key("person"),
    ForeignKeyConstraint(
        ["image_id", "round_id", "kind"],
        ["queue_items.image_id", "queue_items.round_id", "queue_items.kind"],
        ondelete="CASCADE",
    ),
    Index(None, "person"),
)

# `given` counts the answers of distinct people; `done` is set once it reaches `opinions`.
queue_items = Table(
    "queue_items",
    metadata,
    image_key(),
    key("round_id"),
    key("kind"),
    float_("priority"),
    integer("opinions"),
    text("reason"),
    integer("given"),
    boolean("done"),
    Index("ix_queue_items_next", "kind", "done", "priority", "image_id"),
    Index(None, "round_id", "done"),
)

queue_answers = Table(
    "queue_answers",
    metadata,
    key("image_id"),
    key("round_id"),
    key("kind"),
    key("author"),
    boolean("skipped"),
    text("reason"),
    float_("created"),
    ForeignKeyConstraint(
        ["image_id", "round_id", "kind"],
        ["queue_items.image_id", "queue_items.round_id", "queue_items.kind"],
        ondelete="CASCADE",
    ),
    Index(None, "author"),
)

leases = Table(
    "leases",
    metadata,
    key("id"),
    Column("image_id", Text, ForeignKey("images.id", ondelete="CASCADE"), nullable=False),
    text("round_id"),
    text("annotator"),
    text("kind"),
    float_("expires"),
    UniqueConstraint("image_id", "annotator"),
    Index(None, "annotator"),
    Index(None, "expires"),
)
