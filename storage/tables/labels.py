"""Tables of labels."""

from sqlalchemy import Column, ForeignKeyConstraint, Index, Integer, Table

from storage.tables.columns import flag, image_key, key, maybe, metadata, number, whole, words

# Facts of a blob never change, so one row serves every label that holds the same map.
label_map_facts = Table("label_map_facts", metadata, key("sha256"), whole("classes"), number("area"))

label_classes = Table(
    "label_classes", metadata, Column("value", Integer, primary_key=True, autoincrement=False), words("name")
)

labels = Table(
    "labels",
    metadata,
    image_key(),
    key("author"),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    whole("height"),
    whole("width"),
    maybe("label_map"),
    flag("clean"),
    words("source"),
    number("lead_seconds"),
    maybe("round_id"),
    maybe("detector_id"),
    words("note"),
    number("created"),
    Index(None, "round_id"),
    Index(None, "author", "created"),
    Index(None, "label_map"),
)

reviews = Table(
    "reviews",
    metadata,
    key("image_id"),
    key("author"),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    key("reviewer"),
    words("verdict"),
    words("note"),
    number("created"),
    ForeignKeyConstraint(
        ["image_id", "author", "revision"],
        ["labels.image_id", "labels.author", "labels.revision"],
        ondelete="CASCADE",
    ),
)
