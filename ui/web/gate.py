"""The authentication middleware."""

import hmac
from urllib.parse import parse_qs, urlencode

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dataengine.errors import AccessDenied, ClinicError
from ui.web.access import PUBLIC, AccessTable, may, role_words, within
from ui.web.bearer import (
    BROWSER_ONLY,
    IN_BROWSER,
    IN_QUERY,
    BearerTokens,
    bearer_of,
    lacks,
    named_in_audit,
    token_in_query,
    unauthorised,
)
from ui.web.cookies import COOKIE, forget
from ui.web.logs import logger
from ui.web.middleware import RETRY_SECONDS, SAFE_METHODS, refused
from ui.web.pages import message_page
from ui.web.sessions import CSRF_HEADER, SessionManager

UNAVAILABLE = "the catalog's database does not answer; try again in a minute, or ask an admin"
"""What people who are not signed in are told: the reason, in the server's log, can name the database."""

SESSION_ENDED = (
    "you are signed out; sign in again in another tab, then repeat this: what the page shows is kept, also "
    "what you drew"
)
"""What a Gradio page shows when its session has ended."""

ACCOUNT = "/account"
BEFORE_CHANGE = (ACCOUNT, "/api/account", "/api/session", "/classes.css", "/logout", "/api/logout")
"""What a person may ask for whose password an admin chose."""
CHANGE = "choose a password of your own first, under /account"
SIGNING_OUT = ("/logout", "/api/logout")


class AuthMiddleware:
    """Lets a request through only if the access table lists its path for the person's roles.

    Everything under /api that changes state must carry the session's CSRF token. A program sends an API token
    instead of cookie and CSRF token.
    """

    def __init__(self, app: ASGIApp, session_manager: SessionManager, access: AccessTable) -> None:
        self.app = app
        self.access = access
        self.session_manager = session_manager
        self.bearer = BearerTokens(session_manager.workspace)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            answer = await self.refusal(scope)
        except ClinicError as error:
            logger.error("failed", extra={"path": scope["path"], "reason": str(error)})
            answer = refused(503, UNAVAILABLE)
            answer.headers["Retry-After"] = str(RETRY_SECONDS)
        if scope.get("state", {}).get("rename_cookie"):
            send = self.renaming(scope, send)
        person = scope.get("state", {}).get("person")
        try:
            with named_in_audit(person):
                await (answer or self.app)(scope, receive, send)
        finally:
            # After the answer, since it waits for the database's lock.
            if self.bearer.use_is_due(person):
                await run_in_threadpool(self.bearer.note_use, person)

    def renaming(self, scope: Scope, send: Send) -> Send:
        """Sends the session cookie under its new name with the answer, and drops the former one."""
        headers, person = Headers(scope=scope), scope["state"]["person"]
        renamed = forget(self.session_manager.create_session(headers, Response(), person), COOKIE)
        fields = [field for field in renamed.raw_headers if field[0] == b"set-cookie"]

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["path"] not in SIGNING_OUT:
                message["headers"] = [*message["headers"], *fields]
            await send(message)

        return sending

    async def refusal(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        wanted = self.access.allowed_roles(path)
        bearer = bearer_of(headers)
        html = bearer is None and "text/html" in headers.get("accept", "")
        page = html and scope["method"] in SAFE_METHODS
        if token_in_query(scope):
            return refused(400, IN_QUERY)
        if wanted == PUBLIC:
            return None
        person, former = None, False
        if bearer is not None:
            try:
                person = await run_in_threadpool(self.bearer.person, bearer)
            except AccessDenied as error:
                return unauthorised(str(error), "invalid_token")
        elif "cookie" in headers:
            person, former = await run_in_threadpool(self.session_manager.person_in, headers)
        scope.setdefault("state", {})["person"] = person
        scope["state"]["rename_cookie"] = former and person is not None
        if person is None:
            gone = SESSION_ENDED if self.access.is_gradio(path) else "sign in first"
            return to_sign_in(scope) if page else unauthorised(gone)
        if not wanted:
            return (
                message_page("Page not found", "This page does not exist.", 404)
                if page
                else refused(404, "not found")
            )
        if person.must_change and not any(within(path, free) for free in BEFORE_CHANGE):
            return (
                RedirectResponse(f"{ACCOUNT}?{urlencode({'next': with_query(scope)})}", 303)
                if page
                else refused(403, CHANGE)
            )
        if person.api_token is not None and any(within(path, one) for one in BROWSER_ONLY):
            return refused(403, IN_BROWSER)
        if not may(person.roles, wanted):
            text = (
                f"You need the {role_words(wanted)} role for this page. Ask an admin for access."
                if person.api_token is None
                else lacks(person, wanted)
            )
            return message_page("Access denied", text, 403) if page else refused(403, text)
        if person.api_token is None and scope["method"] not in SAFE_METHODS and path.startswith("/api/"):
            sent = headers.get(CSRF_HEADER, "")
            if not hmac.compare_digest(sent.encode(), person.csrf.encode()):
                return refused(403, f"the {CSRF_HEADER} header is missing or wrong; sign in again")
        return None


def to_sign_in(scope: Scope) -> Response:
    """Redirect to the sign-in page with the target and a start-up token, if any."""
    query = parse_qs(scope["query_string"].decode("latin-1"))
    if "token" in query:
        carried = {"next": scope["path"], "token": query["token"][0]}
    else:
        carried = {"next": with_query(scope)}
    return RedirectResponse(f"/login?{urlencode(carried)}", 303)


def with_query(scope: Scope) -> str:
    """The path that is asked for, with its query."""
    asked = scope["query_string"].decode("latin-1")
    return f"{scope['path']}?{asked}" if asked else str(scope["path"])


def address_of(request: Request) -> str:
    return request.client.host if request.client else ""
