"""What operators watch: when images were queued, indexes by time, device memory; secrets and log of
webhooks."""

import base64
import secrets
import time
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"

INDEXES = (
    ("queue_items", "done", "queued"),
    ("queue_answers", "created"),
    ("labels", "created"),
    ("reviews", "created"),
    ("jobs", "finished"),
    ("jobs", "kind", "finished"),
    ("webhook_deliveries", "state", "next_at"),
    ("webhook_deliveries", "endpoint_id", "created"),
    ("webhook_deliveries", "created"),
)
FORMER_EVENTS = ["people needed", "engineers needed", "raters needed"]


def upgrade() -> None:
    """What is queued already counts since its image was made. Each webhook gets a secret and keeps its
    events; notices that were sent are not sent again."""
    op.add_column("queue_items", sa.Column("queued", sa.Float()))
    op.execute(
        "UPDATE queue_items SET queued = (SELECT created FROM images WHERE images.id = queue_items.image_id)"
    )
    op.add_column("workers", sa.Column("memory", sa.JSON(), nullable=False, server_default="{}"))
    webhooks = op.create_table(
        "webhooks",
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("former_secret", sa.Text(), nullable=False),
        sa.Column("former_until", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["endpoint_id"], ["endpoints.id"], name="fk_webhooks_endpoint_id_endpoints", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("endpoint_id", name="pk_webhooks"),
    )
    deliveries = op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Float(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("finished", sa.Float()),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["endpoints.id"],
            name="fk_webhook_deliveries_endpoint_id_endpoints",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
    )
    for table, *columns in INDEXES:
        op.create_index(f"ix_{table}_{'_'.join(columns)}", table, columns)
    connection = op.get_bind()
    hooks = connection.scalars(sa.text("SELECT id FROM endpoints WHERE kind = 'webhook'")).all()
    for id in hooks:
        row = {"endpoint_id": id, "events": FORMER_EVENTS, "secret": new_secret()}
        connection.execute(webhooks.insert().values(**row, former_secret="", former_until=0.0))
        move_sent(connection, deliveries, id)


def new_secret() -> str:
    """A secret in the form of Standard Webhooks, 32 random bytes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def move_sent(connection: sa.Connection, deliveries: sa.Table, endpoint_id: str) -> None:
    """Enter what the audit says was sent to this address."""
    sent = connection.scalars(
        sa.text(
            "SELECT DISTINCT subject FROM audit_events WHERE action = 'webhook.sent' AND subject LIKE :of"
        ),
        {"of": f"{endpoint_id}:%"},
    ).all()
    at = time.time()
    row: dict[str, Any] = {
        "endpoint_id": endpoint_id,
        "event": "",
        "subject": "",
        "body": "",
        "state": "delivered",
    }
    row |= {"attempts": 1, "next_at": at, "status": None, "error": "", "created": at, "finished": at}
    for id in sent:
        message_id = id.partition(":")[2]
        connection.execute(deliveries.insert().values(**row, id=id, message_id=message_id))
