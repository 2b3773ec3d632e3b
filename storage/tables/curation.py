"""Tables of curation: tags of images, saved views, pilots."""

from sqlalchemy import Index, Table

from storage.tables.columns import boolean, float_, image_key, integer, json, key, metadata, text

image_tags = Table("image_tags", metadata, image_key(), key("tag"), Index(None, "tag", "image_id"))

saved_views = Table(
    "saved_views",
    metadata,
    key("id"),
    text("name"),
    text("owner"),
    boolean("shared"),
    json("query"),
    float_("created"),
    Index(None, "owner"),
)

pilots = Table(
    "pilots",
    metadata,
    key("id"),
    text("name"),
    text("created_by"),
    integer("images"),
    integer("annotations_per_image"),
    float_("created"),
)
