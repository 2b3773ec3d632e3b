"""Webhooks: notify other services, as JSON over HTTP, when annotators, raters or engineers are needed.

An admin registers the address; workers send. Input: rounds that wait or have failed, studies that are open.
Output: one POST for each of them and address. Cost: at most `TRIES` requests of `SECONDS` each, on a separate
thread. Notices contain roles and counts only: no name, prompt or image leaves the workspace.
"""

import hashlib
import hmac
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import httpx

from dataengine.errors import ClinicError
from dataengine.outgoing import checked_client, networks_of
from dataengine.records import AuditEvent, Endpoint, digest, now
from pipelines.services import rounds
from pipelines.services.endpoints import check_target
from storage.catalog import Catalog
from storage.workspace import Workspace

log = logging.getLogger("clinic.worker")

SECRET = "CLINIC_WEBHOOK_SECRET"
SECONDS = 5.0
TRIES = 3
PAUSE_SECONDS = 5.0
SWEEP_SECONDS = 2.0
MAX_TEXT = 500
SENT, FAILED = "webhook.sent", "webhook.failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """The payload of a webhook. The same `id` may arrive twice; receivers should drop duplicates."""

    id: str
    event: str
    subject: str
    text: str
    at: float


def pending_notices(catalog: Catalog, since: float) -> Iterator[Notice]:
    """Notices of everything that needs attention; failures from before `since` are omitted."""
    for row in catalog.rounds.in_state("waiting", "failed"):
        if row.state == "waiting":
            waiting = catalog.queue.remaining(row.id)
            text = f"Round {row.id} waits for people: {waiting} images to label."
            yield make_notice("people needed", row.id, f"{row.id} {row.stage}", text)
        else:
            job = rounds.stage_job(catalog, row)
            if job is not None and (job.finished or 0.0) >= since:
                text = f"Round {row.id} failed at {row.stage}; an engineer can resume it."
                yield make_notice("engineers needed", row.id, job.id, text)
    for study in catalog.studies.list():
        if study.state == "open":
            text = f"A blind study of {len(study.pairs)} pairs is open for raters."
            yield make_notice("raters needed", study.id, study.id, text)


def make_notice(event: str, subject: str, key: str, text: str) -> Notice:
    """A notice whose id is derived from event and key, so that it is sent only once."""
    return Notice(id=digest(event, key), event=event, subject=subject, text=text[:MAX_TEXT], at=now())


def post(location: str, body: bytes) -> None:
    """Send one request to the registered address only: redirects are errors, the response body is not read.

    Raises `InputRefused` for an address that is not allowed, `httpx.HTTPError` if the request fails.
    """
    check_target(location)
    # httpx logs every URL at INFO, and a webhook's URL may contain a secret.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    headers = {"Content-Type": "application/json", "User-Agent": "artifact-clinic"}
    if secret := os.environ.get(SECRET):
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers["X-Clinic-Signature"] = f"sha256={signature}"
    with (
        checked_client(networks_of(location), timeout=SECONDS) as client,
        client.stream("POST", location, content=body, headers=headers) as response,
    ):
        response.raise_for_status()


class Webhooks:
    """Sends pending notices, once to each address, until stopped."""

    def __init__(self, workspace: Workspace, send: Callable[[str, bytes], None] = post) -> None:
        self.workspace = workspace
        self.send = send

    def run(self, ending: threading.Event) -> None:
        """Send pending notices every `SWEEP_SECONDS` until `ending` is set."""
        while not ending.wait(SWEEP_SECONDS):
            try:
                self.sweep(ending)
            except ClinicError as error:
                log.warning("webhooks are delayed: %s", error)

    def sweep(self, ending: threading.Event) -> int:
        """Send all pending notices; returns how many were delivered."""
        return sum(self.deliver(hook, each, ending) for hook, each in self.claim())

    def claim(self) -> Sequence[tuple[Endpoint, Notice]]:
        """Claim notices that have not been sent yet, in the audit log, so that no other worker sends them
        too."""
        with self.workspace.catalog(read_only=True) as catalog:
            hooks = catalog.endpoints.of_kind("webhook")
            due = [(hook, each) for hook in hooks for each in pending_notices(catalog, hook.created)]
            new = [pair for pair in due if not catalog.audit.count(SENT, delivery_key(*pair), 0.0)]
        if not new:
            return []
        with self.workspace.catalog() as catalog:
            mine = [pair for pair in new if not catalog.audit.count(SENT, delivery_key(*pair), 0.0)]
            for hook, each in mine:
                details = {"webhook": hook.name, "event": each.event, "about": each.subject}
                catalog.audit.add(
                    AuditEvent(actor="worker", action=SENT, subject=delivery_key(hook, each), details=details)
                )
            catalog.commit()
        return mine

    def deliver(self, hook: Endpoint, each: Notice, ending: threading.Event) -> bool:
        """Send one notice, with retries. The address, which may contain a secret, is not logged or
        audited."""
        body = json.dumps(asdict(each), ensure_ascii=False).encode()
        for attempt in range(1, TRIES + 1):
            try:
                self.send(hook.location, body)
            except (httpx.HTTPError, httpx.InvalidURL, OSError, ClinicError, ValueError) as error:
                response = getattr(error, "response", None)
                why = type(error).__name__ if response is None else response.status_code
                log.warning("webhook %s, try %d of %d: %s", hook.name, attempt, TRIES, why)
                if attempt == TRIES or ending.wait(PAUSE_SECONDS * attempt):
                    break
            else:
                return True
        with self.workspace.catalog() as catalog:
            details = {"webhook": hook.name, "event": each.event, "about": each.subject}
            catalog.audit.add(
                AuditEvent(actor="worker", action=FAILED, subject=delivery_key(hook, each), details=details)
            )
            catalog.commit()
        return False


def delivery_key(hook: Endpoint, each: Notice) -> str:
    """The audit key of one notice to one address."""
    return f"{hook.id}:{each.id}"
