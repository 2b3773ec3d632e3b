"""Tables of the curation desk: benchmarks, facts of label maps, detector features, who may take an image."""

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Table,
    Text,
    UniqueConstraint,
)

from storage.columns import flag, image_key, json, key, maybe, metadata, number, whole, words

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

# Facts of a blob never change, so one row serves every label that holds the same map.
label_map_facts = Table("label_map_facts", metadata, key("sha256"), whole("classes"), number("area"))

image_features = Table(
    "image_features",
    metadata,
    image_key(),
    key("detector_id"),
    words("vector"),
    Index(None, "detector_id"),
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
