"""Tables of accounts, sessions, audit events and endpoints."""

from sqlalchemy import Column, ForeignKey, Index, Integer, Table, Text

from storage.tables.columns import Tuples, flag, json, key, metadata, number, words

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
