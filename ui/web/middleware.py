"""Middleware that every request passes first: host, origin, body size, headers, one log line.

Plain ASGI, so that streams of the desks pass untouched.
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dataengine.bounds import BODY_MEMORY, check_json
from dataengine.errors import InputRefused
from pipelines.services.operation.logs import request_id
from storage.passwords import BUSY
from ui.web.access import PUBLIC, AccessTable
from ui.web.logs import REQUEST_ID, WELL_FORMED, logger, new_request_id
from ui.web.pages import message_page
from ui.web.policy import inline_sources
from ui.web.proxies import BELIEVED, DEFAULT_PORTS, IGNORED, PROBLEM
from ui.web.throttle import WaitingLine, site_of

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SIGNED = "/label-studio/images/"
"""Label Studio pages may embed these: the URL is signed, and no cookie is involved."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

STRANGERS, STRANGER_SECONDS = 200, 15.0
"""Bodies of people who are not signed in that are read at the same time, and how long each may take."""

SIGN_IN_PATHS = frozenset({"/login", "/api/login"})
SIGN_INS, SIGN_INS_PER_ADDRESS = 64, 16
"""Sign-ins that are checked or wait for it, in all and of one address."""
RETRY_SECONDS = 5
"""When a browser may ask again for what a full disk, a crowd, the database or the blob store kept from it."""

FOREVER = "public, max-age=31536000, immutable"
HASHED = re.compile(
    r"/assets/[^/]+-[A-Za-z0-9_-]{8,10}\.(?:js|css|woff2?|ttf)$|/theme\.css\?v=[0-9a-f]{32,}$"
)
"""Files of Gradio that are asked for by a hash of their content: in their name, or as the theme's query."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


def refused(status: int, message: str) -> Response:
    """The response to a refused request, with the request's id to find it in the log."""
    return JSONResponse(problem_of(message), status)


def problem_of(message: str) -> dict[str, str]:
    """An error as JSON: its sentence, and the id of the request that is answered."""
    asked = request_id.get()
    return {"error": message} | ({"request": asked} if asked else {})


def refused_page(headers: Headers, status: int, message: str) -> Response:
    """The same, as a page for browsers that navigate."""
    if "text/html" in headers.get("accept", ""):
        return message_page("Request refused", f"{message[:1].upper()}{message[1:]}.", status)
    return refused(status, message)


CROSS_SITE = "cross-site requests are refused"


def foreign_origin(headers: Headers, scope: Scope, origin: str) -> str:
    """Why a request with this Origin is refused; "" if it came from a page of ours.

    A browser that says `same-origin` is believed about a port that a proxy left out of Host: no page can make
    it say so.
    """
    host, sent = headers.get("host", ""), urlsplit(origin)
    scheme, own_page = scope["scheme"], headers.get("sec-fetch-site") == "same-origin"
    if authority(origin) == authority(f"{scheme}://{host}"):
        return ""
    if sent.scheme != scheme and sent.netloc.lower() == host.lower():
        # Without a trusted proxy nothing is known of the scheme in the browser.
        believed = scope.get("state", {}).get(BELIEVED)
        return f"{CROSS_SITE}: {sent.scheme} is not the X-Forwarded-Proto of the proxy" if believed else ""
    if host_name(sent.netloc) != host_name(host):
        return CROSS_SITE
    if own_page:
        return ""
    return (
        f"{CROSS_SITE}: the browser's address is {origin}, but the Host header says {host}; a proxy must "
        "send Host with its port, or X-Forwarded-Host or X-Forwarded-Port"
    )


def authority(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an origin, the default port written out."""
    parts = urlsplit(url)
    try:
        return parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return parts.scheme, "", None


def host_name(netloc: str) -> str:
    """Host without port, lower case; empty if it is no host at all."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").lower()
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """True for loopback addresses."""
    return host.lower() in LOOPBACK or host.startswith("127.")


class SameSite:
    """Refuses requests for another host name, and requests that another site's page sent.

    A browser sends Origin with what changes state; programs that send none carry no ambient cookie.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app = app
        self.hosts = LOOPBACK | {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = None if scope["type"] == "lifespan" else self.problem(scope)
        if problem:
            status, message = problem
            if scope.get("state", {}).get(IGNORED):
                message += "; X-Forwarded headers were ignored, since the proxy is not in trusted_proxies"
            await refused_page(Headers(scope=scope), status, message)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def problem(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if scope.get("state", {}).get(PROBLEM):
            return 400, scope["state"][PROBLEM]
        if host_name(host) not in self.hosts:
            return 421, "this host name is not allowed; add it to allowed_hosts"
        if scope["type"] == "websocket":
            return 403, "WebSockets are not supported"
        if scope["method"] in SAFE_METHODS and scope["path"].startswith(SIGNED):
            return None
        origin = headers.get("origin")
        if origin is not None and (foreign := foreign_origin(headers, scope, origin)):
            return 403, foreign
        navigates = headers.get("sec-fetch-mode") == "navigate" and scope["method"] in SAFE_METHODS
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not navigates:
            return 403, CROSS_SITE
        return None


class SignInLine:
    """Lets a limited number of sign-ins in, of one address only a few: their passwords take long to check.

    More are told to come again before anything is read or looked up, so that a thousand at once cost those
    who are at work little.
    """

    def __init__(self, app: ASGIApp, places: int = SIGN_INS, per_address: int = SIGN_INS_PER_ADDRESS) -> None:
        self.app = app
        self.line = WaitingLine(places, per_address)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in SIGN_IN_PATHS:
            await self.app(scope, receive, send)
            return
        with self.line.place(site_of((scope.get("client") or ("", 0))[0])) as placed:
            if placed:
                await self.app(scope, receive, send)
                return
        answer = refused_page(Headers(scope=scope), 503, BUSY)
        answer.headers["Retry-After"] = str(RETRY_SECONDS)
        await answer(scope, receive, send)


class BodyLimit:
    """Reads bodies after the gate has asked who sends them, and before anything of the app runs.

    Refuses those above the path's limit, whether they announce their length or not, those that take longer
    than `seconds`, and JSON that would become far more than its size.
    """

    def __init__(self, app: ASGIApp, access: AccessTable, largest: int, seconds: float, uploads: int) -> None:
        self.app = app
        self.access = access
        self.largest = largest
        self.uploads = uploads
        self.seconds = seconds
        self.strangers: OrderedDict[asyncio.Timeout, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS:
            await self.app(scope, receive, send)
            return
        headers, limit = Headers(scope=scope), self.access.body_limit(scope["path"], self.largest)
        if self.access.is_upload(scope["path"]):
            await (self.upload_refusal(headers) or self.app)(scope, receive, send)
            return
        announced = headers.get("content-length", "0")
        try:
            if not announced.isdigit() or int(announced) > limit:
                raise InputRefused
            async with self.in_time(scope["path"]):
                body = await self.read(receive, limit)
        except InputRefused:
            answer: ASGIApp = refused(413, f"the request body is larger than {limit} bytes")
        except TimeoutError:
            late = refused(408, "the request body did not arrive in time")
            late.headers["Connection"] = "close"
            answer = late
        else:
            answer = too_dense(headers, body) or self.app
            receive = replay(body, receive)
        await answer(scope, receive, send)

    @asynccontextmanager
    async def in_time(self, path: str) -> AsyncIterator[None]:
        """Ends what takes too long; of strangers also the oldest, where too many send at the same time."""
        if self.access.allowed_roles(path) != PUBLIC:
            async with asyncio.timeout(self.seconds):
                yield
            return
        async with asyncio.timeout(min(STRANGER_SECONDS, self.seconds)) as timeout:
            if len(self.strangers) >= STRANGERS:
                oldest, _ = self.strangers.popitem(last=False)
                oldest.reschedule(asyncio.get_running_loop().time())
            self.strangers[timeout] = None
            try:
                yield
            finally:
                self.strangers.pop(timeout, None)

    def upload_refusal(self, headers: Headers) -> Response | None:
        """The refusal of files that are too large together; others are written to disk as they arrive."""
        announced = headers.get("content-length", "")
        if announced.isdigit() and int(announced) <= self.uploads:
            return None
        return refused(413, f"these files are larger than {self.uploads} bytes together; send fewer at once")

    @staticmethod
    async def read(receive: Receive, limit: int) -> bytes:
        """The whole body. Raises `InputRefused` as soon as it grows beyond the limit."""
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > limit:
                raise InputRefused
            if message["type"] != "http.request" or not message.get("more_body"):
                return bytes(body)


def too_dense(headers: Headers, body: bytes) -> Response | None:
    """The refusal of JSON that would take far more memory than its size."""
    if "json" not in headers.get("content-type", "json"):
        return None
    try:
        check_json(body, BODY_MEMORY, "this request")
    except InputRefused as error:
        return refused(413, str(error))
    return None


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the read body once, then further messages of the connection."""
    pending = [body]

    async def again() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return again


class ResponseHeaders:
    """Adds the path's content policy, the other security headers, and no-store unless a route set
    Cache-Control. Files that carry a hash in their name are kept by browsers for good.
    """

    def __init__(self, app: ASGIApp, access: AccessTable, embed_in: Sequence[str] = ()) -> None:
        self.app = app
        self.access = access
        self.embed_in = tuple(embed_in)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        policy, path = self.access.policy(scope["path"]), scope["path"]
        asked = f"{path}?{scope['query_string'].decode('latin-1')}".rstrip("?")
        forever = self.access.is_gradio(path) and HASHED.search(asked) is not None
        page: list[Message] = []

        def finish(message: Message, inline: Iterable[str] = ()) -> Message:
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self.embed_in:
                del headers["X-Frame-Options"]
            headers["Content-Security-Policy"] = policy.header(self.embed_in, inline)
            if forever and message["status"] in (200, 304):
                headers["Cache-Control"] = FOREVER
            headers.setdefault("Cache-Control", "no-store")
            return message

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                html = Headers(scope=message).get("content-type", "").startswith("text/html")
                if policy.hash_inline and html:
                    page.append(message)  # its head waits for its body, which the policy hashes
                    return
                finish(message)
            elif page:
                page.append(message)
                if not message.get("more_body"):
                    body = b"".join(part.get("body", b"") for part in page[1:])
                    await send(finish(page[0], inline_sources(body)))
                    for part in page[1:]:
                        await send(part)
                return
            await send(message)

        await self.app(scope, receive, with_headers)


class RequestLog:
    """Gives each request an id, writes one JSON line for it, without query string, cookies or body, and
    passes it to `count` with the application's root path, the status and the seconds.

    The id is in the answer, in every line of the log and in error messages. One that a proxy on this machine
    sends is taken over.
    """

    def __init__(self, app: ASGIApp, count: Callable[[Scope, str, int, float], None]) -> None:
        self.app = app
        self.count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, root = time.perf_counter(), 500, scope.get("root_path", "")
        asked = id_of(scope)
        request_id.set(asked)

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = asked
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            seconds = time.perf_counter() - began
            self.count(scope, root, status, seconds)
            person = scope.get("state", {}).get("person")
            logger.info(
                "request",
                extra={
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "ms": round(1000 * seconds, 1),
                    "person": person.name if person else None,
                    "program": person.api_token.name if person and person.api_token else None,
                    "client": (scope.get("client") or [None])[0],
                },
            )


def id_of(scope: Scope) -> str:
    """The id that a program on this machine gave the request, if it is well-formed; else a new one."""
    given = Headers(scope=scope).get(REQUEST_ID, "")
    trusted = is_loopback((scope.get("client") or ("",))[0])
    return given if trusted and WELL_FORMED.fullmatch(given) else new_request_id()
