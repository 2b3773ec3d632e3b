"""Reverse proxies: who asked, and at which address of the browser.

Only what comes from an address in `trusted_proxies` is believed; from all others the headers are dropped,
so that nothing behind this, Gradio included, reads them. From then on `scope` says what the browser sees:
client, scheme, `Host` with its port. The prefix of a sub-path is taken off here, and put back by
`UnderPrefix`: all checks between them see the paths of our own code.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dataengine.errors import InputRefused
from ui.web.pages import ROOT

FOR, PROTO, HOST = "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"
PORT, PREFIX, FORWARDED = "X-Forwarded-Port", "X-Forwarded-Prefix", "Forwarded"
DEFAULT_PORTS = {"http": 80, "https": 443}
NAMED_HOST = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
SUB_PATH = re.compile(r"(?:/(?!\.\.?(?:/|$))[A-Za-z0-9._~-]+)+")
PAIR = re.compile(r"\s*(?P<name>[A-Za-z]+)=(?P<value>\"[^\"]*\"|[^;,\"]*)\s*")
COOKIE_PATH = re.compile(r"(?i)(;\s*path=)/")
PROBLEM, IGNORED, BELIEVED = "forwarding_problem", "forwarding_ignored", "forwarding_believed"
"""Where `scope["state"]` says why a proxy's headers contradict each other, that a stranger's were dropped,
and that a trusted proxy sent the request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A request as the browser sent it."""

    client: str
    scheme: str
    host: str
    prefix: str


class Forwarded:
    """Reads what trusted proxies say of a request, and answers under the address that the browser knows.

    `root_path` is the sub-path where no proxy names one. A path may come with the prefix or without it.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str] = (), root_path: str = "") -> None:
        self.app = app
        self.trusted = [ip_network(one, strict=False) for one in trusted]
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers, peer = Headers(scope=scope), (scope.get("client") or ("", 0))[0]
        seen = Seen(client=peer, scheme=scope["scheme"], host=headers.get("host", ""), prefix=self.root_path)
        state = {**scope.get("state", {}), PROBLEM: "", IGNORED: False, BELIEVED: False}
        if is_within(peer, self.trusted):
            state[BELIEVED] = True
            try:
                seen = self.read(headers, seen)
            except InputRefused as error:
                state[PROBLEM] = str(error)
        else:
            state[IGNORED] = any(is_forwarding(name) for name in headers)
        ROOT.set(seen.prefix)
        scope = {**scope, "state": state, **self.changed(scope, seen)}
        await self.app(scope, receive, self.answering(seen, send))

    def read(self, headers: Headers, direct: Seen) -> Seen:
        """The request by its headers. Raises `InputRefused` where they contradict each other."""
        elements = forwarded_elements(headers)
        scheme = agreed(PROTO, [one.lower() for one in values_of(headers, PROTO)], elements.get("proto", []))
        if scheme and scheme not in DEFAULT_PORTS:
            raise InputRefused(f"the proxy's {PROTO} is {scheme!r}; it must be http or https")
        scheme = scheme or direct.scheme
        host = agreed(HOST, values_of(headers, HOST), elements.get("host", [])) or direct.host
        named = NAMED_HOST.fullmatch(host)
        if named is None:
            raise InputRefused(
                f"the proxy's {HOST} is no host name; it must be that of the browser's address"
            )
        port = agreed(PORT, values_of(headers, PORT), [])
        if port and not (port.isdigit() and 0 < int(port) < 65536):
            raise InputRefused(f"the proxy's {PORT} is {port!r}; it must be a port number")
        if port and not named["port"] and int(port) != DEFAULT_PORTS[scheme]:
            host = f"{host}:{int(port)}"
        prefix = agreed(PREFIX, values_of(headers, PREFIX), []).rstrip("/")
        if prefix and not SUB_PATH.fullmatch(prefix):
            raise InputRefused(f"the proxy's {PREFIX} is {prefix!r}; it must be a path such as /clinic")
        passed = values_of(headers, FOR) or elements.get("for", [])
        return replace(
            direct,
            client=self.first_untrusted(passed) or direct.client,
            scheme=scheme,
            host=host,
            prefix=prefix or direct.prefix,
        )

    def first_untrusted(self, passed: Sequence[str]) -> str:
        """The address nearest to us that is no proxy of ours; "" where it is not told. Whatever stands before
        it is the word of a stranger."""
        nearest = ""
        for text in reversed(passed):
            if text.lower() == "unknown" or text.startswith("_"):
                return ""
            nearest = address_in(text)
            if not is_within(nearest, self.trusted):
                return nearest
        return nearest

    @staticmethod
    def changed(scope: Scope, seen: Seen) -> Scope:
        """What of a scope the browser sees otherwise than we; headers of proxies stay only as far as they are
        true."""
        headers = [
            (name, value)
            for name, value in scope["headers"]
            if not is_forwarding(name.decode("latin-1")) and name != b"host"
        ]
        headers.append((b"host", seen.host.encode("latin-1")))
        headers.append((PROTO.lower().encode(), seen.scheme.encode()))
        if seen.prefix:
            headers.append((PREFIX.lower().encode(), seen.prefix.encode()))
        path = scope["path"]
        if seen.prefix and (path == seen.prefix or path.startswith(seen.prefix + "/")):
            path = path[len(seen.prefix) :]
        port = (scope.get("client") or ("", 0))[1]
        return {"headers": headers, "client": (seen.client, port), "scheme": seen.scheme, "path": path or "/"}

    @staticmethod
    def answering(seen: Seen, send: Send) -> Send:
        """Puts the prefix before the paths of redirects and cookies. Redirects to ourselves name no host:
        browsers then keep the address that they know."""
        own = f"{seen.scheme}://{seen.host}/"

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                location = headers.get("location", "")
                if location.startswith(own):
                    headers["location"] = location[len(own) - 1 :]
                elif seen.prefix and location.startswith("/") and not location.startswith("//"):
                    headers["location"] = seen.prefix + location
                if seen.prefix:
                    message["headers"] = [
                        (name, within_prefix(value, seen.prefix) if name.lower() == b"set-cookie" else value)
                        for name, value in message["headers"]
                    ]
            await send(message)

        return sending


class UnderPrefix:
    """Gives routers and Gradio the path with its prefix, as ASGI's `root_path`; the innermost middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefix = Headers(scope=scope).get(PREFIX, "") if scope["type"] == "http" else ""
        if not prefix:
            await self.app(scope, receive, send)
            return
        path = prefix + scope["path"]
        inner = {**scope, "root_path": prefix, "path": path, "raw_path": path.encode()}
        try:
            await self.app(inner, receive, send)
        finally:
            scope["route"] = inner.get("route")  # which the metrics count by


def within_prefix(cookie: bytes, prefix: str) -> bytes:
    """A Set-Cookie header for the paths below the prefix only; names that begin with `__Host-` forbid it."""
    text = cookie.decode("latin-1")
    if text.startswith("__Host-"):
        return cookie
    return COOKIE_PATH.sub(rf"\g<1>{prefix}/", text, count=1).encode("latin-1")


def path_of(scope: Scope) -> str:
    """The path of our own code that a request is for, also behind `UnderPrefix`."""
    root, path = scope.get("app_root_path", scope.get("root_path", "")), scope["path"]
    return (path[len(root) :] or "/") if root and path.startswith(root) else path


def is_forwarding(name: str) -> bool:
    """Whether a header is one of those by which proxies speak of a request."""
    name = name.lower()
    return name.startswith("x-forwarded-") or name in ("forwarded", "x-real-ip")


def is_within(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Whether an address lies in one of the networks."""
    try:
        known = ip_address(address)
    except ValueError:
        return False
    known = getattr(known, "ipv4_mapped", None) or known
    return any(known in network for network in networks)


def address_in(text: str) -> str:
    """The address of one entry, which may have a port. Raises `InputRefused`."""
    bare = text.strip().strip('"')
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        return str(ip_address(bare))
    except ValueError:
        raise InputRefused(f"the proxy's {FOR} has an entry that is no IP address") from None


def values_of(headers: Headers, name: str) -> list[str]:
    """The entries of a header, of all its lines."""
    return [part.strip() for line in headers.getlist(name) for part in line.split(",") if part.strip()]


def forwarded_elements(headers: Headers) -> dict[str, list[str]]:
    """What the `Forwarded` header (RFC 7239) says, by parameter. Raises `InputRefused`."""
    found: dict[str, list[str]] = {}
    for part in ",".join(headers.getlist(FORWARDED)).replace(",", ";").split(";"):
        if not part.strip():
            continue
        pair = PAIR.fullmatch(part)
        if pair is None:
            raise InputRefused(f"the proxy's {FORWARDED} header is malformed")
        found.setdefault(pair["name"].lower(), []).append(pair["value"].strip('"'))
    return found


def agreed(name: str, values: Sequence[str], forwarded: Sequence[str]) -> str:
    """The one value of a header and of what `Forwarded` says; "" without any. Raises `InputRefused`."""
    if len(set(values)) > 1:
        raise InputRefused(f"the proxies' {name} headers contradict each other: {' and '.join(values[:3])}")
    if len(set(forwarded)) > 1 or (values and forwarded and values[0] != forwarded[0].lower()):
        raise InputRefused(f"the proxy's {FORWARDED} header contradicts itself or {name}; send one of them")
    return (list(values) or list(forwarded) or [""])[0]
