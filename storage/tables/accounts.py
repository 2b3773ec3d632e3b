"""Tables of accounts, sessions, API tokens, identities, audit events and endpoints."""

from sqlalchemy import Column, ForeignKey, Index, Integer, Table, Text

from storage.tables.columns import (
    Tuples,
    boolean,
    float_,
    json,
    key,
    location,
    metadata,
    optional_float,
    text,
)

users = Table(
    "users",
    metadata,
    key("name"),
    Column("roles", Tuples, nullable=False),
    boolean("active"),
    float_("created"),
    text("password_hash"),
    boolean("must_change"),
    optional_float("seen"),
)

sessions = Table(
    "sessions",
    metadata,
    key("token_hash"),
    Column("user", Text, ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
    text("csrf"),
    float_("created"),
    float_("expires"),
    text("client"),
    Index(None, "user"),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    key("id"),
    Column("user", Text, ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
    text("name"),
    Column("roles", Tuples, nullable=False),
    text("token_hash"),
    float_("created"),
    optional_float("expires"),
    optional_float("revoked"),
    optional_float("used"),
    Index(None, "user"),
)

identities = Table(
    "identities",
    metadata,
    key("issuer"),
    key("subject"),
    Column("user", Text, ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
    float_("created"),
    Index(None, "user"),
)

# Failed attempts that a throttle counts, by the hash of whose they are; `at` is in epoch seconds.
failed_attempts = Table(
    "failed_attempts",
    metadata,
    Column("id", Integer, primary_key=True),
    text("key"),
    float_("at"),
    Index(None, "key", "at"),
    Index(None, "at"),
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("id", Integer, primary_key=True),
    text("actor"),
    text("action"),
    location("subject"),
    json("details"),
    float_("at"),
    Index(None, "action", "subject", "at"),
    Index(None, "actor"),
)

endpoints = Table(
    "endpoints",
    metadata,
    key("id"),
    text("kind"),
    text("name"),
    location("location"),
    json("settings"),
    float_("created"),
)
