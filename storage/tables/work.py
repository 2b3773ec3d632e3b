"""Tables of rounds, jobs and workers."""

from sqlalchemy import JSON, Column, Float, ForeignKey, Index, Integer, Table, Text

from storage.tables.columns import Tuples, boolean, float_, integer, json, key, metadata, optional_text, text

rounds = Table(
    "rounds",
    metadata,
    key("id"),
    json("recipe"),
    text("stage"),
    text("state"),
    json("results"),
    text("message"),
    float_("created"),
    Index(None, "state"),
)

jobs = Table(
    "jobs",
    metadata,
    key("id"),
    text("kind"),
    json("args"),
    text("state"),
    float_("progress"),
    text("message"),
    json("result"),
    text("error"),
    text("requested_by"),
    optional_text("worker"),
    boolean("cancel_requested"),
    boolean("pause_requested"),
    float_("created"),
    Column("started", Float),
    Column("heartbeat", Float),
    Column("finished", Float),
    # How often in a row the job failed alike, see `Jobs.count_failure`.
    Column("failure", Text, nullable=False, server_default=""),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("failed_at", Float, nullable=False, server_default="0"),
    Index(None, "state", "created"),
    Index(None, "finished"),
    Index(None, "kind", "finished"),
)

# Files of jobs, for workers and web servers with a common database but no common disk, as ordered pieces.
job_files = Table(
    "job_files",
    metadata,
    key("job_id"),
    key("name"),
    Column("number", Integer, primary_key=True, autoincrement=False),
    text("text"),
)

# Seconds that a job held a device: of one machine's kind, such as "cpu" or a card's name.
device_seconds = Table(
    "device_seconds",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    key("device"),
    float_("seconds"),
)

workers = Table(
    "workers",
    metadata,
    key("id"),
    text("host"),
    integer("pid"),
    Column("devices", Tuples, nullable=False),
    optional_text("job_id"),
    float_("beat"),
    # Bytes by device, `{"cuda:0": {"used": …, "total": …}}`.
    Column("memory", JSON, nullable=False, server_default="{}"),
)
