"""Sends the messages of webhooks: from a worker, on a separate thread, at least once each.

Input: messages that were stored with what they tell, and rounds and studies that wait for people. Output: one
POST per attempt, and the log. Cost: at most `services.operation.webhooks.SECONDS` each. A message that is not
taken is sent again with growing pauses, for three days; the row says when, so that any worker goes on after a
kill.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dataengine.errors import ClinicError
from dataengine.records import AuditEvent, Delivery, DeliveryState, Endpoint, Webhook, now
from pipelines.runtime.events import announce, delivery_id, message_id
from pipelines.services import rounds
from pipelines.services.operation.webhooks import GONE, Answer, attempt
from storage.catalog import Catalog
from storage.workspace import Workspace

log = logging.getLogger("clinic.worker")

PAUSES = (5.0, 60.0, 5 * 60.0, *(hours * 3600.0 for hours in (0.5, 2, 5, 10, 14, 20, 24)))
"""Seconds before the second attempt and the following ones; after the last a message has failed."""
JITTER = 0.1
SWEEP_SECONDS = 2.0
CLAIM_SECONDS = 60.0
"""How long a message is one worker's; if that is killed meanwhile, another one sends it then."""
AT_ONCE = 50
KEPT_SECONDS, FORGET_SECONDS = 30 * 86_400.0, 3600.0
"""How long the log is kept, and how often it is shortened."""
FAILED = "webhook.failed"

Send = Callable[[Endpoint, Webhook, str, str], Answer]


@dataclass(frozen=True, slots=True)
class Pending:
    """What waits for people: arguments of `announce`. Of what happened at a time (epoch seconds) only the
    addresses are told that were registered by then."""

    event: str
    subject: str
    key: str
    text: str
    data: dict[str, Any]
    happened: float | None = None


def pending_events(catalog: Catalog) -> Iterator[Pending]:
    """Everything that waits for people."""
    for row in catalog.rounds.in_state("waiting", "failed"):
        if row.state == "waiting":
            waiting = catalog.queue.remaining(row.id)
            text = f"Round {row.id} waits for people: {waiting} images to label."
            key = f"{row.id} {row.stage}"
            yield Pending("people needed", row.id, key, text, {"images": waiting})
        elif (job := rounds.stage_job(catalog, row)) is not None:
            text = f"Round {row.id} failed at {row.stage}; an engineer can resume it."
            data = {"stage": row.stage}
            yield Pending("engineers needed", row.id, job.id, text, data, job.finished or 0.0)
    for study in catalog.studies.list():
        if study.state == "open":
            text = f"A blind study of {len(study.pairs)} pairs is open for raters."
            yield Pending("raters needed", study.id, study.id, text, {"pairs": len(study.pairs)})


class WebhookSender:
    """Sends what is due until stopped."""

    def __init__(self, workspace: Workspace, send: Send = attempt) -> None:
        self.workspace = workspace
        self.send = send
        self._forgot = float("-inf")

    def run(self, ending: threading.Event) -> None:
        """Send what is due every `SWEEP_SECONDS` until `ending` is set."""
        while not ending.wait(SWEEP_SECONDS):
            try:
                self.sweep(ending)
            except ClinicError as error:
                log.warning("webhooks are delayed: %s", error)
            except Exception:
                log.exception("webhooks failed; retrying")

    def sweep(self, ending: threading.Event) -> int:
        """Send all that is due; returns how many messages were taken. After a failure the others to the same
        address wait for the next sweep, so that a silent one does not delay the rest."""
        with self.workspace.catalog(read_only=True) as catalog:
            hooks = {hook.endpoint_id: hook for hook in catalog.webhooks.list()}
            endpoints = {one.id: one for one in catalog.endpoints.of_kind("webhook")}
        if not hooks:
            return 0
        self._announce(hooks, endpoints)
        with self.workspace.catalog(read_only=True) as catalog:
            due = catalog.deliveries.due(now(), AT_ONCE)
        silent: set[str] = set()
        taken = 0
        for delivery in due:
            if ending.is_set():
                break
            id = delivery.endpoint_id
            if id in silent or id not in hooks or id not in endpoints or not self._claim(delivery):
                continue
            answer = self.send(endpoints[id], hooks[id], delivery.message_id, delivery.body)
            self._settle(endpoints[id], delivery, answer)
            taken += answer.taken
            if not answer.taken:
                silent.add(id)
        return taken

    def _announce(self, hooks: Mapping[str, Webhook], endpoints: Mapping[str, Endpoint]) -> None:
        """Store messages of what waits for people, and shorten the log now and then."""
        with self.workspace.catalog(read_only=True) as catalog:
            wanted = {
                delivery_id(id, message_id(one.event, one.key)): (one, hook)
                for one in pending_events(catalog)
                for id, hook in hooks.items()
                if one.event in hook.events and was_registered(endpoints.get(id), one.happened)
            }
            known = catalog.deliveries.known(wanted)
        new = [each for id, each in wanted.items() if id not in known]
        shorten = time.monotonic() - self._forgot > FORGET_SECONDS
        if not new and not shorten:
            return
        with self.workspace.catalog() as catalog:
            for one, hook in new:
                announce(catalog, one.event, one.subject, one.key, one.text, one.data, [hook])
            if shorten:
                self._forgot = time.monotonic()
                catalog.deliveries.forget(now() - KEPT_SECONDS)
            catalog.commit()

    def _claim(self, delivery: Delivery) -> bool:
        with self.workspace.catalog() as catalog:
            mine = catalog.deliveries.claim(delivery, now() + CLAIM_SECONDS)
            catalog.commit()
        return mine

    def _settle(self, endpoint: Endpoint, delivery: Delivery, answer: Answer) -> None:
        """Record how an attempt went; one that failed is repeated after a pause, unless it was the last or
        the receiver is gone. The address, which may contain a secret, is not logged or audited."""
        tries, at = delivery.attempts + 1, now()
        lost = not answer.taken and (tries > len(PAUSES) or answer.status == GONE)
        state: DeliveryState = "delivered" if answer.taken else "failed" if lost else "pending"
        pause = 0.0 if state != "pending" else pause_after(tries, answer.retry_after)
        with self.workspace.catalog() as catalog:
            catalog.deliveries.settle(delivery.id, state, answer.status, answer.error, at + pause, at)
            if lost:
                details = {"webhook": endpoint.name, "event": delivery.event, "about": delivery.subject}
                event = AuditEvent(actor="worker", action=FAILED, subject=delivery.id, details=details)
                catalog.audit.add(event)
            catalog.commit()
        if not answer.taken:
            log.warning("webhook %s, try %d of %d: %s", endpoint.name, tries, len(PAUSES) + 1, answer.error)


def was_registered(endpoint: Endpoint | None, at: float | None) -> bool:
    """Whether there was the address at that time; for None, whether there is."""
    return endpoint is not None and (at is None or endpoint.created <= at)


def pause_after(tries: int, asked: float = 0.0) -> float:
    """Seconds after the attempt of that number, or as many as the receiver asked for, at most a day; with
    jitter, so that a receiver that was away is not flooded."""
    return max(PAUSES[tries - 1], min(asked, PAUSES[-1])) * random.uniform(1.0, 1.0 + JITTER)
