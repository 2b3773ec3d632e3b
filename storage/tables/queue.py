"""Tables of the annotation queue: items, assignees, answers, leases."""

from sqlalchemy import Column, ForeignKey, ForeignKeyConstraint, Index, Table, Text, UniqueConstraint

from storage.tables.columns import (
    boolean,
    float_,
    image_key,
    integer,
    key,
    metadata,
    optional_float,
    optional_text,
    text,
)

# An item without rows here is open to every annotator.
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

# `given` counts the answers of distinct people; `done` is set once it reaches `annotations_per_image`.
# `queued` is when it was added, in epoch seconds.
queue_items = Table(
    "queue_items",
    metadata,
    image_key(),
    key("round_id"),
    key("kind"),
    float_("priority"),
    integer("opinions", field="annotations_per_image"),
    text("reason"),
    optional_text("detector_id"),
    integer("given"),
    boolean("done"),
    optional_float("queued"),
    Index("ix_queue_items_next", "kind", "done", "priority", "image_id"),
    Index(None, "round_id", "done"),
    Index(None, "done", "queued"),
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
    Index(None, "created"),
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
