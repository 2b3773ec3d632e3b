"""Tables of labels."""

from sqlalchemy import Column, ForeignKeyConstraint, Index, Integer, Table

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

# The statistics of a blob never change, so one row serves all labels with the same map.
label_map_facts = Table("label_map_facts", metadata, key("sha256"), integer("classes"), float_("area"))

label_classes = Table(
    "label_classes",
    metadata,
    Column("value", Integer, primary_key=True, autoincrement=False),
    text("name"),
    text("color"),
    integer("place"),
    boolean("retired"),
)

labels = Table(
    "labels",
    metadata,
    image_key(),
    key("author"),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    integer("height"),
    integer("width"),
    optional_text("label_map"),
    boolean("clean"),
    text("source"),
    float_("lead_seconds"),
    optional_text("round_id"),
    optional_text("detector_id"),
    text("note"),
    Column("regions", Tuples, nullable=False, server_default="[]"),
    float_("created"),
    Index(None, "round_id"),
    Index(None, "author", "created"),
    Index(None, "label_map"),
    Index(None, "created"),
)

reviews = Table(
    "reviews",
    metadata,
    key("image_id"),
    key("author"),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    key("reviewer"),
    text("verdict"),
    text("note"),
    float_("created"),
    ForeignKeyConstraint(
        ["image_id", "author", "revision"],
        ["labels.image_id", "labels.author", "labels.revision"],
        ondelete="CASCADE",
    ),
    Index(None, "created"),
)
