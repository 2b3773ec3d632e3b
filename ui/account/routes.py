"""The routes under /api/account: each acts on the signed-in person's own account."""

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from dataengine.errors import Conflict
from pipelines.services.admin import users
from storage.workspace import Workspace
from ui.web.sessions import Person, SignedIn


class NewPassword(BaseModel):
    """Body of /api/account/password."""

    model_config = ConfigDict(extra="forbid")
    current: str = Field(max_length=1024)
    password: str = Field(max_length=1024)


class EndSession(BaseModel):
    """Body of /api/account/sessions/end: one session by its id, or all but this one."""

    model_config = ConfigDict(extra="forbid")
    id: str | None = Field(default=None, max_length=64)


def account_routes(workspace: Workspace) -> APIRouter:
    """Read the account, change its password, end its sessions."""
    routes = APIRouter()

    @routes.get("/api/account")
    def account(person: SignedIn) -> dict[str, object]:
        sessions = [] if person.local else users.sessions_of(workspace, person.name)
        return {
            "name": person.name,
            "roles": list(person.roles),
            "local": person.local,
            "guest": not person.local and users.is_guest(workspace, person.name),
            "must_change": person.must_change,
            "sessions": [
                {
                    "id": users.session_id(one),
                    "client": one.client,
                    "created": one.created,
                    "expires": one.expires,
                    "current": one.token_hash == person.session_hash,
                }
                for one in sessions
            ],
        }

    @routes.post("/api/account/password")
    def password(wanted: NewPassword, person: SignedIn) -> dict[str, bool]:
        users.change_own_password(workspace, with_account(person).token, wanted.current, wanted.password)
        return {"changed": True}

    @routes.post("/api/account/sessions/end")
    def end(wanted: EndSession, person: SignedIn) -> dict[str, int]:
        name = with_account(person).name
        if wanted.id is None:
            return {"ended": users.end_sessions(workspace, name, name, but=person.session_hash)}
        return {"ended": users.end_session(workspace, name, wanted.id, name)}

    return routes


def with_account(person: Person) -> Person:
    """The person. Raises `Conflict` for the visitor of the start-up link, who has no account."""
    if person.local:
        raise Conflict("there are no accounts yet; add the first one on the Admin desk")
    return person
