"""Who is it, and may they: sessions behind a signed cookie, sign-in, sign-out, the gate before every route.

With accounts, sessions live in the catalog (`storage.accounts`). Without any, whoever holds the start-up
token may do everything, on loopback alone; these sessions live in this process until the first account.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Form, Request
from itsdangerous import BadSignature, Signer
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dataengine.errors import AccessDenied, ClinicError
from dataengine.records import ROLES, AuditEvent, now
from pipelines.requests import workers_alive
from storage import accounts
from storage.workspace import Workspace
from ui.access import AREAS, PUBLIC, allowed_roles, may
from ui.config import ServerConfig
from ui.pages import login_page, message_page, start_link_page
from ui.security import SAFE_METHODS, Throttle, is_loopback, refused

COOKIE = "clinic_session"
FORM_COOKIE = "clinic_form"
CSRF_HEADER = "X-Clinic-CSRF"
KEY_FILE = "session.key"


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody signed in. `csrf` must come with every change, `token` never leaves the cookie."""

    name: str
    roles: tuple[str, ...]
    csrf: str
    token: str = field(repr=False)
    local: bool = False


@dataclass(frozen=True, kw_only=True)
class LocalSession:
    """A browser that opened the start-up link."""

    csrf: str
    expires: float


class Doorkeeper:
    """Opens, finds and ends sessions."""

    def __init__(self, workspace: Workspace, settings: ServerConfig) -> None:
        self.workspace = workspace
        self.settings = settings
        self.start_token = settings.start_token or secrets.token_urlsafe(24)
        self.by_address = Throttle(settings.login_failures)
        self.signer = Signer(signing_key(workspace.path), salt="clinic.session", digest_method=hashlib.sha256)
        self.local: dict[str, LocalSession] = {}

    def has_accounts(self) -> bool:
        """Whether anybody has an account."""
        with self.workspace.catalog(read_only=True) as catalog:
            return catalog.users.count() > 0

    def open_to_token(self) -> bool:
        """Whether the start-up token opens the server: no accounts, and nobody else can reach it."""
        return is_loopback(self.settings.host) and not self.has_accounts()

    def sign_in(self, name: str, password: str, address: str) -> Person:
        """A new session. Raises `AccessDenied` for wrong names, passwords, and too many attempts."""
        if self.by_address.blocked(address):
            raise AccessDenied("too many failed attempts from this address; wait ten minutes")
        with self.workspace.catalog() as catalog:
            try:
                seconds = 3600 * self.settings.session_hours
                token, session = accounts.sign_in(catalog, name, password, seconds)
                roles = catalog.users.get(session.user).roles
            except AccessDenied:
                self.by_address.fail(address)
                raise
            finally:
                catalog.commit()
        self.by_address.clear(address)
        return Person(name=session.user, roles=roles, csrf=session.csrf, token=token)

    def enter_with_token(self, start_token: str, address: str) -> Person:
        """A session for whoever holds the start-up token. Raises `AccessDenied`."""
        right = hmac.compare_digest(start_token.encode(), self.start_token.encode())
        if self.by_address.blocked(address) or not (right and self.open_to_token()):
            self.by_address.fail(address)
            raise AccessDenied("that start-up link is not, or no longer, valid")
        token = secrets.token_urlsafe(32)
        session = LocalSession(
            csrf=secrets.token_urlsafe(32), expires=now() + 3600 * self.settings.session_hours
        )
        self.local = {key: kept for key, kept in self.local.items() if kept.expires > now()} | {
            token: session
        }
        self.note("local", "session.open", "start-up token")
        return self.local_person(token, session)

    def person(self, cookie: str) -> Person | None:
        """Who the cookie belongs to; None if it is forged, expired or signed out."""
        try:
            token = self.signer.unsign(cookie).decode()
        except (BadSignature, UnicodeError):
            return None
        local = self.local.get(token)
        if local is not None:
            return self.local_person(token, local) if local.expires > now() and self.open_to_token() else None
        with self.workspace.catalog(read_only=True) as catalog:
            found = accounts.session_of(catalog, token)
        if found is None:
            return None
        session, user = found
        return Person(name=user.name, roles=user.roles, csrf=session.csrf, token=token)

    def sign_out(self, person: Person) -> None:
        """End the session on the server; the cookie is worth nothing from then on."""
        self.local.pop(person.token, None)
        with self.workspace.catalog() as catalog:
            accounts.sign_out(catalog, person.token)
            catalog.audit.add(AuditEvent(actor=person.name, action="session.close", subject=person.name))
            catalog.commit()

    def note(self, actor: str, action: str, subject: str) -> None:
        """Append an audit event."""
        with self.workspace.catalog() as catalog:
            catalog.audit.add(AuditEvent(actor=actor, action=action, subject=subject))
            catalog.commit()

    def let_in(self, response: Response, person: Person, seconds: float | None = None) -> Response:
        """The response with the session's cookie, which lasts `seconds`, or as long as sign-ins do."""
        response.set_cookie(
            COOKIE,
            self.signer.sign(person.token).decode(),
            max_age=int(3600 * self.settings.session_hours if seconds is None else seconds),
            httponly=True,
            samesite="lax",
            secure=self.settings.secure_cookies,
        )
        response.delete_cookie(FORM_COOKIE, path="/login")
        return response

    def form_token(self, nonce: str) -> str:
        """What the sign-in form must carry along with its cookie."""
        return self.signer.get_signature(f"form:{nonce}").decode()

    @staticmethod
    def local_person(token: str, session: LocalSession) -> Person:
        return Person(name="local", roles=ROLES, csrf=session.csrf, token=token, local=True)


def signing_key(folder: Path) -> bytes:
    """The workspace's key for cookies, made once, readable by its owner alone."""
    path = folder / KEY_FILE
    with contextlib.suppress(FileExistsError):
        # Linking a finished file is atomic: of two servers starting together both read the same key.
        draft = folder / f"{KEY_FILE}.{secrets.token_hex(8)}"
        if not path.exists():
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(secrets.token_bytes(32))
                os.link(draft, path)
            finally:
                draft.unlink()
    return path.read_bytes()


def person_of(request: Request) -> Person:
    """Who asks. The gate has already refused strangers."""
    person = getattr(request.state, "person", None)
    if not isinstance(person, Person):
        raise AccessDenied("sign in first")
    return person


async def signed_in(request: Request) -> Person:
    """`person_of` as a FastAPI dependency; like all that never wait it is async, which saves a thread."""
    return person_of(request)


class Gate:
    """Lets a request through only if the access table lists its path for the person's roles.

    Everything under /api that changes state must carry the session's CSRF token.
    """

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper) -> None:
        self.app = app
        self.doorkeeper = doorkeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            answer = await self.refusal(scope)
        except ClinicError as error:
            answer = refused(503, str(error))
        await (answer or self.app)(scope, receive, send)

    async def refusal(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        wanted = allowed_roles(path)
        page = scope["method"] in SAFE_METHODS and "text/html" in headers.get("accept", "")
        if wanted == PUBLIC:
            return None
        cookie = cookies(headers).get(COOKIE, "")
        person = await run_in_threadpool(self.doorkeeper.person, cookie) if cookie else None
        scope.setdefault("state", {})["person"] = person
        if person is None:
            return to_sign_in(scope) if page else refused(401, "sign in first")
        if not wanted:
            return (
                message_page("Nothing here", "This page does not exist.", 404)
                if page
                else refused(404, "not found")
            )
        if not may(person.roles, wanted):
            text = f"This needs one of the roles {', '.join(sorted(wanted))}. Ask an admin to add one."
            return message_page("Not for your role", text, 403) if page else refused(403, text)
        if scope["method"] not in SAFE_METHODS and path.startswith("/api/"):
            sent = headers.get(CSRF_HEADER, "")
            if not hmac.compare_digest(sent.encode(), person.csrf.encode()):
                return refused(403, f"the {CSRF_HEADER} header is missing or wrong; sign in again")
        return None


def cookies(headers: Headers) -> dict[str, str]:
    """The request's cookies; none if the header is malformed."""
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def to_sign_in(scope: Scope) -> Response:
    """Redirect to the sign-in page, taking along where to go and a start-up token."""
    asked = scope["query_string"].decode("latin-1")
    query = parse_qs(asked)
    if "token" in query:
        carried = {"next": scope["path"], "token": query["token"][0]}
    else:
        carried = {"next": f"{scope['path']}?{asked}" if asked else scope["path"]}
    return RedirectResponse(f"/login?{urlencode(carried)}", 303)


def safe_target(target: str) -> str:
    """A place of ours to go to after signing in, with its query; anything else becomes the home page."""
    return target if target.partition("?")[0] in {area.path for area in AREAS} else "/"


def address_of(request: Request) -> str:
    return request.client.host if request.client else ""


class Credentials(BaseModel):
    """Body of /api/login."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=128)
    password: str = Field(max_length=1024)


def auth_routes(doorkeeper: Doorkeeper) -> APIRouter:
    """Sign-in, sign-out, and who am I."""
    routes = APIRouter()

    def form(request: Request, target: str, problem: str = "", status: int = 200) -> Response:
        if doorkeeper.open_to_token():
            return start_link_page(problem, status)
        nonce = request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(16)
        page = login_page(doorkeeper.form_token(nonce), safe_target(target), problem, status)
        secure = doorkeeper.settings.secure_cookies
        page.set_cookie(FORM_COOKIE, nonce, path="/login", httponly=True, samesite="strict", secure=secure)
        return page

    @routes.get("/login")
    def show_form(request: Request, next: str = "/", token: str = "") -> Response:
        if not token:
            return form(request, next)
        try:
            person = doorkeeper.enter_with_token(token, address_of(request))
        except AccessDenied as error:
            return form(request, next, str(error).capitalize(), 403)
        return doorkeeper.let_in(RedirectResponse(safe_target(next), 303), person)

    @routes.post("/login")
    def sign_in(
        request: Request,
        name: Annotated[str, Form(max_length=128)],
        password: Annotated[str, Form(max_length=1024)],
        form_token: Annotated[str, Form(max_length=256)] = "",
        next: Annotated[str, Form(max_length=2048)] = "/",
    ) -> Response:
        nonce = request.cookies.get(FORM_COOKIE, "")
        if not nonce or not hmac.compare_digest(form_token.encode(), doorkeeper.form_token(nonce).encode()):
            return form(request, next, "This form has grown old, please try again.", 403)
        try:
            person = doorkeeper.sign_in(name, password, address_of(request))
        except AccessDenied as error:
            return form(request, next, str(error).capitalize() + ".", 403)
        return doorkeeper.let_in(RedirectResponse(safe_target(next), 303), person)

    @routes.post("/api/login")
    def sign_in_json(request: Request, credentials: Credentials) -> Response:
        person = doorkeeper.sign_in(credentials.name, credentials.password, address_of(request))
        return doorkeeper.let_in(JSONResponse({"csrf": person.csrf, "roles": list(person.roles)}), person)

    @routes.post("/logout")
    def sign_out_form(request: Request, csrf: Annotated[str, Form(max_length=256)] = "") -> Response:
        person = person_of(request)
        if not hmac.compare_digest(csrf.encode(), person.csrf.encode()):
            raise AccessDenied("the form's token is missing or wrong; go back and try again")
        doorkeeper.sign_out(person)
        return forgotten(RedirectResponse("/login", 303))

    @routes.post("/api/logout")
    def sign_out_json(request: Request) -> Response:
        doorkeeper.sign_out(person_of(request))
        return forgotten(JSONResponse({"signed_out": True}))

    @routes.get("/api/session")
    def session(request: Request) -> dict[str, object]:
        person = person_of(request)
        return {
            "name": person.name,
            "roles": list(person.roles),
            "csrf": person.csrf,
            "local": person.local,
            "worker": bool(workers_alive(doorkeeper.workspace)),
            "areas": [{"path": a.path, "title": a.title} for a in AREAS if may(person.roles, a.roles)],
        }

    return routes


def forgotten(response: Response) -> Response:
    """The response, telling the browser to drop its session cookie."""
    response.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return response
