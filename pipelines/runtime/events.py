"""Events that registered webhooks are told of: a message for each address, stored with the change itself.

    announce(catalog, "round finished", round_id, round_id, "Round … is finished.")

The caller commits, so a message exists if and only if what it tells has happened; a worker sends it
(`pipelines.worker.webhook_sender`). Messages hold kinds, ids and counts: no name, prompt, path or image.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from dataengine.records import STAGE_JOB, Delivery, Job, JobState, Webhook, digest, now
from storage.catalog import Catalog

MAX_TEXT = 500


def announce(
    catalog: Catalog,
    event: str,
    subject: str,
    key: str,
    text: str,
    data: Mapping[str, Any] | None = None,
    hooks: Iterable[Webhook] | None = None,
) -> int:
    """Store a message for each of these addresses (default: all) that is to be told of the event; returns
    their number.

    The same `key` is announced once to each address. `data` is for programs, `text` for people.
    """
    hooks = [hook for hook in (catalog.webhooks.list() if hooks is None else hooks) if event in hook.events]
    if not hooks:
        return 0
    id, at = message_id(event, key), now()
    body = message(id, event, subject, text, at, data or {})
    return catalog.deliveries.add_many(
        Delivery(
            id=delivery_id(hook.endpoint_id, id),
            endpoint_id=hook.endpoint_id,
            message_id=id,
            event=event,
            subject=subject,
            body=body,
            next_at=at,
            created=at,
        )
        for hook in hooks
    )


def message(id: str, event: str, subject: str, text: str, at: float, data: Mapping[str, Any]) -> str:
    """The JSON of a message: `type`, `timestamp` and `data` as Standard Webhooks advises, and for receivers
    of before `id`, `event`, `subject`, `text` and `at`."""
    text, moment = text[:MAX_TEXT], datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    fields = {
        "type": event.replace(" ", "."),
        "timestamp": moment.replace("+00:00", "Z"),
        "data": {"subject": subject, "text": text, **data},
        "id": id,
        "event": event,
        "subject": subject,
        "text": text,
        "at": at,
    }
    return json.dumps(fields, ensure_ascii=False)


def message_id(event: str, key: str) -> str:
    """The id of the message of an event, the same for every address."""
    return digest(event, key)


def delivery_id(endpoint_id: str, message_id: str) -> str:
    """The id of one message to one address."""
    return f"{endpoint_id}:{message_id}"


def announce_job(catalog: Catalog, job: Job, state: JobState) -> None:
    """Announce the end of a job outside rounds, unless somebody stopped it."""
    if job.kind == STAGE_JOB or state not in ("succeeded", "failed"):
        return
    data = {"kind": job.kind, "state": state}
    if state == "succeeded":
        announce(catalog, "job finished", job.id, job.id, f"The job {job.id} has finished.", data)
        return
    text = f"The job {job.id} has failed; its page tells why."
    announce(catalog, "job failed", job.id, job.id, text, data)
    if job.kind == "backup":
        text = "A backup has failed; the newest one is older than it should be."
        announce(catalog, "backup failed", job.id, job.id, text, data)


def announce_promotion(catalog: Catalog, detector_id: str) -> None:
    """Announce that a detector has become champion."""
    key = f"{detector_id} {now()}"
    text = f"The detector {detector_id} has become champion."
    announce(catalog, "detector promoted", detector_id, key, text)
