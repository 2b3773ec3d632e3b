"""Joining a study by invitation: an admin creates a link; anyone who opens it in time can judge."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import RedirectResponse, Response

from dataengine.errors import AccessDenied, InputRefused
from dataengine.records import Invitation, Study, now
from pipelines.services.studies import invitations
from pipelines.services.studies.invitations import EXPIRED, Invite, admit, check_participant, hash_of
from storage.workspace import Workspace
from ui.web.access import ADMINS
from ui.web.gate import address_of
from ui.web.pages import render
from ui.web.sessions import Person, Requires, SessionManager
from ui.web.throttle import Throttle, site_of

Inviter = Annotated[Person, Requires(ADMINS, "inviting raters")]
Token = Annotated[str, Form(max_length=100)]
Participant = Annotated[str, Form(max_length=200)]


class EndInvitations(BaseModel):
    """The study whose links end."""

    model_config = ConfigDict(extra="forbid")
    study: str = Field(max_length=64)


def joining_routes(session_manager: SessionManager) -> APIRouter:
    """/join and the routes under /api/invitations."""
    routes, workspace = APIRouter(), session_manager.workspace
    guesses = Throttle(workspace, "invitation", session_manager.settings.login_failures)

    @routes.post("/api/invitations")
    def invite(wanted: Invite, person: Inviter) -> dict[str, Any]:
        """Create a link, which is shown only once."""
        token, made = invitations.invite(workspace, wanted, person.name)
        return {"path": f"/join?invitation={token}", "expires": made.expires, "places": made.places}

    @routes.post("/api/invitations/end")
    def end(wanted: EndInvitations, person: Inviter) -> dict[str, int]:
        """Expire the study's links; raters who have joined stay."""
        return {"ended": invitations.end_invitations(workspace, wanted.study, person.name)}

    @routes.get("/join")
    def show_invitation(request: Request, invitation: str = "", participant: str = "") -> Response:
        """The page behind an invitation link. `participant` is a person's id at Prolific or the like."""
        if has_session(session_manager, request):
            return RedirectResponse("/study", 303)
        try:
            study = invited(workspace, guesses, invitation, address_of(request))[1]
            check_participant(participant)
        except AccessDenied as error:
            return join_page("", "", as_sentence(error), 403)
        except InputRefused as error:
            return join_page("", "", as_sentence(error), 422)
        return join_page(study.name, invitation, participant=participant)

    @routes.post("/join")
    def join(request: Request, invitation: Token, participant: Participant = "") -> Response:
        """Create a guest account for the study, and redirect to it."""
        if has_session(session_manager, request):
            return RedirectResponse("/study", 303)
        try:
            found, study = invited(workspace, guesses, invitation, address_of(request))
            new = admit(workspace, found, study, participant)
        except AccessDenied as error:
            return join_page("", "", as_sentence(error), 403)
        except InputRefused as error:
            return join_page("", "", as_sentence(error), 422)
        answer = RedirectResponse(f"/study?view=judge&study={study.id}", 303)
        person = Person(name=new.name, roles=new.roles, csrf=new.csrf, token=new.token)
        return session_manager.create_session(request.headers, answer, person, new.seconds)

    return routes


def join_page(
    study: str, token: str, problem: str = "", status: int = 200, participant: str = ""
) -> Response:
    """The page behind an invitation: a button, or why the link does not work."""
    return render(
        "study/join.html", status, study=study, token=token, problem=problem, participant=participant
    )


def as_sentence(error: Exception) -> str:
    """The error as a sentence of its own."""
    text = str(error)
    return text[:1].upper() + text[1:] + "."


def has_session(session_manager: SessionManager, request: Request) -> bool:
    """Whether this browser has a session: one person with two accounts would vote twice."""
    return session_manager.person_in(request.headers)[0] is not None


def invited(workspace: Workspace, guesses: Throttle, token: str, address: str) -> tuple[Invitation, Study]:
    """A valid invitation and its study. Raises `AccessDenied`; only unknown links count as guesses."""
    with workspace.catalog(read_only=True) as catalog:
        found = catalog.invitations.find(hash_of(token))
        study = catalog.studies.get(found.study_id) if found else None
    if found is None or study is None:
        if not guesses.attempt(site_of(address)):
            raise AccessDenied("too many unknown invitation links from this address; wait ten minutes")
        raise AccessDenied(EXPIRED)
    if found.expires <= now() or found.taken >= found.places or study.state != "open":
        raise AccessDenied(EXPIRED)
    return found, study
