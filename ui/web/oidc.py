"""Single sign-on in the browser: to the provider and back, and its end at both.

A sign-in that has gone to the provider is kept in the browser alone, in a signed cookie: its state, nonce and
verifier, and where it leads. Whatever goes wrong is a page with one sentence and the way back.
"""

import hmac
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.responses import RedirectResponse, Response

from dataengine.errors import AccessDenied, ClinicError, ConfigRefused, ServiceAbsent
from ui.config import ServerConfig
from ui.web.cookies import FORM_PATH, PREFIX, SIGN_ON_END, SIGN_ON_PATH, sign_on_cookie
from ui.web.logs import logger
from ui.web.pages import sign_on_failed_page
from ui.web.sessions import person_with, signing_key
from ui.web.sign_in import browser_of, safe_target
from ui.web.throttle import Throttle

if TYPE_CHECKING:
    from pipelines.services.sign_on.provider import Provider
    from ui.web.desk import Site

CALLBACK = f"{SIGN_ON_PATH}/callback"
SECONDS = 600
"""For which a sign-in may take at the provider."""
AT_ONCE = 8
"""Threads that may wait for the provider, apart from those that serve everything else: strangers can begin
any number of sign-ins."""
MOST_TEXT = 4096
"""Characters of a code or state."""
EXPIRED = "this sign-in has expired, was used already, or was begun in another browser; please sign in again"


def check_sign_in(settings: ServerConfig) -> None:
    """Raise `ConfigRefused` for settings with which nobody could sign in."""
    if not settings.local_accounts and not settings.oidc.issuer:
        raise ConfigRefused(
            "local_accounts is off and oidc.issuer is empty, so nobody could sign in; set one of them"
        )


def sign_on_routes(site: "Site") -> APIRouter:
    """To the provider, back from it, and to its end of the session. Raises `ConfigRefused` for wrong
    settings.
    """
    from pipelines.services.sign_on import people, provider

    settings, session_manager = site.settings, site.session_manager
    config = settings.oidc
    client: Provider = provider.open_provider(config, settings.allowed_networks)
    kept = URLSafeTimedSerializer(signing_key(site.workspace), salt="clinic.sign-on")
    waiting, routes = CapacityLimiter(AT_ONCE), APIRouter()
    # A state comes back once, whichever server it comes back to.
    returned = Throttle(session_manager.workspace, "state", limit=1, seconds=SECONDS)

    def failed(request: Request, error: ClinicError, target: str = "/") -> Response:
        status = 503 if isinstance(error, ServiceAbsent) else 403
        text = str(error)
        reason = f"{text} ({error.__cause__})" if error.__cause__ else text
        logger.warning("sign-on failed", extra={"path": request.url.path, "reason": reason})
        end = "" if text.endswith("?") else "."
        return sign_on_failed_page(f"{text[:1].upper()}{text[1:]}{end}", target, status)

    def begun(request: Request) -> dict[str, Any]:
        """What the cookie keeps. Raises `AccessDenied` unless it belongs to the state that comes back."""
        secure = session_manager.is_secure(request.headers)
        cookie = request.cookies.get(sign_on_cookie(request.headers, secure), "")
        try:
            found: dict[str, Any] = kept.loads(cookie, max_age=SECONDS)
        except BadData:
            raise AccessDenied(EXPIRED) from None
        state = request.query_params.get("state", "")
        if not hmac.compare_digest(state.encode(), str(found["state"]).encode()) or not returned.attempt(
            state
        ):
            raise AccessDenied(EXPIRED)
        return found

    def with_cookie(request: Request, answer: Response, content: str, seconds: int) -> Response:
        """The answer, with the cookie of this sign-in; 0 seconds drop it."""
        secure = session_manager.is_secure(request.headers)
        answer.set_cookie(
            sign_on_cookie(request.headers, secure),
            content,
            max_age=seconds,
            path=SIGN_ON_PATH,
            httponly=True,
            samesite="lax",
            secure=secure,
        )
        return answer

    @routes.get(SIGN_ON_PATH)
    async def begin(request: Request, next: str = "/") -> Response:
        return await run_sync(partial(to_provider, request, next), limiter=waiting)

    def to_provider(request: Request, next: str) -> Response:
        target = safe_target(next, site.desks)
        state, nonce, verifier = (secrets.token_urlsafe(48) for _ in range(3))
        try:
            url = client.authorization_url(base_of(request, settings) + CALLBACK, state, nonce, verifier)
        except ClinicError as error:
            return failed(request, error, target)
        content = kept.dumps({"state": state, "nonce": nonce, "verifier": verifier, "target": target})
        text = content if isinstance(content, str) else content.decode()
        return with_cookie(request, RedirectResponse(url, 303), text, SECONDS)

    @routes.get(CALLBACK)
    async def come_back(request: Request) -> Response:
        return await run_sync(partial(back_from_provider, request), limiter=waiting)

    def back_from_provider(request: Request) -> Response:
        target = "/"
        try:
            found = begun(request)
            target = safe_target(found["target"], site.desks)
            code = code_of(request, config.issuer, config.name)
            back = base_of(request, settings) + CALLBACK
            claims = client.claims(code, back, found["nonce"], found["verifier"])
            seconds = 3600 * settings.session_hours
            user, session, token = people.sign_on(
                site.workspace, config, claims.subject, claims.values, seconds, browser_of(request)
            )
        except ClinicError as error:
            answer = failed(request, error, target)
        else:
            answer = RedirectResponse(target, 303)
            session_manager.create_session(request.headers, answer, person_with(user, session.csrf, token))
        return with_cookie(request, answer, "", 0)

    @routes.get(SIGN_ON_END)
    async def end(request: Request) -> Response:
        back = base_of(request, settings) + FORM_PATH
        url = await run_sync(client.end_session_url, back, limiter=waiting)
        return RedirectResponse(url or FORM_PATH, 303)

    return routes


def code_of(request: Request, issuer: str, name: str) -> str:
    """The code that came back. Raises `AccessDenied` for an error, another issuer (RFC 9207), or no code."""
    from pipelines.services.sign_on.provider import word_of

    asked = request.query_params
    if error := asked.get("error"):
        raise AccessDenied(f"{name} did not let you in ({word_of(error)}); please try again, or ask an admin")
    if asked.get("iss", issuer) != issuer:
        raise AccessDenied(
            "this answer is from another provider than the one that was asked; please try again"
        )
    code = asked.get("code", "")
    if not 1 <= len(code) <= MOST_TEXT:
        raise AccessDenied(f"{name} sent no code; please try again")
    return code


def base_of(request: Request, settings: ServerConfig) -> str:
    """The address of this server in the browser, without a slash at its end."""
    if settings.oidc.public_url:
        return settings.oidc.public_url.rstrip("/")
    scheme = "https" if settings.secure_cookies else request.url.scheme
    return f"{scheme}://{request.headers.get('host', '')}{request.headers.get(PREFIX, '')}"
