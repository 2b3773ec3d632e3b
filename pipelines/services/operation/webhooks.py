"""Webhooks: which events an address is told of, its secrets, the log of what was sent, and sending.

Messages are signed by the scheme of Standard Webhooks, https://www.standardwebhooks.com, with a secret of
their address each. They are sent at least once: a receiver drops what has an id that it knows.
"""

import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dataengine.errors import ClinicError, InputRefused, NotFound, ServiceAbsent
from dataengine.outgoing import checked_client, networks_of
from dataengine.records import EVENTS, AuditEvent, Delivery, Endpoint, Webhook, new_secret, now
from pipelines.runtime.events import delivery_id, message
from pipelines.services.endpoints import check_target
from storage.catalog import Catalog
from storage.workspace import Workspace

if TYPE_CHECKING:
    import httpx

SECRET = "CLINIC_WEBHOOK_SECRET"
"""A secret of all addresses, whose signature was there before theirs."""
SECONDS = 5.0
ROTATION_HOURS = 24.0
"""How long messages carry the former secret's signature, too."""
MOST_ROTATION_HOURS = 24.0 * 30
LOG_LENGTH = 100
TEST = "test"
GONE = 410


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookView:
    """A registered webhook as an admin sees it: without its secrets, and only the server of its address."""

    id: str
    name: str
    server: str
    events: tuple[str, ...]
    rotating_until: float | None
    pending: int
    failed: int
    newest: Delivery | None


def list_webhooks(workspace: Workspace) -> list[WebhookView]:
    """All registered webhooks, oldest first."""
    with workspace.catalog(read_only=True) as catalog:
        endpoints = {one.id: one for one in catalog.endpoints.of_kind("webhook")}
        counts = catalog.deliveries.summaries()
        return [
            WebhookView(
                id=hook.endpoint_id,
                name=endpoints[hook.endpoint_id].name,
                server=server_of(endpoints[hook.endpoint_id]),
                events=hook.events,
                rotating_until=hook.former_until if hook.former_until > now() else None,
                pending=counts.get(hook.endpoint_id, (0, 0))[0],
                failed=counts.get(hook.endpoint_id, (0, 0))[1],
                newest=next(iter(catalog.deliveries.of_endpoint(hook.endpoint_id, 1)), None),
            )
            for hook in catalog.webhooks.list()
            if hook.endpoint_id in endpoints
        ]


def server_of(endpoint: Endpoint) -> str:
    """The part of a webhook's address that is no secret."""
    return f"{urlsplit(endpoint.location).scheme}://{urlsplit(endpoint.location).netloc}/…"


def webhook_named(workspace: Workspace, name: str) -> str:
    """The id of the webhook with that id or name. Raises `NotFound`, `InputRefused` if several have it."""
    found = [one.id for one in list_webhooks(workspace) if name in (one.id, one.name)]
    if not found:
        raise NotFound(f"there is no webhook {name!r}; `clinic webhooks` lists them")
    if len(found) > 1:
        raise InputRefused(f"{len(found)} webhooks are called {name!r}; give the id: {', '.join(found)}")
    return found[0]


def set_events(workspace: Workspace, endpoint_id: str, events: Collection[str], actor: str) -> Webhook:
    """Choose what an address is told of. Raises `InputRefused` for unknown events, `NotFound`."""
    chosen = tuple(event for event in EVENTS if event in set(events))
    if unknown := set(events) - set(EVENTS):
        raise InputRefused(f"unknown events {', '.join(sorted(unknown))}; there are {', '.join(EVENTS)}")
    with workspace.catalog() as catalog:
        hook = replace(found_webhook(catalog, endpoint_id), events=chosen)
        catalog.webhooks.set(hook)
        add_event(catalog, actor, "webhook.events", endpoint_id, events=list(chosen))
        catalog.commit()
    return hook


def reveal_secret(workspace: Workspace, endpoint_id: str, actor: str) -> str:
    """The secret with which the receiver checks signatures; who asked is in the audit. Raises `NotFound`."""
    with workspace.catalog() as catalog:
        hook = found_webhook(catalog, endpoint_id)
        add_event(catalog, actor, "webhook.secret", endpoint_id)
        catalog.commit()
    return hook.secret


def rotate_secret(workspace: Workspace, endpoint_id: str, actor: str, hours: float = ROTATION_HOURS) -> str:
    """Give an address a new secret and return it; for `hours` messages carry both signatures, with 0 only the
    new one. Raises `InputRefused`, `NotFound`."""
    if not 0 <= hours <= MOST_ROTATION_HOURS:
        raise InputRefused(f"both secrets can be used for 0 to {MOST_ROTATION_HOURS:g} hours, not {hours:g}")
    with workspace.catalog() as catalog:
        old = found_webhook(catalog, endpoint_id)
        until = now() + 3600 * hours
        former = old.secret if hours else ""
        new = replace(old, secret=new_secret(), former_secret=former, former_until=until)
        catalog.webhooks.set(new)
        add_event(catalog, actor, "webhook.rotate", endpoint_id, hours=hours)
        catalog.commit()
    return new.secret


def list_deliveries(workspace: Workspace, endpoint_id: str, limit: int = LOG_LENGTH) -> list[Delivery]:
    """The newest messages to an address. Raises `NotFound`."""
    with workspace.catalog(read_only=True) as catalog:
        found_webhook(catalog, endpoint_id)
        return catalog.deliveries.of_endpoint(endpoint_id, limit)


def send_again(workspace: Workspace, id: str, actor: str) -> None:
    """Have a worker send a message once more, with the same id. Raises `NotFound`."""
    with workspace.catalog() as catalog:
        delivery = catalog.deliveries.get(id)
        if not delivery.body:
            raise InputRefused("this message was sent by an older version, which kept no copy of it")
        catalog.deliveries.repeat(id, now())
        add_event(catalog, actor, "webhook.repeat", delivery.endpoint_id, event=delivery.event)
        catalog.commit()


def send_test(workspace: Workspace, endpoint_id: str) -> Delivery:
    """Send a signed test message now, and enter it in the log.

    Raises `ServiceAbsent` unless it is taken, `InputRefused` for an address that is not allowed.
    """
    with workspace.catalog(read_only=True) as catalog:
        endpoint, hook = catalog.endpoints.get(endpoint_id), found_webhook(catalog, endpoint_id)
    at, id = now(), secrets.token_hex(16)
    body = message(id, TEST, "", "A test by an admin.", at, {})
    check_target(endpoint.location)
    answer = attempt(endpoint, hook, id, body)
    delivery = Delivery(
        id=delivery_id(endpoint_id, id),
        endpoint_id=endpoint_id,
        message_id=id,
        event=TEST,
        subject="",
        body=body,
        state="delivered" if answer.taken else "failed",
        attempts=1,
        status=answer.status,
        error=answer.error,
        created=at,
        finished=now(),
    )
    with workspace.catalog() as catalog:
        catalog.deliveries.add(delivery)
        catalog.commit()
    if not answer.taken:
        raise ServiceAbsent(f"the webhook did not take the test message: {answer.error}; check its address")
    return delivery


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """How a receiver answered one attempt: the HTTP status if there was one, and in how many seconds it asked
    to be tried again."""

    taken: bool
    status: int | None = None
    error: str = ""
    retry_after: float = 0.0


def attempt(endpoint: Endpoint, hook: Webhook, message_id: str, body: str) -> Answer:
    """Send one message once. Its error names no address, which may hold a secret."""
    import httpx

    data = body.encode()
    try:
        response = post(endpoint.location, data, signed_headers(hook, message_id, data))
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ClinicError, ValueError) as error:
        reason = "the address is not allowed" if isinstance(error, InputRefused) else type(error).__name__
        return Answer(taken=False, error=reason)
    status = response.status_code
    if 200 <= status < 300:
        return Answer(taken=True, status=status)
    pause = seconds_asked(response.headers.get("Retry-After", "")) if status in (429, 503) else 0.0
    return Answer(taken=False, status=status, error=f"it answered {status}", retry_after=pause)


def post(location: str, body: bytes, headers: dict[str, str]) -> "httpx.Response":
    """Send one request to the registered address only: redirects are not followed, and the answer's body is
    not read.

    Raises `InputRefused` for an address that is not allowed, `httpx.HTTPError` if the request fails.
    """
    check_target(location)
    # httpx logs every URL at INFO, and a webhook's URL may contain a secret.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with (
        checked_client(networks_of(location), timeout=SECONDS) as client,
        client.stream("POST", location, content=body, headers=headers) as response,
    ):
        return response


def signed_headers(hook: Webhook, message_id: str, body: bytes) -> dict[str, str]:
    """The headers of a message that is sent now: a signature by each secret that is valid."""
    from standardwebhooks import Webhook as Signer

    at = datetime.now(UTC)
    valid = [hook.secret, *([hook.former_secret] if hook.former_secret and hook.former_until > now() else [])]
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "artifact-clinic",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Signer(one).sign(message_id, at, body.decode()) for one in valid),
    }
    if shared := os.environ.get(SECRET):
        signature = hmac.new(shared.encode(), body, hashlib.sha256).hexdigest()
        headers["X-Clinic-Signature"] = f"sha256={signature}"
    return headers


def seconds_asked(retry_after: str) -> float:
    """The pause that a `Retry-After` header asks for, in seconds or as a date; 0 without one."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - now())
    return 0.0


def found_webhook(catalog: Catalog, endpoint_id: str) -> Webhook:
    """Raises `NotFound` for an id that is none of a webhook."""
    hook = catalog.webhooks.find(endpoint_id)
    if hook is None:
        raise NotFound(f"there is no webhook {endpoint_id!r}; list them to see the ids in use")
    return hook


def add_event(catalog: Catalog, actor: str, action: str, endpoint_id: str, **details: object) -> None:
    """Audit an action on a webhook by its name: its address may hold a secret."""
    name = catalog.endpoints.get(endpoint_id).name
    catalog.audit.add(AuditEvent(actor=actor, action=action, subject=name, details=dict(details)))
