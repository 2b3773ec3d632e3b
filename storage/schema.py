"""The catalog's tables.

Columns are named after the fields of `dataengine.records`, so that rows and records map one to one. Rows that
describe an image die with it; snapshots keep their items, since lineage must outlive an erasure.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

REVISION = "0001"
"""The newest migration; a catalog that names another one is older (upgrade) or newer (refused)."""

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)


class Tuples(TypeDecorator[tuple[Any, ...]]):
    """JSON lists that come back as tuples, at every depth."""

    impl = JSON
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> tuple[Any, ...] | None:
        return None if value is None else _as_tuple(value)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _key(name: str) -> Column[Any]:
    return Column(name, Text, primary_key=True)


def _text(name: str) -> Column[Any]:
    return Column(name, Text, nullable=False)


def _maybe(name: str) -> Column[Any]:
    return Column(name, Text)


def _whole(name: str) -> Column[Any]:
    return Column(name, Integer, nullable=False)


def _number(name: str) -> Column[Any]:
    return Column(name, Float, nullable=False)


def _flag(name: str) -> Column[Any]:
    return Column(name, Boolean, nullable=False)


def _json(name: str) -> Column[Any]:
    return Column(name, JSON, nullable=False)


def _image_key() -> Column[Any]:
    return Column("image_id", Text, ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)


images = Table(
    "images",
    metadata,
    _key("id"),
    _text("sha256"),
    _whole("height"),
    _whole("width"),
    _text("media_type"),
    _text("prompt"),
    _maybe("category"),
    _maybe("generator_id"),
    Column("seed", BigInteger),
    _json("settings"),
    _text("source"),
    _text("origin"),
    _text("licence"),
    _text("split"),
    _text("group"),
    _maybe("round_id"),
    _text("purpose"),
    _maybe("thumbnail"),
    _text("status"),
    _number("created"),
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
    _image_key(),
    _key("detector_id"),
    _number("max"),
    _number("mean"),
    _number("uncertainty"),
    _maybe("map_ref"),
    _number("created"),
    _maybe("category"),
    Index("ix_predictions_page", "detector_id", "category", "uncertainty", "image_id", "max"),
    Index("ix_predictions_page_all", "detector_id", "uncertainty", "image_id", "max"),
    Index(None, "map_ref"),
)

pseudo_labels = Table(
    "pseudo_labels",
    metadata,
    _image_key(),
    _key("detector_id"),
    _key("round_id"),
    _text("map_ref"),
    _number("max"),
    _number("created"),
    Index(None, "round_id"),
)

category_answers = Table(
    "category_answers", metadata, _image_key(), _key("model"), _text("category"), _number("confidence")
)

hard_categories = Table(
    "hard_categories",
    metadata,
    _key("round_id"),
    _key("category"),
    _whole("images"),
    _number("statistic"),
    _number("limit"),
    _flag("hard"),
)

prompts = Table(
    "prompts",
    metadata,
    _key("round_id"),
    _key("purpose"),
    Column("index", Integer, primary_key=True, autoincrement=False),
    _text("text"),
    _maybe("category"),
)

label_classes = Table(
    "label_classes", metadata, Column("value", Integer, primary_key=True, autoincrement=False), _text("name")
)

labels = Table(
    "labels",
    metadata,
    _image_key(),
    _key("author"),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    _whole("height"),
    _whole("width"),
    _maybe("label_map"),
    _flag("clean"),
    _text("source"),
    _number("lead_seconds"),
    _maybe("round_id"),
    _maybe("detector_id"),
    _text("note"),
    _number("created"),
    Index(None, "round_id"),
    Index(None, "author", "created"),
    Index(None, "label_map"),
)

reviews = Table(
    "reviews",
    metadata,
    _key("image_id"),
    _key("author"),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    _key("reviewer"),
    _text("verdict"),
    _text("note"),
    _number("created"),
    ForeignKeyConstraint(
        ["image_id", "author", "revision"],
        ["labels.image_id", "labels.author", "labels.revision"],
        ondelete="CASCADE",
    ),
)

# `given` counts the answers of distinct people; `done` is set once it reaches `opinions`.
queue_items = Table(
    "queue_items",
    metadata,
    _image_key(),
    _key("round_id"),
    _key("kind"),
    _number("priority"),
    _whole("opinions"),
    _text("reason"),
    _whole("given"),
    _flag("done"),
    Index("ix_queue_items_next", "kind", "done", "priority", "image_id"),
    Index(None, "round_id", "done"),
)

queue_answers = Table(
    "queue_answers",
    metadata,
    _key("image_id"),
    _key("round_id"),
    _key("kind"),
    _key("author"),
    _flag("skipped"),
    _text("reason"),
    _number("created"),
    ForeignKeyConstraint(
        ["image_id", "round_id", "kind"],
        ["queue_items.image_id", "queue_items.round_id", "queue_items.kind"],
        ondelete="CASCADE",
    ),
    Index(None, "author"),
)

leases = Table(
    "leases",
    metadata,
    _key("id"),
    Column("image_id", Text, ForeignKey("images.id", ondelete="CASCADE"), nullable=False),
    _text("round_id"),
    _text("annotator"),
    _text("kind"),
    _number("expires"),
    UniqueConstraint("image_id"),
    Index(None, "annotator"),
)

snapshots = Table(
    "snapshots",
    metadata,
    _key("id"),
    _text("manifest"),
    _whole("rows"),
    _json("composition"),
    _maybe("round_id"),
    _maybe("parent"),
    _number("created"),
)

snapshot_items = Table(
    "snapshot_items",
    metadata,
    Column("snapshot_id", Text, ForeignKey("snapshots.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    _text("image_id"),
    _text("image_sha256"),
    _text("kind"),
    _maybe("target"),
    _maybe("category"),
    _number("max_confidence"),
    _number("weight"),
    _text("split"),
    _maybe("author"),
    Index(None, "image_id"),
    Index(None, "author"),
)

detectors = Table(
    "detectors",
    metadata,
    _key("id"),
    _text("name"),
    _text("checkpoint"),
    _text("role"),
    _json("config"),
    _json("metrics"),
    _maybe("parent"),
    _maybe("snapshot_id"),
    _maybe("round_id"),
    _text("licence"),
    _number("created"),
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
    _flag("undone"),
    _number("at"),
)

generators = Table(
    "generators",
    metadata,
    _key("id"),
    _text("name"),
    _text("location"),
    _maybe("lora"),
    _maybe("parent"),
    _maybe("treatment_id"),
    _json("settings"),
    _text("licence"),
    _number("created"),
)

treatments = Table(
    "treatments",
    metadata,
    _key("id"),
    _text("generator_id"),
    _text("detector_id"),
    _json("config"),
    _json("result"),
    _maybe("treated_id"),
    _maybe("round_id"),
    _number("created"),
)

rounds = Table(
    "rounds",
    metadata,
    _key("id"),
    _json("recipe"),
    _text("stage"),
    _text("state"),
    _json("results"),
    _text("message"),
    _number("created"),
    Index(None, "state"),
)

jobs = Table(
    "jobs",
    metadata,
    _key("id"),
    _text("kind"),
    _json("args"),
    _text("state"),
    _number("progress"),
    _text("message"),
    _json("result"),
    _text("error"),
    _text("requested_by"),
    _maybe("worker"),
    _flag("cancel_requested"),
    _number("created"),
    Column("started", Float),
    Column("heartbeat", Float),
    Column("finished", Float),
    Index(None, "state", "created"),
)

workers = Table(
    "workers",
    metadata,
    _key("id"),
    _text("host"),
    _whole("pid"),
    Column("devices", Tuples, nullable=False),
    _maybe("job_id"),
    _number("beat"),
)

studies = Table(
    "studies",
    metadata,
    _key("id"),
    _text("name"),
    _text("before_id"),
    _text("after_id"),
    Column("pairs", Tuples, nullable=False),
    Column("seed", BigInteger, nullable=False),
    _text("state"),
    _maybe("round_id"),
    _number("created"),
)

votes = Table(
    "votes",
    metadata,
    Column("study_id", Text, ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True),
    Column("pair", Integer, primary_key=True, autoincrement=False),
    _key("rater"),
    _key("question"),
    _text("choice"),
    _number("seconds"),
    _number("created"),
    Index(None, "rater"),
)

users = Table(
    "users",
    metadata,
    _key("name"),
    Column("roles", Tuples, nullable=False),
    _flag("active"),
    _number("created"),
    _text("password_hash"),
)

sessions = Table(
    "sessions",
    metadata,
    _key("token_hash"),
    Column("user", Text, ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
    _text("csrf"),
    _number("created"),
    _number("expires"),
    Index(None, "user"),
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("id", Integer, primary_key=True),
    _text("actor"),
    _text("action"),
    _text("subject"),
    _json("details"),
    _number("at"),
    Index(None, "action", "subject", "at"),
    Index(None, "actor"),
)

endpoints = Table(
    "endpoints",
    metadata,
    _key("id"),
    _text("kind"),
    _text("name"),
    _text("location"),
    _json("settings"),
    _number("created"),
)
