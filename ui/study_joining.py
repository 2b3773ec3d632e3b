"""Joining a study by an invitation: an admin makes a link, whoever opens it in time judges that one study."""

import hashlib
import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import RedirectResponse, Response

from dataengine.errors import AccessDenied, Conflict
from dataengine.records import AuditEvent, Guest, Invitation, Study, now
from storage import accounts
from storage.catalog import Catalog
from storage.workspace import Workspace
from ui.access import ACCESS, require
from ui.auth import COOKIE, Doorkeeper, Person, address_of, signed_in
from ui.pages import join_page

INVITING = ACCESS["/api/invitations"]
EXPIRED = "this invitation has expired, is used up, or its study is closed; ask whoever sent it for another"

Signed = Annotated[Person, Depends(signed_in)]
Token = Annotated[str, Form(max_length=100)]


def inviting(person: Signed) -> Person:
    """FastAPI dependency: an admin."""
    require(person.roles, INVITING, "inviting raters")
    return person


Inviter = Annotated[Person, Depends(inviting)]


class Invite(BaseModel):
    """How long the link works, and for how many."""

    model_config = ConfigDict(extra="forbid")
    study: str = Field(max_length=64)
    hours: float = Field(default=72.0, gt=0, le=24 * 30)
    places: int = Field(default=11, ge=1, le=500)


class EndInvitations(BaseModel):
    """Which study's links end."""

    model_config = ConfigDict(extra="forbid")
    study: str = Field(max_length=64)


def joining_routes(doorkeeper: Doorkeeper) -> APIRouter:
    """/join and the routes under /api/invitations."""
    routes, workspace = APIRouter(), doorkeeper.workspace

    @routes.post("/api/invitations")
    def invite(wanted: Invite, person: Inviter) -> dict[str, Any]:
        """Make a link; it is shown this once."""
        token = secrets.token_urlsafe(24)
        with workspace.catalog() as catalog:
            made = invitation(catalog, wanted, token, person)
            catalog.commit()
        return {"path": f"/join?invitation={token}", "expires": made.expires, "places": made.places}

    @routes.post("/api/invitations/end")
    def end(wanted: EndInvitations, person: Inviter) -> dict[str, int]:
        """Let the study's links expire now; who has joined stays."""
        with workspace.catalog() as catalog:
            ended = catalog.invitations.end(catalog.studies.get(wanted.study).id, now())
            catalog.audit.add(AuditEvent(actor=person.name, action="invitation.end", subject=wanted.study))
            catalog.commit()
        return {"ended": ended}

    @routes.get("/join")
    def door(request: Request, invitation: str = "") -> Response:
        """What the link opens."""
        if already_in(doorkeeper, request):
            return RedirectResponse("/study", 303)
        try:
            study = invited(doorkeeper, invitation, address_of(request))[1]
        except AccessDenied as error:
            return join_page("", "", str(error).capitalize() + ".", 403)
        return join_page(study.name, invitation)

    @routes.post("/join")
    def join(request: Request, invitation: Token) -> Response:
        """Open an account for that study, and go there."""
        if already_in(doorkeeper, request):
            return RedirectResponse("/study", 303)
        try:
            found, study = invited(doorkeeper, invitation, address_of(request))
            person, seconds = admitted(workspace, found, study)
        except AccessDenied as error:
            return join_page("", "", str(error).capitalize() + ".", 403)
        answer = RedirectResponse(f"/study?view=judge&study={study.id}", 303)
        return doorkeeper.let_in(answer, person, seconds)

    return routes


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def invitation(catalog: Catalog, wanted: Invite, token: str, person: Person) -> Invitation:
    """Write the invitation. Raises `Conflict` for a closed study and while there are no accounts."""
    if catalog.studies.get(wanted.study).state != "open":
        raise Conflict("this study is closed; nobody can join it any more")
    if person.local:
        raise Conflict("there are no accounts yet; add an admin first, since invitations make accounts")
    made = Invitation(
        token_hash=hash_of(token),
        study_id=wanted.study,
        created_by=person.name,
        expires=now() + 3600 * wanted.hours,
        places=wanted.places,
    )
    catalog.invitations.add(made)
    details = {"hours": wanted.hours, "places": wanted.places}
    catalog.audit.add(
        AuditEvent(actor=person.name, action="invitation.create", subject=wanted.study, details=details)
    )
    return made


def already_in(doorkeeper: Doorkeeper, request: Request) -> bool:
    """Whether this browser belongs to somebody: one person with two accounts would vote twice."""
    cookie = request.cookies.get(COOKIE, "")
    return bool(cookie) and doorkeeper.person(cookie) is not None


def invited(doorkeeper: Doorkeeper, token: str, address: str) -> tuple[Invitation, Study]:
    """The invitation that still holds, and its study. Raises `AccessDenied`; guessing is slowed down."""
    if doorkeeper.by_address.blocked(address):
        raise AccessDenied("too many failed attempts from this address; wait ten minutes")
    with doorkeeper.workspace.catalog(read_only=True) as catalog:
        found = catalog.invitations.find(hash_of(token))
        study = catalog.studies.get(found.study_id) if found else None
    if found is None or study is None:
        doorkeeper.by_address.fail(address)
        raise AccessDenied(EXPIRED)
    if found.expires <= now() or found.taken >= found.places or study.state != "open":
        raise AccessDenied(EXPIRED)
    return found, study


def admitted(workspace: Workspace, found: Invitation, study: Study) -> tuple[Person, float]:
    """A new rater's session, and its seconds: it ends with the invitation. Raises `AccessDenied`.

    The account's password is drawn and forgotten, so the session is its only way in.
    """
    name, password, at = f"rater-{secrets.token_hex(4)}", secrets.token_urlsafe(32), now()
    with workspace.catalog() as catalog:
        if not catalog.invitations.take(found.token_hash, at):
            raise AccessDenied(EXPIRED)
        accounts.create_user(catalog, name, password, ["rater"], f"invitation by {found.created_by}")
        catalog.guests.add(Guest(name=name, study_id=study.id))
        token, session = accounts.sign_in(catalog, name, password, found.expires - at)
        catalog.audit.add(AuditEvent(actor=name, action="invitation.take", subject=study.id))
        catalog.commit()
    return Person(name=name, roles=("rater",), csrf=session.csrf, token=token), found.expires - at
