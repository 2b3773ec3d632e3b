"""Tables of detectors, generators and treatments."""

from sqlalchemy import Column, ForeignKey, Index, Integer, Table, Text, text

from storage.tables.columns import flag, json, key, maybe, metadata, number, words

detectors = Table(
    "detectors",
    metadata,
    key("id"),
    words("name"),
    words("checkpoint"),
    words("role"),
    json("config"),
    json("metrics"),
    maybe("parent"),
    maybe("snapshot_id"),
    maybe("round_id"),
    words("licence"),
    number("created"),
    Index(
        "uq_detectors_champion",
        "role",
        unique=True,
        sqlite_where=text("role = 'champion'"),
        postgresql_where=text("role = 'champion'"),
    ),
    Index(None, "snapshot_id"),
)

promotions = Table(
    "promotions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("detector_id", Text, ForeignKey("detectors.id"), nullable=False),
    Column("previous_id", Text, ForeignKey("detectors.id")),
    flag("undone"),
    number("at"),
)

generators = Table(
    "generators",
    metadata,
    key("id"),
    words("name"),
    words("location"),
    maybe("lora"),
    maybe("parent"),
    maybe("treatment_id"),
    json("settings"),
    words("licence"),
    number("created"),
)

treatments = Table(
    "treatments",
    metadata,
    key("id"),
    words("generator_id"),
    words("detector_id"),
    json("config"),
    json("result"),
    maybe("treated_id"),
    maybe("round_id"),
    number("created"),
)
