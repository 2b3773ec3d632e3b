"""Tables of images, predictions and prompts."""

from sqlalchemy import BigInteger, Column, Index, Integer, Table

from storage.tables.columns import flag, image_key, json, key, maybe, metadata, number, whole, words

image_features = Table(
    "image_features",
    metadata,
    image_key(),
    key("detector_id"),
    words("vector"),
    Index(None, "detector_id"),
)

images = Table(
    "images",
    metadata,
    key("id"),
    words("sha256"),
    whole("height"),
    whole("width"),
    words("media_type"),
    words("prompt"),
    maybe("category"),
    maybe("generator_id"),
    Column("seed", BigInteger),
    json("settings"),
    words("source"),
    words("origin"),
    words("licence"),
    words("split"),
    words("group"),
    maybe("round_id"),
    words("purpose"),
    maybe("thumbnail"),
    words("status"),
    number("created"),
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
    number("max"),
    number("mean"),
    number("uncertainty"),
    maybe("map_ref"),
    number("created"),
    maybe("category"),
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
    words("map_ref"),
    number("max"),
    number("created"),
    Index(None, "round_id"),
)

category_answers = Table(
    "category_answers", metadata, image_key(), key("model"), words("category"), number("confidence")
)

hard_categories = Table(
    "hard_categories",
    metadata,
    key("round_id"),
    key("category"),
    whole("images"),
    number("statistic"),
    number("limit"),
    flag("hard"),
)

prompts = Table(
    "prompts",
    metadata,
    key("round_id"),
    key("purpose"),
    Column("index", Integer, primary_key=True, autoincrement=False),
    words("text"),
    maybe("category"),
)
