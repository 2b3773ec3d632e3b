"""Tables of snapshots and benchmarks."""

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, Table, Text, UniqueConstraint

from storage.tables.columns import flag, image_key, json, key, maybe, metadata, number, whole, words

benchmarks = Table(
    "benchmarks",
    metadata,
    key("id"),
    whole("version"),
    words("name"),
    words("state"),
    json("settings"),
    maybe("digest"),
    words("created_by"),
    number("created"),
    maybe("frozen_by"),
    Column("frozen", Float),
    UniqueConstraint("version"),
)

# `target` is the packed label map that counts once `settled`; none for a clean image.
benchmark_items = Table(
    "benchmark_items",
    metadata,
    Column("benchmark_id", Text, ForeignKey("benchmarks.id", ondelete="CASCADE"), primary_key=True),
    image_key(),
    words("stratum"),
    words("kind"),
    whole("opinions"),
    flag("settled"),
    maybe("target"),
    words("settled_by"),
    words("how"),
    Index(None, "image_id"),
    Index(None, "target"),
)

snapshots = Table(
    "snapshots",
    metadata,
    key("id"),
    words("manifest"),
    whole("rows"),
    json("composition"),
    maybe("round_id"),
    maybe("parent"),
    number("created"),
)

snapshot_items = Table(
    "snapshot_items",
    metadata,
    Column("snapshot_id", Text, ForeignKey("snapshots.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    words("image_id"),
    words("image_sha256"),
    words("kind"),
    maybe("target"),
    maybe("category"),
    number("max_confidence"),
    number("weight"),
    words("split"),
    maybe("author"),
    Index(None, "image_id"),
    Index(None, "author"),
)
