"""The audit trail in words: for the Admin desk and its export."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ValidationError

from dataengine.csv_files import as_csv
from dataengine.records import AuditEvent
from pipelines.config import ComparisonRun, RefiningRun, RoundRecipe, TrainingRun, TreatmentRun
from storage.queries.audit import AuditFilter, audit_actors, count_events, events_of, names_of
from storage.repositories.accounts import BY_TOKEN
from storage.workspace import Workspace

TOPICS = {
    "user": "Accounts",
    "session": "Sign-ins",
    "password": "Passwords",
    "token": "API tokens",
    "job": "Jobs",
    "round": "Rounds",
    "label": "Reviews",
    "queue": "Work sent to people",
    "images": "Images",
    "run": "Runs",
    "gold": "Gold images",
    "repair": "Repairs",
    "benchmark": "Benchmarks",
    "detector": "Detectors",
    "generator": "Generators",
    "endpoint": "Models and endpoints",
    "class": "Label classes",
    "study": "Studies",
    "invitation": "Invitations",
    "webhook": "Webhooks",
    "settings": "Settings",
    "erase": "Erasures",
}
"""What actions begin with, and what a page calls them."""
VERBS = {
    "user.create": "added the account",
    "user.password": "changed the password of",
    "user.roles": "changed the roles of",
    "user.rename": "renamed the account",
    "user.open": "activated the account",
    "user.close": "deactivated the account",
    "user.remove": "deleted the account",
    "session.open": "signed in",
    "session.close": "signed out",
    "session.refused": "failed to sign in",
    "password.refused": "gave a wrong current password",
    "session.link": "made a sign-in link for",
    "session.end": "ended sessions of",
    "token.create": "created the API token",
    "token.revoke": "revoked the API token",
    "job.request": "requested",
    "job.cancel": "cancelled",
    "job.pause": "paused",
    "job.first": "moved to the front of the queue",
    "job.refuse-pickled": "refused stored work of an older version",
    "round.start": "started the round",
    "round.cancel": "cancelled the round",
    "round.resume": "resumed the round",
    "label.review": "reviewed the label of",
    "queue.send": "sent images to people",
    "queue.assign": "assigned images to people",
    "images.tag": "changed the tags of images",
    "images.split": "moved images to another split",
    "images.upload": "uploaded images",
    "run.rename": "renamed the run",
    "gold.choose": "made a gold image of",
    "gold.drop": "removed the gold image",
    "repair.accept": "accepted the repair",
    "repair.reject": "rejected the repair",
    "detector.promote": "promoted the detector",
    "detector.promote.refused": "was refused the promotion of",
    "detector.promote.overruled": "promoted, against the gate,",
    "detector.rollback": "rolled back to the detector",
    "detector.remove": "removed the detector",
    "detector.restore": "restored the detector",
    "generator.remove": "removed the generator",
    "generator.restore": "restored the generator",
    "endpoint.add": "registered",
    "endpoint.remove": "removed the entry",
    "class.add": "added the label class",
    "class.change": "changed the label class",
    "settings.change": "changed the settings of",
    "study.open": "opened the study",
    "study.close": "closed the study",
    "study.import": "imported a filled sheet into the study",
    "study.correct": "corrected an answer in the study",
    "invitation.create": "created an invitation to",
    "invitation.end": "ended the invitations to",
    "invitation.take": "joined by invitation",
    "webhook.sent": "sent a notice",
    "webhook.failed": "could not send a notice",
    "webhook.events": "chose the events of the webhook",
    "webhook.secret": "looked at the secret of the webhook",
    "webhook.rotate": "changed the secret of the webhook",
    "webhook.repeat": "sent a message again to the webhook",
    "erase.begin": "began an erasure",
    "erase.person": "erased a person",
    "erase.images": "erased images",
}
"""Actions as a verb before their subject; any other is shown with spaces for its dots."""
SETTINGS: dict[str, type[BaseModel]] = {
    "retrain": TrainingRun,
    "treat": TreatmentRun,
    "compare": ComparisonRun,
    "refine": RefiningRun,
    "round": RoundRecipe,
}
"""The settings of work by its kind; what equals their default is left out."""
MOST_FACTS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRow:
    """One event as a person reads it."""

    at: float
    who: str
    what: str
    subject: str
    details: str


def find_events(
    workspace: Workspace, wanted: AuditFilter, limit: int | None = None, offset: int = 0
) -> tuple[list[AuditRow], int]:
    """The matching events, newest first, and how many there are in all."""
    with workspace.catalog(read_only=True) as catalog:
        events, total = events_of(catalog, wanted, limit, offset), count_events(catalog, wanted)
        names = names_of(catalog, mentioned(events))
    return [in_words(event, names) for event in events], total


def list_actors(workspace: Workspace) -> list[str]:
    """Everybody who did something audited."""
    with workspace.catalog(read_only=True) as catalog:
        return audit_actors(catalog)


def audit_csv(workspace: Workspace, wanted: AuditFilter) -> str:
    """The matching events as a table with UTC times, the words, and the stored action and details."""
    with workspace.catalog(read_only=True) as catalog:
        events = events_of(catalog, wanted)
        names = names_of(catalog, mentioned(events))
    header = ("time_utc", "who", "what", "subject", "details", "action", "subject_id", "details_json")
    rows = (
        (
            datetime.fromtimestamp(event.at, UTC).isoformat(timespec="seconds"),
            row.who,
            row.what,
            row.subject,
            row.details,
            event.action,
            event.subject,
            json.dumps(event.details, ensure_ascii=False),
        )
        for event, row in ((event, in_words(event, names)) for event in events)
    )
    return as_csv(header, rows)


def in_words(event: AuditEvent, names: Mapping[str, str]) -> AuditRow:
    """An event as a person reads it; `names` are those of the ids that it mentions."""
    return AuditRow(
        at=event.at,
        who=event.actor,
        what=VERBS.get(event.action, event.action.replace(".", " ").replace("-", " ")),
        subject="" if event.subject == event.actor else names.get(event.subject, event.subject),
        details=", ".join(facts(event, names)),
    )


def facts(event: AuditEvent, names: Mapping[str, str]) -> list[str]:
    """The details as "name: value", a change as "name: before → after", settings as what was changed in
    them."""
    details = dict(event.details)
    by_token = details.pop(BY_TOKEN, None)
    kind = event.action.partition(".")[0]
    if kind == "job":
        kind = event.subject.rpartition("-")[0].partition("-2")[0]
        details |= details.pop("settings") if isinstance(details.get("settings"), dict) else {}
        details.pop("run", None)
    changed = list(differences(details.pop("before", None), details)) or list(
        leaves(details, defaults_of(kind))
    )
    told = [f"{name}: {shown(value, names)}" for name, value in changed if value not in ("", None, [], {})]
    more = len(told) - MOST_FACTS
    through = [f"by API token: {by_token}"] if by_token else []
    return told[:MOST_FACTS] + ([f"and {more} more"] if more > 0 else []) + through


def differences(before: Any, after: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What changed from `before`, which is the former value of the only entry of `after`, or of each."""
    if before is None or before == "":
        return
    if isinstance(before, dict):
        for name in dict.fromkeys([*before, *after]):
            if before.get(name) != after.get(name):
                yield name, (before.get(name), after.get(name))
    elif len(after) == 1:
        ((name, value),) = after.items()
        yield name, (before, value)
    else:
        yield "before", before
        yield from after.items()


def leaves(values: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The entries that differ from their default, those of sections as "section.name"."""
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, dict):
            yield from leaves(value, default if isinstance(default, dict) else {}, f"{prefix}{name}.")
        elif name not in defaults or value != default:
            yield f"{prefix}{name}", value


def defaults_of(kind: str) -> dict[str, Any]:
    """The default settings of a kind of work; empty for others, and where some setting has no default."""
    if kind not in SETTINGS:
        return {}
    try:
        return SETTINGS[kind]().model_dump(mode="json")
    except ValidationError:
        return {}


def shown(value: Any, names: Mapping[str, str]) -> str:
    """A value in a cell: a pair as a change, a list by commas, an id by its name."""
    if isinstance(value, tuple):
        return f"{shown(value[0], names)} → {shown(value[1], names)}"
    if isinstance(value, list):
        return ", ".join(shown(one, names) for one in value) or "none"
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return names.get(value, value) if isinstance(value, str) else str(value)


def mentioned(events: Iterable[AuditEvent]) -> Iterator[str]:
    """Every text of these events that may be an id."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            for one in value.values() if isinstance(value, dict) else value:
                yield from texts(one)

    for event in events:
        yield event.subject
        yield from texts(event.details)
