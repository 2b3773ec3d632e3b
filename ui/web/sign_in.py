"""The routes of the sign-in page."""

import hmac
import re
import secrets
from collections.abc import Iterable
from functools import partial
from typing import Annotated

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Form, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse, Response

from dataengine.errors import AccessDenied
from pipelines.services.queue import workers_alive
from storage.passwords import AT_ONCE
from ui.web.access import may
from ui.web.cookies import FORM_PATH, SIGN_ON_END, form_cookie
from ui.web.desk import Desk, Site, listed
from ui.web.gate import address_of
from ui.web.pages import login_page, start_link_page
from ui.web.sessions import Person, SignedIn, person_of

BROWSERS = (
    ("Edg/", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)
SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iOS"),
    ("iPad", "iOS"),
    ("Windows", "Windows"),
    ("Mac OS", "macOS"),
    ("Linux", "Linux"),
)
"""What marks a browser and a system in a User-Agent, the more special first."""


def safe_target(target: str, desks: Iterable[Desk]) -> str:
    """The page to open after signing in, with its query and fragment; the home page for anything else."""
    pages = {desk.path for desk in desks if desk.path}
    pages |= {f"{page}/" for page in pages if page != "/"}
    return target if re.split("[?#]", target, maxsplit=1)[0] in pages else "/"


def browser_of(request: Request) -> str:
    """The browser and system that a request names, in words: "Firefox on Linux"."""
    agent = request.headers.get("user-agent", "")
    browser = next((name for mark, name in BROWSERS if mark in agent), "a program")
    system = next((name for mark, name in SYSTEMS if mark in agent), "")
    return f"{browser} on {system}" if system else browser


class Credentials(BaseModel):
    """Body of /api/login."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=128)
    password: str = Field(max_length=1024)


def after_signing_out(site: Site, person: Person) -> str:
    """Where the browser of a person who signed out goes, to end the session at the provider; else ""."""
    if not site.settings.oidc.issuer or not site.settings.oidc.end_provider_session or person.local:
        return ""
    with site.workspace.catalog(read_only=True) as catalog:
        return SIGN_ON_END if catalog.identities.of_user(person.name) else ""


def check_passwords(accepted: bool, provider: str) -> None:
    """Raise `AccessDenied` where the server takes no passwords."""
    if not accepted:
        raise AccessDenied(f"passwords are not accepted here; sign in with {provider}")


def auth_routes(site: Site) -> APIRouter:
    """Sign-in, sign-out, and the current session."""
    routes, session_manager = APIRouter(), site.session_manager
    hashing = CapacityLimiter(AT_ONCE)
    provider = site.settings.oidc.name if site.settings.oidc.issuer else ""
    passwords = site.settings.local_accounts

    async def signed_in(request: Request, name: str, password: str) -> Person:
        check_passwords(passwords, provider)
        address = address_of(request)
        device = session_manager.device_of(request.headers, name)
        work = partial(session_manager.sign_in, name, password, address, browser_of(request), device)
        return await run_sync(work, limiter=hashing)

    def form(request: Request, target: str, problem: str = "", status: int = 200, name: str = "") -> Response:
        if session_manager.open_to_token() and not provider:
            return start_link_page(problem, status)
        secure = session_manager.is_secure(request.headers)
        cookie = form_cookie(request.headers, secure)
        nonce = request.cookies.get(cookie) or secrets.token_urlsafe(16)
        token = session_manager.form_token(nonce)
        target = safe_target(target, site.desks)
        page = login_page(token, target, problem, status, name, provider, passwords)
        page.set_cookie(cookie, nonce, path=FORM_PATH, httponly=True, samesite="strict", secure=secure)
        return page

    @routes.get("/login")
    def show_form(request: Request, next: str = "/", token: str = "", link: str = "") -> Response:
        if not token and not link:
            return form(request, next)
        try:
            person = (
                session_manager.enter_by_link(link, browser_of(request))
                if link
                else session_manager.enter_with_token(token, address_of(request))
            )
        except AccessDenied as error:
            return form(request, next, str(error).capitalize() + ".", 403)
        answer = RedirectResponse(safe_target(next, site.desks), 303)
        return session_manager.create_session(request.headers, answer, person)

    @routes.post("/login")
    async def sign_in(
        request: Request,
        name: Annotated[str, Form(max_length=128)],
        password: Annotated[str, Form(max_length=1024)],
        form_token: Annotated[str, Form(max_length=256)] = "",
        next: Annotated[str, Form(max_length=2048)] = "/",
    ) -> Response:
        secure = session_manager.is_secure(request.headers)
        nonce = request.cookies.get(form_cookie(request.headers, secure), "")
        if not nonce or not hmac.compare_digest(
            form_token.encode(), session_manager.form_token(nonce).encode()
        ):
            return await run_in_threadpool(
                form, request, next, "This form has expired. Please try again.", 403, name
            )
        try:
            person = await signed_in(request, name, password)
        except AccessDenied as error:
            return await run_in_threadpool(form, request, next, str(error).capitalize() + ".", 403, name)
        answer = RedirectResponse(safe_target(next, site.desks), 303)
        session_manager.create_session(request.headers, answer, person)
        session_manager.remember_device(request.headers, answer, person.name)
        return answer

    @routes.post("/api/login")
    async def sign_in_json(request: Request, credentials: Credentials) -> Response:
        person = await signed_in(request, credentials.name, credentials.password)
        answer = JSONResponse({"csrf": person.csrf, "roles": list(person.roles)})
        return session_manager.create_session(request.headers, answer, person)

    @routes.post("/logout")
    def sign_out_form(request: Request, csrf: Annotated[str, Form(max_length=256)] = "") -> Response:
        person = person_of(request)
        if not hmac.compare_digest(csrf.encode(), person.csrf.encode()):
            raise AccessDenied("the form token is missing or wrong; go back and try again")
        session_manager.sign_out(person)
        return session_manager.end_session(request.headers, RedirectResponse("/login", 303))

    @routes.post("/api/logout")
    def sign_out_json(request: Request) -> Response:
        person = person_of(request)
        session_manager.sign_out(person)
        answer = {"signed_out": True, "next": after_signing_out(site, person)}
        return session_manager.end_session(request.headers, JSONResponse(answer))

    @routes.get("/api/session")
    def session(person: SignedIn) -> dict[str, object]:
        session_manager.note_seen(person)
        return {
            "name": person.name,
            "roles": list(person.roles),
            "csrf": person.csrf,
            "local": person.local,
            "must_change": person.must_change,
            "worker": bool(workers_alive(session_manager.workspace)),
            "areas": [
                {"path": desk.path, "title": desk.title}
                for desk in listed(site.desks)
                if may(person.roles, desk.roles)
            ],
        }

    return routes
