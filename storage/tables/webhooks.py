"""Tables of webhooks: the secrets and events of each address, and what was sent to it."""

from sqlalchemy import Column, ForeignKey, Index, Integer, Table, Text

from storage.tables.columns import (
    Tuples,
    float_,
    integer,
    key,
    metadata,
    optional_float,
    text,
)

# Apart from `endpoints`, whose rows are listed: nothing here but the signing needs the secrets.
webhooks = Table(
    "webhooks",
    metadata,
    Column("endpoint_id", Text, ForeignKey("endpoints.id", ondelete="CASCADE"), primary_key=True),
    Column("events", Tuples, nullable=False),
    text("secret"),
    text("former_secret"),
    float_("former_until"),
)

# `message_id` is that of the notice, the same for every address.
webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    key("id"),
    Column("endpoint_id", Text, ForeignKey("endpoints.id", ondelete="CASCADE"), nullable=False),
    text("message_id"),
    text("event"),
    text("subject"),
    text("body"),
    text("state"),
    integer("attempts"),
    float_("next_at"),
    Column("status", Integer),
    text("error"),
    float_("created"),
    optional_float("finished"),
    Index(None, "state", "next_at"),
    Index(None, "endpoint_id", "created"),
    Index(None, "created"),
)
