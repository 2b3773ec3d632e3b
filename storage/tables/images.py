"""Tables of images, predictions and prompts."""

from sqlalchemy import BigInteger, Column, Index, Integer, Table, Text

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

image_features = Table(
    "image_features",
    metadata,
    image_key(),
    Column("detector_id", Text, key="features", primary_key=True),
    text("vector"),
    Index(None, "features"),
)

map_places = Table(
    "map_places",
    metadata,
    image_key(),
    key("map_id"),
    integer("x"),
    integer("y"),
    Index(None, "map_id", "x", "y"),
)

images = Table(
    "images",
    metadata,
    key("id"),
    text("sha256"),
    integer("height"),
    integer("width"),
    text("media_type"),
    text("prompt"),
    optional_text("category"),
    optional_text("generator_id"),
    Column("seed", BigInteger),
    json("settings"),
    text("source"),
    text("origin"),
    text("licence"),
    text("split"),
    text("group"),
    optional_text("round_id"),
    text("purpose"),
    optional_text("thumbnail"),
    text("status"),
    float_("created"),
    Index(None, "sha256"),
    Index(None, "thumbnail"),
    Index(None, "round_id", "purpose"),
    Index(None, "category"),
    Index(None, "source", "split"),
    Index(None, "generator_id"),
    Index(None, "group"),
    Index(None, "status", "created", "id"),
)

# `category` repeats the image's, so that one covering index answers a page of the curator's desk.
predictions = Table(
    "predictions",
    metadata,
    image_key(),
    key("detector_id"),
    float_("max"),
    float_("mean"),
    float_("uncertainty"),
    optional_text("map_ref"),
    float_("created"),
    optional_text("category"),
    Index("ix_predictions_page", "detector_id", "category", "uncertainty", "image_id", "max"),
    Index("ix_predictions_page_all", "detector_id", "uncertainty", "image_id", "max"),
    Index("ix_predictions_max", "detector_id", "category", "max", "image_id"),
    Index("ix_predictions_max_all", "detector_id", "max", "image_id"),
    Index(None, "map_ref"),
)

pseudo_labels = Table(
    "pseudo_labels",
    metadata,
    image_key(),
    key("detector_id"),
    key("round_id"),
    text("map_ref"),
    float_("max"),
    float_("created"),
    Index(None, "round_id"),
)

category_answers = Table(
    "category_answers", metadata, image_key(), key("model"), text("category"), float_("confidence")
)

hard_categories = Table(
    "hard_categories",
    metadata,
    key("round_id"),
    key("category"),
    integer("images"),
    float_("statistic"),
    float_("limit"),
    boolean("hard"),
)

prompts = Table(
    "prompts",
    metadata,
    key("round_id"),
    key("purpose"),
    Column("index", Integer, primary_key=True, autoincrement=False),
    text("text"),
    optional_text("category"),
)
