"""The catalog's tables.

Columns are named after the fields of `dataengine.records`, so that rows and records map one to one. Rows that
describe an image die with it; snapshots keep their items, since lineage must outlive an erasure.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from storage.annotation_tables import comments, drafts, gold_images, gold_scores, receipts
from storage.columns import (
    Tuples,
    flag,
    image_key,
    json,
    key,
    maybe,
    metadata,
    number,
    whole,
    words,
)
from storage.curation_tables import (
    benchmark_items,
    benchmarks,
    image_features,
    label_map_facts,
    queue_takers,
)
from storage.study_tables import guests, invitations

__all__ = [
    "Tuples",
    "benchmark_items",
    "benchmarks",
    "comments",
    "drafts",
    "gold_images",
    "gold_scores",
    "guests",
    "image_features",
    "invitations",
    "label_map_facts",
    "metadata",
    "queue_takers",
    "receipts",
]

REVISION = "0005"
"""The newest migration; a catalog that names another one is older (upgrade) or newer (refused)."""

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

# `given` counts the answers of distinct people; `done` is set once it reaches `opinions`.
queue_items = Table(
    "queue_items",
    metadata,
    image_key(),
    key("round_id"),
    key("kind"),
    number("priority"),
    whole("opinions"),
    words("reason"),
    whole("given"),
    flag("done"),
    Index("ix_queue_items_next", "kind", "done", "priority", "image_id"),
    Index(None, "round_id", "done"),
)

queue_answers = Table(
    "queue_answers",
    metadata,
    key("image_id"),
    key("round_id"),
    key("kind"),
    key("author"),
    flag("skipped"),
    words("reason"),
    number("created"),
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
    key("id"),
    Column("image_id", Text, ForeignKey("images.id", ondelete="CASCADE"), nullable=False),
    words("round_id"),
    words("annotator"),
    words("kind"),
    number("expires"),
    UniqueConstraint("image_id", "annotator"),
    Index(None, "annotator"),
    Index(None, "expires"),
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

rounds = Table(
    "rounds",
    metadata,
    key("id"),
    json("recipe"),
    words("stage"),
    words("state"),
    json("results"),
    words("message"),
    number("created"),
    Index(None, "state"),
)

jobs = Table(
    "jobs",
    metadata,
    key("id"),
    words("kind"),
    json("args"),
    words("state"),
    number("progress"),
    words("message"),
    json("result"),
    words("error"),
    words("requested_by"),
    maybe("worker"),
    flag("cancel_requested"),
    flag("pause_requested"),
    number("created"),
    Column("started", Float),
    Column("heartbeat", Float),
    Column("finished", Float),
    Index(None, "state", "created"),
)

# What jobs write, where workers and web server share a database and no disk: a file is its pieces in order.
job_files = Table(
    "job_files",
    metadata,
    key("job_id"),
    key("name"),
    Column("number", Integer, primary_key=True, autoincrement=False),
    words("text"),
)

workers = Table(
    "workers",
    metadata,
    key("id"),
    words("host"),
    whole("pid"),
    Column("devices", Tuples, nullable=False),
    maybe("job_id"),
    number("beat"),
)

studies = Table(
    "studies",
    metadata,
    key("id"),
    words("name"),
    words("before_id"),
    words("after_id"),
    Column("pairs", Tuples, nullable=False),
    Column("seed", BigInteger, nullable=False),
    words("state"),
    maybe("round_id"),
    json("design"),
    words("created_by"),
    number("created"),
)

votes = Table(
    "votes",
    metadata,
    Column("study_id", Text, ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True),
    Column("pair", Integer, primary_key=True, autoincrement=False),
    key("rater"),
    key("question"),
    words("choice"),
    number("seconds"),
    number("created"),
    Index(None, "rater"),
)

users = Table(
    "users",
    metadata,
    key("name"),
    Column("roles", Tuples, nullable=False),
    flag("active"),
    number("created"),
    words("password_hash"),
)

sessions = Table(
    "sessions",
    metadata,
    key("token_hash"),
    Column("user", Text, ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
    words("csrf"),
    number("created"),
    number("expires"),
    Index(None, "user"),
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("id", Integer, primary_key=True),
    words("actor"),
    words("action"),
    words("subject"),
    json("details"),
    number("at"),
    Index(None, "action", "subject", "at"),
    Index(None, "actor"),
)

endpoints = Table(
    "endpoints",
    metadata,
    key("id"),
    words("kind"),
    words("name"),
    words("location"),
    json("settings"),
    number("created"),
)
