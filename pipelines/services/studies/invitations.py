"""Invite raters to a study, and admit them."""

import hashlib
import re
import secrets
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from dataengine.errors import AccessDenied, Conflict, InputRefused
from dataengine.records import AuditEvent, Guest, Invitation, Study, now
from storage import accounts
from storage.passwords import NO_PASSWORD
from storage.workspace import Workspace

EXPIRED = "this invitation has expired or is used up, or its study is closed; ask the sender for a new one"
_PARTICIPANT = re.compile(r"[A-Za-z0-9_-]{1,48}")
JOINED = "this participant has joined already; continue in the browser in which you began"


class Invite(BaseModel):
    """How long the link is valid, and for how many raters."""

    model_config = ConfigDict(extra="forbid")
    study: str = Field(max_length=64)
    hours: float = Field(default=72.0, gt=0, le=24 * 30)
    places: int = Field(default=11, ge=1, le=500)


@dataclass(frozen=True, kw_only=True)
class Admission:
    """A new rater's account and its first session."""

    name: str
    roles: tuple[str, ...]
    csrf: str
    token: str = field(repr=False)
    seconds: float


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def invite(workspace: Workspace, wanted: Invite, actor: str) -> tuple[str, Invitation]:
    """A new invitation and its secret token, which is not stored. Raises `Conflict` for a closed study and
    while there are no accounts.
    """
    token = secrets.token_urlsafe(24)
    with workspace.catalog() as catalog:
        if catalog.studies.get(wanted.study).state != "open":
            raise Conflict("this study is closed; no one can join it any more")
        if not catalog.users.count():
            raise Conflict("there are no accounts yet; add an admin before you invite raters")
        made = Invitation(
            token_hash=hash_of(token),
            study_id=wanted.study,
            created_by=actor,
            expires=now() + 3600 * wanted.hours,
            places=wanted.places,
        )
        catalog.invitations.add(made)
        details = {"hours": wanted.hours, "places": wanted.places}
        catalog.audit.add(
            AuditEvent(actor=actor, action="invitation.create", subject=wanted.study, details=details)
        )
        catalog.commit()
    return token, made


def end_invitations(workspace: Workspace, study_id: str, actor: str) -> int:
    """Expire the study's links; raters who have joined stay. Returns how many links ended. Raises
    `NotFound`.
    """
    with workspace.catalog() as catalog:
        ended = catalog.invitations.end(catalog.studies.get(study_id).id, now())
        catalog.audit.add(AuditEvent(actor=actor, action="invitation.end", subject=study_id))
        catalog.commit()
    return ended


def check_participant(participant: str) -> None:
    """Raise `InputRefused` unless an invitation's address may name this participant; "" is nobody."""
    if participant and not _PARTICIPANT.fullmatch(participant):
        raise InputRefused(
            "the participant id in this address is invalid: use 1 to 48 letters, digits, - and _; "
            "start again from the page that sent you here"
        )


def name_of_guest(study: Study, participant: str = "") -> str:
    """The account of a participant in this study; a random one for nobody in particular."""
    return f"rater-{participant}-{study.id[:6]}" if participant else f"rater-{secrets.token_hex(4)}"


def admit(workspace: Workspace, found: Invitation, study: Study, participant: str = "") -> Admission:
    """A new rater's session, which ends with the invitation. Raises `AccessDenied`, also for a participant
    who has joined already, `InputRefused` for an invalid participant id.

    No password matches what is stored for the account, so the session is its only way in.
    """
    check_participant(participant)
    name, at = name_of_guest(study, participant), now()
    with workspace.catalog() as catalog:
        if participant and catalog.guests.find(name):
            raise AccessDenied(JOINED)
        if not catalog.invitations.take(found.token_hash, at):
            raise AccessDenied(EXPIRED)
        accounts.create_user(catalog, name, NO_PASSWORD, ["rater"], f"invitation by {found.created_by}")
        catalog.guests.add(Guest(name=name, study_id=study.id))
        token, session = accounts.new_session(catalog, name, found.expires - at)
        catalog.audit.add(AuditEvent(actor=name, action="invitation.take", subject=study.id))
        catalog.commit()
    return Admission(name=name, roles=("rater",), csrf=session.csrf, token=token, seconds=found.expires - at)
