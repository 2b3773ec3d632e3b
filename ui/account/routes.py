"""The routes under /api/account: each acts on the signed-in person's own account."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from dataengine.errors import Conflict
from dataengine.records import ApiToken, User
from pipelines.services.admin import tokens, users
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


class NewToken(BaseModel):
    """Body of /api/account/tokens."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=1024)
    roles: list[str] = Field(max_length=10)
    days: int | Literal["never"] = tokens.DEFAULT_DAYS


class RevokedToken(BaseModel):
    """Body of /api/account/tokens/revoke: a token by its id."""

    model_config = ConfigDict(extra="forbid")
    id: str = Field(max_length=64)


def account_routes(workspace: Workspace) -> APIRouter:
    """Read the account, change its password, end its sessions, create and revoke its API tokens."""
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

    @routes.get("/api/account/tokens")
    def list_tokens(person: SignedIn) -> dict[str, object]:
        found = [] if person.local else tokens.list_tokens(workspace, person.name)
        return {
            "tokens": [token_fields(one) for one in found],
            "roles": list(tokens.grantable(User(name=person.name, roles=person.roles))),
            "days": tokens.DEFAULT_DAYS,
        }

    @routes.post("/api/account/tokens")
    def create_token(wanted: NewToken, person: SignedIn) -> dict[str, object]:
        name = with_account(person).name
        text, token = tokens.create_token(workspace, name, wanted.name, wanted.roles, wanted.days, name)
        return {"token": text, **token_fields(token)}

    @routes.post("/api/account/tokens/revoke")
    def revoke_token(wanted: RevokedToken, person: SignedIn) -> dict[str, str]:
        name = with_account(person).name
        return {"revoked": tokens.revoke_token(workspace, wanted.id, name, person=name).id}

    return routes


def token_fields(token: ApiToken) -> dict[str, object]:
    """A token as its owner sees it; `ended` is how it ended, or None."""
    return {
        "id": token.id,
        "name": token.name,
        "roles": list(token.roles),
        "created": token.created,
        "expires": token.expires,
        "used": token.used,
        "ended": tokens.ended(token),
    }


def with_account(person: Person) -> Person:
    """The person. Raises `Conflict` for the visitor of the start-up link, who has no account."""
    if person.local:
        raise Conflict("there are no accounts yet; add the first one on the Admin desk")
    return person
