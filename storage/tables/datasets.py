"""Tables of snapshots and benchmarks."""

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, Table, Text, UniqueConstraint

from storage.tables.columns import (
    boolean,
    float_,
    image_key,
    integer,
    json,
    key,
    metadata,
    optional_text,
    text,
)

benchmarks = Table(
    "benchmarks",
    metadata,
    key("id"),
    integer("version"),
    text("name"),
    text("state"),
    json("settings"),
    optional_text("digest"),
    text("created_by"),
    float_("created"),
    optional_text("frozen_by"),
    Column("frozen", Float),
    UniqueConstraint("version"),
)

# `target` is the packed label map that counts once `settled`; none for a clean image.
benchmark_items = Table(
    "benchmark_items",
    metadata,
    Column("benchmark_id", Text, ForeignKey("benchmarks.id", ondelete="CASCADE"), primary_key=True),
    image_key(),
    text("stratum"),
    text("kind"),
    integer("opinions", field="annotations_per_image"),
    boolean("settled"),
    optional_text("target"),
    text("settled_by"),
    text("how"),
    Index(None, "image_id"),
    Index(None, "target"),
)

snapshots = Table(
    "snapshots",
    metadata,
    key("id"),
    text("manifest"),
    integer("rows"),
    json("composition"),
    optional_text("round_id"),
    optional_text("parent"),
    float_("created"),
)

snapshot_items = Table(
    "snapshot_items",
    metadata,
    Column("snapshot_id", Text, ForeignKey("snapshots.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    text("image_id"),
    text("image_sha256"),
    text("kind"),
    optional_text("target"),
    optional_text("category"),
    float_("max_confidence"),
    float_("weight"),
    text("split"),
    optional_text("author"),
    Index(None, "image_id"),
    Index(None, "author"),
)
