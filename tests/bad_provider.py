"""A small OpenID Connect provider that does right until it is told to do one thing wrong, and a browser.

    with BadProvider() as provider:
        provider.fault = "wrong nonce"

`FAULTS` holds every fault by name with the words that a person is to read.
"""

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import RSAKey

from pipelines.services.sign_on.config import SignOnConfig
from storage.workspace import Workspace
from ui.config import ServerConfig
from ui.server import create_app

CLIENT = "clinic"
SECRET = "s3cr3t-of-the-client"
BROWSER = "http://127.0.0.1:7860"
"""The address of the clinic's server in the browser."""
GROUPS: Any = {"drawers": ("annotator",), "leads": ("curator", "admin")}
SLOW_SECONDS = 1.5
"""More than the tests' `timeout_seconds`."""

FAULTS: Mapping[str, str] = {
    "discovery is down": "does not answer",
    "discovery answers 500": "answers 500",
    "discovery is slow": "does not answer",
    "discovery is no JSON": "cannot be read",
    "discovery is a list": "something else than a JSON object",
    "discovery is endless": "does not answer",
    "discovery redirects": "answers 302",
    "discovery names another issuer": "calls itself",
    "discovery has no token endpoint": "no usable token_endpoint",
    "token endpoint answers 500": "answers 500",
    "token endpoint is slow": "does not answer",
    "token endpoint hangs up": "does not answer",
    "token endpoint refuses the code": "did not accept this sign-in",
    "token endpoint is no JSON": "cannot be read",
    "token is a list": "cannot be read",
    "no ID token": "sent no ID token",
    "ID token is nonsense": "is none",
    "keys are down": "answers 500",
    "keys are empty": "signed by a key that it does not publish",
    "keys are of somebody else": "signed by a key that it does not publish",
    "unknown key id": "signed by a key that it does not publish",
    "wrong issuer": "is from another issuer",
    "no issuer": "lacks the claim 'iss'",
    "foreign audience": "is for another client",
    "two audiences without azp": "lacks the claim 'azp'",
    "foreign azp": "is for another client",
    "expired": "has expired",
    "no expiry": "lacks the claim 'exp'",
    "expiry is a text": "has a wrong claim 'exp'",
    "not yet valid": "is not valid yet",
    "issued in the future": "is from the future",
    "wrong nonce": "belongs to another sign-in",
    "no nonce": "lacks the claim 'nonce'",
    "no subject": "lacks the claim 'sub'",
    "subject is a number": "names nobody",
    "wrong access token hash": "belongs to another access token",
    "algorithm none": "is signed by 'none'",
    "HS256 with the public key": "is signed by 'HS256'",
    "HS256 with the client secret": "is signed by 'HS256'",
    "changed payload": "signed by a key that it does not publish",
    "provider says no": "did not let you in (access_denied)",
    "provider says markup": "did not let you in (an error)",
    "answer of another issuer": "is from another provider",
    "no code": "sent no code",
    "wrong state": "has expired, was used already",
    "missing state": "has expired, was used already",
}
"""The faults of `BadProvider`, each with words of the sentence that a person reads."""


class BadProvider:
    """A provider on this machine; `fault` is what it does wrong, `claims` what it says of the person."""

    def __init__(self) -> None:
        self.fault = ""
        self.claims: dict[str, Any] = {"sub": "anna-1", "preferred_username": "anna", "groups": ["drawers"]}
        self.codes: dict[str, dict[str, str]] = {}
        self.requests: list[str] = []
        self.key = self.first_key = RSAKey.generate_key(2048, {"kid": "first"}, auto_kid=False)
        self.other_key = RSAKey.generate_key(2048, {"kid": "first"}, auto_kid=False)

    def __enter__(self) -> Self:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.answer(self, {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                provider.answer(self, {name: values[0] for name, values in parse_qs(body).items()})

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)

    def rotate(self) -> None:
        """Sign with a new key from now on, and publish it alone."""
        self.key = RSAKey.generate_key(2048, {"kid": secrets.token_hex(4)}, auto_kid=False)

    # ---- the browser's side ----------------------------------------------------------------------------

    def sign_in(self, url: str) -> str:
        """What the person's browser does with the authorization URL: the address that it is sent back to."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert asked["response_type"] == "code" and asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split() and asked["client_id"] == CLIENT
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        answer = {"code": code, "state": asked["state"], "iss": self.issuer}
        match self.fault:
            case "provider says no":
                answer = {"error": "access_denied", "state": asked["state"]}
            case "provider says markup":
                answer = {"error": "<script>alert(1)</script>", "state": asked["state"]}
            case "answer of another issuer":
                answer["iss"] = "https://evil.example"
            case "no code":
                del answer["code"]
            case "wrong state":
                answer["state"] = secrets.token_urlsafe(16)
            case "missing state":
                del answer["state"]
        return f"{asked['redirect_uri']}?{urlencode(answer)}"

    # ---- the server's side -----------------------------------------------------------------------------

    def answer(self, request: BaseHTTPRequestHandler, form: dict[str, str]) -> None:
        """Answer one request of the clinic's server."""
        path, fault = urlsplit(request.path).path, self.fault
        self.requests.append(path)
        if path == "/.well-known/openid-configuration":
            self.discovery(request)
        elif path == "/token":
            self.token(request, form)
        elif path == "/keys":
            self.keys(request)
        elif path == "/userinfo":
            reply(request, 200, self.claims | ({"sub": "else"} if fault == "userinfo of somebody" else {}))
        else:
            reply(request, 404, {})

    def discovery(self, request: BaseHTTPRequestHandler) -> None:
        content = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "end_session_endpoint": f"{self.issuer}/end",
        }
        match self.fault:
            case "discovery is down":
                hang_up(request)
            case "discovery answers 500":
                reply(request, 500, {})
            case "discovery is slow":
                time.sleep(SLOW_SECONDS)
                reply(request, 200, content)
            case "discovery is no JSON":
                reply(request, 200, b"<html>")
            case "discovery is a list":
                reply(request, 200, [content])
            case "discovery is endless":
                reply(request, 200, b"[" * 3 * 2**20)
            case "discovery redirects":
                reply(request, 302, {}, {"Location": f"{self.issuer}/keys"})
            case "discovery names another issuer":
                reply(request, 200, content | {"issuer": "https://evil.example"})
            case "discovery has no token endpoint":
                del content["token_endpoint"]
                reply(request, 200, content)
            case _:
                reply(request, 200, content)

    def keys(self, request: BaseHTTPRequestHandler) -> None:
        key = self.other_key if self.fault == "keys are of somebody else" else self.key
        published = [] if self.fault == "keys are empty" else [key.as_dict(private=False)]
        reply(request, 500 if self.fault == "keys are down" else 200, {"keys": published})

    def token(self, request: BaseHTTPRequestHandler, form: dict[str, str]) -> None:
        asked = self.codes.pop(form.get("code", ""), None)
        proof = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        right = (
            asked is not None
            and proof.decode().rstrip("=") == asked["code_challenge"]
            and form.get("redirect_uri") == asked["redirect_uri"]
            and basic_of(request) == (CLIENT, SECRET)
        )
        match self.fault:
            case "token endpoint answers 500":
                reply(request, 500, {"oops": True})
            case "token endpoint is slow":
                time.sleep(SLOW_SECONDS)
                reply(request, 200, {})
            case "token endpoint hangs up":
                hang_up(request)
            case "token endpoint is no JSON":
                reply(request, 200, b"<html>")
            case "token is a list":
                reply(request, 200, [1])
            case "token endpoint refuses the code":
                reply(request, 400, {"error": "invalid_grant", "error_description": "<b>no</b>"})
            case _ if asked is None or not right:
                reply(request, 400, {"error": "invalid_grant"})
            case _:
                answer = {"access_token": "access", "token_type": "Bearer", "expires_in": 60}
                if self.fault != "no ID token":
                    answer["id_token"] = self.id_token(asked.get("nonce", ""))
                reply(request, 200, answer)

    def id_token(self, nonce: str) -> str:
        """The ID token, with the fault in it."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 60,
            "nonce": nonce,
        }
        claims |= self.claims
        wrong: dict[str, dict[str, Any]] = {
            "wrong issuer": {"iss": "https://evil.example"},
            "foreign audience": {"aud": "other"},
            "two audiences without azp": {"aud": [CLIENT, "other"]},
            "foreign azp": {"azp": "other"},
            "expired": {"exp": now - 3600, "iat": now - 7200},
            "expiry is a text": {"exp": "tomorrow"},
            "not yet valid": {"nbf": now + 3600},
            "issued in the future": {"iat": now + 3600, "exp": now + 7200},
            "wrong nonce": {"nonce": "other"},
            "subject is a number": {"sub": 5},
            "wrong access token hash": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
        }
        claims |= wrong.get(self.fault, {})
        without = {"no issuer": "iss", "no expiry": "exp", "no nonce": "nonce", "no subject": "sub"}
        claims.pop(without.get(self.fault, ""), None)
        header = {"alg": "RS256", "kid": "unknown" if self.fault == "unknown key id" else self.key.kid}
        match self.fault:
            case "ID token is nonsense":
                return "a.b.c"
            case "algorithm none":
                return f"{part({'alg': 'none'})}.{part(claims)}."
            case "HS256 with the public key":
                return signed_by_hmac(claims, self.key.as_pem(private=False))
            case "HS256 with the client secret":
                return signed_by_hmac(claims, SECRET.encode())
            case "changed payload":
                first, _, last = jwt.encode(header, claims, self.key).split(".")
                return f"{first}.{part(claims | {'groups': ['leads']})}.{last}"
        return str(jwt.encode(header, claims, self.key))


def part(content: Any) -> str:
    """One part of a token."""
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def signed_by_hmac(claims: Mapping[str, Any], key: bytes) -> str:
    """A token signed with HS256 by something that others know as well."""
    text = f"{part({'alg': 'HS256'})}.{part(claims)}"
    made = hmac.digest(key, text.encode(), "sha256")
    return f"{text}.{base64.urlsafe_b64encode(made).decode().rstrip('=')}"


def basic_of(request: BaseHTTPRequestHandler) -> tuple[str, str]:
    """Name and password of basic authentication."""
    sent = base64.b64decode(request.headers.get("Authorization", "").removeprefix("Basic ")).decode()
    name, _, password = sent.partition(":")
    return name, password


def reply(
    request: BaseHTTPRequestHandler, status: int, content: Any, headers: Mapping[str, str] | None = None
) -> None:
    """Send a body, as JSON unless it is bytes; a reader that has left is no error."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    try:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)
    except OSError:
        pass


def hang_up(request: BaseHTTPRequestHandler) -> None:
    """End the connection without an answer."""
    request.close_connection = True


# ---- the browser, at the clinic's server ------------------------------------------------------------------


def config_of(issuer: str, **changes: Any) -> SignOnConfig:
    """The settings of sign-on with this provider."""
    plain = {"client_id": CLIENT, "name": "Corp", "roles_by_group": GROUPS, "timeout_seconds": 5.0}
    return SignOnConfig(issuer=issuer, **(plain | changes))


def client_of(workspace: Workspace, config: SignOnConfig, **settings: Any) -> TestClient:
    """A browser at a server with these settings."""
    app = create_app(workspace, ServerConfig(desks=False, oidc=config, **settings))
    return TestClient(app, base_url=BROWSER, follow_redirects=False)


def begin(client: TestClient, next: str = "/") -> str:
    """The address of the provider that the browser is sent to."""
    answer = client.get("/login/sso", params={"next": next})
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


def come_back(client: TestClient, url: str) -> Any:
    """The answer to the browser's way back."""
    return client.get(
        url.removeprefix(BROWSER), headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    )


def signed_in(client: TestClient, provider: BadProvider, next: str = "/") -> Any:
    """The answer to the last step of a whole sign-in."""
    return come_back(client, provider.sign_in(begin(client, next)))


def who(client: TestClient) -> Any:
    """The session of the browser."""
    return client.get("/api/session").json()
