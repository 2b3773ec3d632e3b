"""Tables of annotation: drafts, idempotency keys, comments, gold images and their scores."""

from sqlalchemy import (
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
)

from storage.tables.columns import (
    Tuples,
    boolean,
    float_,
    image_key,
    integer,
    key,
    metadata,
    optional_text,
    text,
)

# The packed label map itself: a draft changes every few seconds, so it is not stored as a blob.
drafts = Table(
    "drafts",
    metadata,
    image_key(),
    key("author"),
    Column("label_map", LargeBinary, nullable=False),
    Column("regions", Tuples, nullable=False, server_default="[]"),
    float_("seconds"),
    float_("saved"),
)

# The answer sent with an idempotency key, so that a repeated request counts once.
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
