"""Tables of detectors, generators and treatments."""

from sqlalchemy import Column, ForeignKey, Index, Integer, Table, Text
from sqlalchemy import text as sql

from storage.tables.columns import (
    LocatedJson,
    boolean,
    float_,
    json,
    key,
    location,
    metadata,
    optional_text,
    text,
)

detectors = Table(
    "detectors",
    metadata,
    key("id"),
    text("name"),
    text("checkpoint"),
    text("role"),
    json("config"),
    json("metrics"),
    Column("operating_point", LocatedJson),
    optional_text("parent"),
    optional_text("snapshot_id"),
    optional_text("round_id"),
    text("licence"),
    float_("created"),
    Index(
        "uq_detectors_champion",
        "role",
        unique=True,
        sqlite_where=sql("role = 'champion'"),
        postgresql_where=sql("role = 'champion'"),
    ),
    Index(None, "snapshot_id"),
)

promotions = Table(
    "promotions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("detector_id", Text, ForeignKey("detectors.id"), nullable=False),
    Column("previous_id", Text, ForeignKey("detectors.id")),
    boolean("undone"),
    float_("at"),
)

generators = Table(
    "generators",
    metadata,
    key("id"),
    text("name"),
    location("location"),
    optional_text("lora"),
    optional_text("parent"),
    optional_text("treatment_id"),
    json("settings"),
    text("licence"),
    float_("created"),
)

treatments = Table(
    "treatments",
    metadata,
    key("id"),
    text("generator_id"),
    text("detector_id"),
    json("config"),
    json("result"),
    optional_text("treated_id"),
    optional_text("round_id"),
    float_("created"),
)
