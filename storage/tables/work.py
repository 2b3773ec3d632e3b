"""Tables of rounds, jobs and workers."""

from sqlalchemy import Column, Float, Index, Integer, Table

from storage.tables.columns import Tuples, flag, json, key, maybe, metadata, number, whole, words

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
