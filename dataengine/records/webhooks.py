"""Records of webhooks: what an address is told, and the messages that were sent to it."""

import base64
import secrets
from dataclasses import dataclass, field
from typing import Literal

from dataengine.records.identity import now

EVENTS = {
    "people needed": "A round waits for annotators.",
    "engineers needed": "A round has failed.",
    "raters needed": "A study is open for raters.",
    "job finished": "A job outside rounds has succeeded.",
    "job failed": "A job outside rounds has failed.",
    "round finished": "A round has gone through all its stages.",
    "detector promoted": "A detector has become champion.",
    "study finished": "A study was closed.",
    "backup failed": "A backup has failed.",
}
"""The events that an address can be told of, and what each means."""
DeliveryState = Literal["pending", "delivered", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """What a registered address of kind "webhook" is told, and the secrets that sign it.

    While `former_until` (epoch seconds) has not passed, messages carry a second signature, by the secret
    before the current one.
    """

    endpoint_id: str
    events: tuple[str, ...] = tuple(EVENTS)
    secret: str = field(repr=False)
    former_secret: str = field(default="", repr=False)
    former_until: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One message to one address: JSON text `body`, and how sending it went.

    `message_id` is the same at every attempt and for every address. `status` is the last HTTP status, None
    where there was no answer.
    """

    id: str
    endpoint_id: str
    message_id: str
    event: str
    subject: str
    body: str
    state: DeliveryState = "pending"
    attempts: int = 0
    next_at: float = field(default_factory=now)
    status: int | None = None
    error: str = ""
    created: float = field(default_factory=now)
    finished: float | None = None


def new_secret() -> str:
    """A secret in the form of Standard Webhooks: 32 random bytes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
