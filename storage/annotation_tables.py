"""Tables of the annotation desk: drafts, receipts of submits, comments, gold images and their scores."""

from sqlalchemy import Column, ForeignKey, Index, Integer, LargeBinary, Table, Text

from storage.columns import flag, image_key, key, maybe, metadata, number, whole, words

# The packed label map itself: a draft changes every few seconds and is worth no blob.
drafts = Table(
    "drafts",
    metadata,
    image_key(),
    key("author"),
    Column("label_map", LargeBinary, nullable=False),
    number("seconds"),
    number("saved"),
)

# What was answered under an idempotency key, so that the same request twice counts once.
receipts = Table(
    "receipts",
    metadata,
    key("author"),
    key("key"),
    words("digest"),
    Column("image_id", Text, ForeignKey("images.id", ondelete="CASCADE"), nullable=False),
    whole("revision"),
    number("created"),
    Index(None, "image_id"),
)

comments = Table(
    "comments",
    metadata,
    key("id"),
    Column("image_id", Text, ForeignKey("images.id", ondelete="CASCADE"), nullable=False),
    words("author"),
    words("text"),
    number("created"),
    Index(None, "image_id", "created"),
    Index(None, "created"),
    Index(None, "author"),
)

gold_images = Table(
    "gold_images",
    metadata,
    image_key(),
    maybe("label_map"),
    flag("clean"),
    words("chosen_by"),
    number("created"),
    Index(None, "label_map"),
)

gold_scores = Table(
    "gold_scores",
    metadata,
    image_key(),
    key("author"),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    number("iou"),
    number("right_class"),
    number("created"),
    Index(None, "author"),
)
