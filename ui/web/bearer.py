"""API tokens in requests: `Authorization: Bearer clinic_…`."""

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext, suppress
from urllib.parse import unquote_plus

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from dataengine.errors import ClinicError
from dataengine.records import now
from pipelines.services.admin import tokens
from storage.workspace import Workspace
from ui.web.access import role_words, within
from ui.web.middleware import refused
from ui.web.sessions import SEEN_SECONDS, Person

SCHEME = "bearer "
IN_QUERY = (
    "an API token in the address ends in logs and histories: send it in the header `Authorization: Bearer`, "
    "and revoke this one"
)
BROWSER_ONLY = ("/account", "/api/account", "/logout", "/api/logout")
"""What no token may ask for: a stolen one must not outlive itself."""
IN_BROWSER = "passwords, sessions and API tokens are managed in a browser, not with an API token"


class BearerTokens:
    """Finds the person of a request's API token."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.noted: dict[str, float] = {}

    def person(self, text: str) -> Person:
        """The token's owner, with the roles that both have. Raises `AccessDenied`."""
        holder = tokens.holder_of(self.workspace, text)
        return Person(
            name=holder.user.name,
            roles=holder.roles,
            csrf="",
            token="",
            must_change=holder.user.must_change,
            api_token=holder.token,
        )

    def use_is_due(self, person: Person | None) -> bool:
        """Whether the person's request came by a token whose use was not noted within a minute."""
        if person is None or person.api_token is None:
            return False
        return now() - self.noted.get(person.api_token.id, 0.0) >= SEEN_SECONDS

    def note_use(self, person: Person) -> None:
        """Store that the person's token was used; a full or busy database must not keep programs out."""
        assert person.api_token is not None
        self.noted[person.api_token.id] = now()
        with suppress(ClinicError):
            tokens.note_use(self.workspace, person.api_token.id)


def bearer_of(headers: Headers) -> str | None:
    """What the request sends as its bearer token; None if it sends none."""
    sent = headers.get("authorization", "")
    return sent[len(SCHEME) :].strip() if sent.lower().startswith(SCHEME) else None


def token_in_query(scope: Scope) -> bool:
    """Whether the address holds an API token, or what is named like one on the API."""
    query = unquote_plus(scope["query_string"].decode("latin-1"))
    named = any(part.lower().startswith(("token=", "access_token=")) for part in query.split("&"))
    return tokens.MARKED.search(query) is not None or (named and within(scope["path"], "/api"))


def unauthorised(reason: str, problem: str = "") -> Response:
    """The refusal of a request that is nobody's; `problem` is RFC 6750's code for a token's fault."""
    answer = refused(401, reason)
    answer.headers["WWW-Authenticate"] = f'Bearer error="{problem}"' if problem else "Bearer"
    return answer


def lacks(person: Person, wanted: Collection[str]) -> str:
    """Why a valid token does not suffice here."""
    held = f"has {', '.join(person.roles)}" if person.roles else "has lost all its roles, as its owner did"
    return f"this needs an API token with the {role_words(wanted)} role, and this one {held}"


def named_in_audit(person: Person | None) -> AbstractContextManager[None]:
    """Within the block, audit events name the person's API token, if the request came by one."""
    if person is None or person.api_token is None:
        return nullcontext()
    return tokens.done_by_token(person.api_token.name)
