"""Sessions behind a signed cookie, and the dependencies with which routes check roles.

With accounts, sessions are stored in the catalog (`storage.accounts`). Without accounts, anyone with the
start-up token has full access, on loopback only; these sessions live in memory until the first account.
"""

import hashlib
import hmac
import secrets
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request
from itsdangerous import BadSignature, Signer
from starlette.datastructures import Headers
from starlette.responses import Response

from dataengine.errors import AccessDenied, ClinicError
from dataengine.records import ROLES, ApiToken, AuditEvent, User, digest, now
from storage import accounts
from storage.workspace import Workspace
from ui.config import ServerConfig
from ui.web.access import require
from ui.web.cookies import (
    COOKIE,
    FORM_PATH,
    cookies_of,
    device_cookie,
    forget,
    form_cookie,
    is_secure,
    session_cookie,
)
from ui.web.middleware import is_loopback
from ui.web.throttle import Throttle, site_of

CSRF_HEADER = "X-Clinic-CSRF"
KEY_FILE = "session.key"
SEEN_SECONDS = 60.0
DEVICE_SECONDS = 90 * 24 * 3600
ALL_NAMES = 5
"""How many times as many wrong passwords one address may give for all names as for one."""
WAIT = "wait ten minutes, or ask an admin for a sign-in link"
NOBODY = "somebody"
REFUSALS_KEPT = 100
"""Refused sign-ins that the audit trail keeps of one hour, whoever sends more."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """A signed-in person. `csrf` must come with every change, `token` never leaves the cookie."""

    name: str
    roles: tuple[str, ...]
    csrf: str
    token: str = field(repr=False)
    local: bool = False
    must_change: bool = False
    """An admin chose the password: nothing but choosing another one is allowed."""
    api_token: ApiToken | None = None
    """What the request came by instead of a session, which has neither `csrf` nor `token` then."""

    @property
    def session_hash(self) -> str:
        """What the catalog stores of the session's token."""
        return hashlib.sha256(self.token.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class LocalSession:
    """A browser that opened the start-up link."""

    csrf: str
    expires: float


class SessionManager:
    """Opens, finds and ends sessions."""

    def __init__(self, workspace: Workspace, settings: ServerConfig) -> None:
        self.workspace = workspace
        self.settings = settings
        self.start_token = settings.start_token or secrets.token_urlsafe(24)
        self.by_person = Throttle(workspace, "person", settings.login_failures)
        self.by_address = Throttle(workspace, "address", settings.login_failures * ALL_NAMES)
        self.start_links = Throttle(workspace, "start link", settings.login_failures)
        self.refusals = Throttle(workspace, "refusal", REFUSALS_KEPT, seconds=3600)
        self.signer = Signer(signing_key(workspace), salt="clinic.session", digest_method=hashlib.sha256)
        self.devices = Signer(signing_key(workspace), salt="clinic.device", digest_method=hashlib.sha256)
        self.local: dict[str, LocalSession] = {}
        self.seen: dict[str, float] = {}

    def has_accounts(self) -> bool:
        """Whether the workspace has any account."""
        with self.workspace.catalog(read_only=True) as catalog:
            return catalog.users.count() > 0

    def open_to_token(self) -> bool:
        """Whether the start-up token opens the server: no accounts, and nobody else can reach it."""
        return is_loopback(self.settings.host) and not self.has_accounts()

    def sign_in(self, name: str, password: str, address: str, client: str = "", device: str = "") -> Person:
        """A new session of the browser `client`. Raises `AccessDenied` for wrong names, passwords, and too
        many attempts.

        Attempts count for the name and the address together, and for the address; those of a browser in
        which the person signed in before (`device_of`) for that browser alone. So what others try keeps
        nobody out, elsewhere or at the same address.
        """
        site = device or site_of(address)
        pair = device or f"{name}\n{site}"
        if not self.by_address.attempt(site):
            raise AccessDenied(f"too many failed attempts from this address; {WAIT}")
        if not self.by_person.attempt(pair):
            self.by_address.forgive(site)
            raise AccessDenied(f"too many failed attempts for this name from this address; {WAIT}")
        try:
            person = self.with_password(name, password, client)
        except AccessDenied:
            self.note_refusal(name)
            raise
        except ClinicError:
            self.by_person.forgive(pair)
            self.by_address.forgive(site)
            raise
        self.by_person.clear(pair)
        self.by_address.forgive(site)
        return person

    def enter_by_link(self, link: str, client: str) -> Person:
        """The session for a sign-in link of `clinic users link`, which counts no failures: nobody guesses
        256 random bits. Raises `AccessDenied`."""
        with self.workspace.catalog() as catalog:
            seconds = 3600 * self.settings.session_hours
            token, session = accounts.enter_by_link(catalog, link, seconds, client)
            user = catalog.users.get(session.user)
            catalog.commit()
        return person_with(user, session.csrf, token)

    def with_password(self, name: str, password: str, client: str) -> Person:
        """The session of whoever knows this password. Raises `AccessDenied`."""
        with self.workspace.catalog(read_only=True) as catalog:
            stored = catalog.users.password_hash(name)
        account = accounts.check_password(name, password, stored)
        with self.workspace.catalog() as catalog:
            token, session = accounts.enter(catalog, account, 3600 * self.settings.session_hours, client)
            user = catalog.users.get(session.user)
            catalog.commit()
        return person_with(user, session.csrf, token)

    def note_refusal(self, name: str) -> None:
        """Append a refused sign-in to the audit trail, of an unknown name without it: it may be a password
        that was typed into the wrong field.
        """
        if not self.refusals.attempt("all"):
            return
        with self.workspace.catalog() as catalog:
            subject = name if catalog.users.password_hash(name) is not None else ""
            actor = subject or NOBODY
            catalog.audit.add(AuditEvent(actor=actor, action="session.refused", subject=subject))
            catalog.commit()

    def adopt(self, person: Person, name: str) -> None:
        """Let the browser that made the first account go on as its person: its session becomes theirs."""
        session = self.local.get(person.token)
        if not person.local or session is None:
            return
        with self.workspace.catalog() as catalog:
            left = session.expires - now()
            accounts.open_session(catalog, name, person.token, session.csrf, left, "start-up link")
            catalog.commit()
        self.local.clear()

    def enter_with_token(self, start_token: str, address: str) -> Person:
        """A session for the start-up token. Raises `AccessDenied`."""
        right = hmac.compare_digest(start_token.encode(), self.start_token.encode())
        site = site_of(address)
        if self.start_links.blocked(site) or not (right and self.open_to_token()):
            self.start_links.fail(site)
            raise AccessDenied("this start-up link is invalid or has expired")
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
        """The person whose cookie this is; None if it is forged, expired or signed out."""
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
        return person_with(user, session.csrf, token)

    def note_seen(self, person: Person) -> None:
        """Store that the person was seen now, at most once a minute."""
        at = now()
        if person.local or at - self.seen.get(person.name, 0.0) < SEEN_SECONDS:
            return
        self.seen[person.name] = at
        # A full or busy database must not keep people out.
        with suppress(ClinicError), self.workspace.catalog() as catalog:
            catalog.users.set_seen(person.name, at)
            catalog.commit()

    def sign_out(self, person: Person) -> None:
        """End the session on the server, which invalidates the cookie."""
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

    def person_in(self, headers: Headers) -> tuple[Person | None, bool]:
        """The person whose session cookie the request carries, and whether it has the name that cookies had
        before they were named by port.
        """
        given = cookies_of(headers)
        if cookie := given.get(session_cookie(headers, self.is_secure(headers))):
            return self.person(cookie), False
        former = given.get(COOKIE)
        return (self.person(former), True) if former else (None, False)

    def create_session(
        self, headers: Headers, response: Response, person: Person, seconds: float | None = None
    ) -> Response:
        """Begin the session of the browser that sent the request with these headers: the response with its
        cookie, which lasts `seconds`, or as long as sign-ins do.
        """
        response.set_cookie(
            session_cookie(headers, self.is_secure(headers)),
            self.signer.sign(person.token).decode(),
            max_age=int(3600 * self.settings.session_hours if seconds is None else seconds),
            httponly=True,
            samesite="lax",
            secure=self.is_secure(headers),
        )
        response.delete_cookie(form_cookie(headers, self.is_secure(headers)), path=FORM_PATH)
        return response

    def remember_device(self, headers: Headers, response: Response, name: str) -> None:
        """Let the browser prove, at its next sign-ins, that this person signed in there."""
        device = f"{digest(name)}:{secrets.token_urlsafe(12)}"
        response.set_cookie(
            device_cookie(headers, self.is_secure(headers)),
            self.devices.sign(device).decode(),
            max_age=DEVICE_SECONDS,
            httponly=True,
            samesite="lax",
            secure=self.is_secure(headers),
        )

    def device_of(self, headers: Headers, name: str) -> str:
        """What names the browser if this person signed in there before; "" for others and for forgeries."""
        cookie = cookies_of(headers).get(device_cookie(headers, self.is_secure(headers)), "")
        try:
            device = self.devices.unsign(cookie).decode()
        except (BadSignature, UnicodeError):
            return ""
        return device if device.startswith(f"{digest(name)}:") else ""

    def end_session(self, headers: Headers, response: Response) -> Response:
        """The response, telling the browser to drop its session cookie."""
        return forget(response, session_cookie(headers, self.is_secure(headers)), COOKIE)

    def is_secure(self, headers: Headers) -> bool:
        """Whether cookies for the browser that sent these headers are marked Secure."""
        return is_secure(headers, self.settings.secure_cookies)

    def form_token(self, nonce: str) -> str:
        """The token that the sign-in form must send with its cookie."""
        return self.signer.get_signature(f"form:{nonce}").decode()

    @staticmethod
    def local_person(token: str, session: LocalSession) -> Person:
        return Person(name="local", roles=ROLES, csrf=session.csrf, token=token, local=True)


def person_with(user: User, csrf: str, token: str) -> Person:
    """The person of an account, in a session."""
    return Person(name=user.name, roles=user.roles, csrf=csrf, token=token, must_change=user.must_change)


def signing_key(workspace: Workspace) -> bytes:
    """The workspace's key for cookies, made once, readable by its owner alone."""
    return workspace.secret(KEY_FILE, lambda: secrets.token_bytes(32))


def person_of(request: Request) -> Person:
    """The signed-in person. The gate has already refused anyone else."""
    person = getattr(request.state, "person", None)
    if not isinstance(person, Person):
        raise AccessDenied("sign in first")
    return person


async def signed_in(request: Request) -> Person:
    """`person_of` as a FastAPI dependency; async because it never blocks, which saves a thread."""
    return person_of(request)


SignedIn = Annotated[Person, Depends(signed_in)]


def Requires(wanted: Collection[str], action: str) -> Any:
    """A FastAPI dependency: the signed-in person, who must have one of the roles.

    `Annotated[Person, Requires(MAKERS, "creating studies")]` as a parameter, or in a router's `dependencies`.
    Others are refused with 403 and a sentence that names the action and the roles.
    """

    async def allowed(person: SignedIn) -> Person:
        require(person.roles, wanted, action)
        return person

    return Depends(allowed)
