"""The client of an OpenID Connect provider: discovery, keys, the exchange of a code, and whose it is.

Authorization code with PKCE, state and nonce (OpenID Connect Core 1.0, RFC 7636, RFC 9700). Everything that
the provider says is checked; whatever is wrong ends in one sentence: `ServiceAbsent` where the provider is
not reachable or answers nonsense, `AccessDenied` where it says no, or what it says must not be believed.
"""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from authlib.common.errors import AuthlibBaseError
from authlib.common.urls import add_params_to_uri
from authlib.integrations.httpx_client import OAuth2Client

from dataengine.errors import AccessDenied, ConfigRefused, ServiceAbsent
from dataengine.outgoing import AddressRefused, Network, checked_transport, networks_of
from pipelines.services.endpoints import permitted
from pipelines.services.sign_on.config import SignOnConfig
from pipelines.services.sign_on.tokens import checked_claims, usable_keys

SECRET, SECRET_FILE = "CLINIC_OIDC_SECRET", "CLINIC_OIDC_SECRET_FILE"
DISCOVERY = "/.well-known/openid-configuration"
MOST_BYTES = 2**20
"""Of any answer of a provider."""
FRESH_SECONDS = 3600.0
"""For which a provider's configuration and keys are kept."""
RETRY_SECONDS = 5.0
"""After a failure, before the configuration is asked for again."""
REFETCH_SECONDS = 30.0
"""Between two requests for keys because a token names an unknown one."""
NEEDED = ("authorization_endpoint", "token_endpoint", "jwks_uri")


@dataclass(frozen=True, kw_only=True, slots=True)
class Claims:
    """What a provider says of a person: a checked ID token, and the user information where groups need it."""

    issuer: str
    subject: str
    values: Mapping[str, Any]


def open_provider(config: SignOnConfig, allowed_networks: Sequence[str] = ()) -> "Provider":
    """The provider of these settings, which may be in the private networks that the server permits."""
    return Provider(config, permitted(allowed_networks))


def read_secret() -> str:
    """The client's secret from the environment, or from the file that it names; "" for a public client.

    Raises `ConfigRefused` for a file that cannot be read.
    """
    if file := os.environ.get(SECRET_FILE):
        try:
            return Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigRefused(
                f"the file in {SECRET_FILE} cannot be read ({type(error).__name__})"
            ) from None
    return os.environ.get(SECRET, "")


class Shared(httpx2.BaseTransport):
    """A transport that outlives the client which uses it, so that connections are kept."""

    def __init__(self, transport: httpx2.BaseTransport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return self._transport.handle_request(request)


class Provider:
    """One provider, by its settings. Thread-safe; nothing is asked for before the first sign-in."""

    def __init__(
        self,
        config: SignOnConfig,
        networks: Sequence[Network] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`networks` are private networks in which the provider may be. Raises `ConfigRefused`."""
        self.config, self.clock, self.secret = config, clock, read_secret()
        check_issuer(config)
        self._transport = checked_transport(
            (*networks, *networks_of(config.issuer)),
            library=httpx2,
            most_bytes=MOST_BYTES,
            most_seconds=2 * config.timeout_seconds,
        )
        self._lock = threading.Lock()
        self._metadata: tuple[float, dict[str, Any]] | None = None
        self._failure: tuple[float, str] | None = None
        self._keys: tuple[float, list[Any]] | None = None
        self._refetched = float("-inf")

    def authorization_url(self, redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
        """Where the browser is sent to sign in."""
        metadata = self.metadata()
        with self._client(redirect_uri) as client:
            url, _ = client.create_authorization_url(
                metadata["authorization_endpoint"], state=state, code_verifier=verifier, nonce=nonce
            )
        return str(url)

    def claims(self, code: str, redirect_uri: str, nonce: str, verifier: str) -> Claims:
        """Who the code that the browser brought back stands for."""
        metadata = self.metadata()
        token = self._exchange(metadata, code, redirect_uri, verifier)
        id_token = token.get("id_token")
        if not isinstance(id_token, str):
            raise AccessDenied(
                f"{self.config.name} sent no ID token; is the scope openid allowed for this client?"
            )
        values = self._checked(id_token, nonce, token.get("access_token"))
        if self.config.groups_claim.split(".")[0] not in values and metadata.get("userinfo_endpoint"):
            values = {**self._userinfo(metadata, token, values["sub"]), **values}
        return Claims(issuer=self.config.issuer, subject=values["sub"], values=values)

    def end_session_url(self, back_to: str) -> str:
        """Where the browser can end its session at the provider; "" where that offers no such page."""
        try:
            metadata = self.metadata()
        except ServiceAbsent:
            return ""
        address = metadata.get("end_session_endpoint")
        if not isinstance(address, str) or self._problem_of(address):
            return ""
        asked = {"client_id": self.config.client_id, "post_logout_redirect_uri": back_to}
        return str(add_params_to_uri(address, asked))

    # ---- what the provider publishes -------------------------------------------------------------------

    def metadata(self) -> dict[str, Any]:
        """The provider's configuration, kept for an hour. Raises `ServiceAbsent`; a failure is kept too, for
        some seconds, so that strangers cannot make this server ask without end.
        """
        with self._lock:
            at = self.clock()
            if self._metadata and at - self._metadata[0] < FRESH_SECONDS:
                return self._metadata[1]
            if self._failure and at - self._failure[0] < RETRY_SECONDS:
                raise ServiceAbsent(self._failure[1])
            try:
                found = self._discovered()
            except ServiceAbsent as error:
                self._failure = (self.clock(), str(error))
                raise
            self._metadata, self._failure = (self.clock(), found), None
            return found

    def _discovered(self) -> dict[str, Any]:
        config = self.config
        found = self._json("GET", config.issuer.rstrip("/") + DISCOVERY)
        if found.get("issuer") != config.issuer:
            raise ServiceAbsent(
                f"{config.name} calls itself {str(found.get('issuer'))[:200]!r}, and this server is set to "
                f"{config.issuer!r}; an admin has to make the two the same"
            )
        for name in NEEDED:
            if not isinstance(found.get(name), str) or (problem := self._problem_of(found[name])):
                raise ServiceAbsent(
                    f"the configuration of {config.name} has no usable {name}"
                    + (f" ({problem})" if isinstance(found.get(name), str) else "")
                )
        return found

    def _problem_of(self, address: str) -> str:
        """Why an address of the provider's configuration is not used; "" for a good one."""
        secure = urlsplit(address).scheme == "https"
        return "" if secure or self.config.issuer.startswith("http://") else "it is not https"

    def keys(self, again: bool = False) -> list[Any]:
        """The provider's public keys; `again` asks for them anew, at most every `REFETCH_SECONDS`."""
        metadata = self.metadata()
        with self._lock:
            at = self.clock()
            if self._keys and (
                at - self._refetched < REFETCH_SECONDS if again else at - self._keys[0] < FRESH_SECONDS
            ):
                return self._keys[1]
            self._refetched = at if again else self._refetched
            found = usable_keys(self._json("GET", metadata["jwks_uri"]))
            self._keys = (self.clock(), found)
            return found

    def _checked(self, id_token: str, nonce: str, access_token: object) -> dict[str, Any]:
        return checked_claims(
            id_token,
            self.keys,
            issuer=self.config.issuer,
            client_id=self.config.client_id,
            nonce=nonce,
            access_token=access_token if isinstance(access_token, str) else None,
            leeway=self.config.leeway_seconds,
            provider=self.config.name,
        )

    # ---- requests --------------------------------------------------------------------------------------

    def _exchange(
        self, metadata: Mapping[str, Any], code: str, redirect_uri: str, verifier: str
    ) -> Mapping[str, Any]:
        with translating_errors(self.config.name), self._client(redirect_uri, metadata) as client:
            try:
                token: Mapping[str, Any] = client.fetch_token(
                    metadata["token_endpoint"],
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=verifier,
                )
            except AuthlibBaseError as error:
                raise AccessDenied(
                    f"{self.config.name} did not accept this sign-in ({word_of(error.error)}); please retry"
                ) from error
        return token

    def _userinfo(
        self, metadata: Mapping[str, Any], token: Mapping[str, Any], subject: str
    ) -> dict[str, Any]:
        found = self._json(
            "GET",
            metadata["userinfo_endpoint"],
            headers={"Authorization": f"Bearer {token.get('access_token', '')}"},
        )
        if found.get("sub") != subject:
            raise AccessDenied(f"{self.config.name} sent the user information of somebody else")
        return found

    def _json(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        """The JSON object at one of the provider's addresses. Raises `ServiceAbsent`."""
        with translating_errors(self.config.name), self._client() as client:
            response = client.request(method, url, withhold_token=True, **options)
            if response.status_code != 200:
                raise ServiceAbsent(refusal(self.config.name, response.status_code))
            found = json.loads(response.content)
        if not isinstance(found, dict):
            raise ServiceAbsent(f"{self.config.name} answers something else than a JSON object; ask an admin")
        return found

    def _client(self, redirect_uri: str = "", metadata: Mapping[str, Any] | None = None) -> Any:
        scopes = " ".join(dict.fromkeys(("openid", *self.config.scopes)))
        return OAuth2Client(
            client_id=self.config.client_id,
            client_secret=self.secret or None,
            token_endpoint_auth_method=self._auth_method(metadata or {}),
            scope=scopes,
            redirect_uri=redirect_uri or None,
            code_challenge_method="S256",
            transport=Shared(self._transport),
            timeout=self.config.timeout_seconds,
            follow_redirects=False,
            trust_env=False,
        )

    def _auth_method(self, metadata: Mapping[str, Any]) -> str:
        if not self.secret:
            return "none"
        offered = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        return "client_secret_post" if "client_secret_basic" not in offered else "client_secret_basic"


def refusal(name: str, status: int) -> str:
    """The sentence for an HTTP status that is none of success."""
    return f"{name} answers {status} to a request of this server; please try again later, or ask an admin"


def word_of(error: object) -> str:
    """The code of an OAuth error, if it is one: no other words of a provider are repeated."""
    return str(error) if re.fullmatch("[a-z_]{1,40}", str(error)) else "an error"


@contextmanager
def translating_errors(name: str) -> Iterator[None]:
    """Turn what can go wrong with a request to the provider of that name into `ServiceAbsent`."""
    try:
        yield
    except httpx2.HTTPStatusError as error:
        raise ServiceAbsent(refusal(name, error.response.status_code)) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
        raise ServiceAbsent(
            f"{name} does not answer ({type(error).__name__}); please try again later"
        ) from error
    except AddressRefused as error:
        raise ServiceAbsent(
            f"{name} cannot be asked, as this server may not connect to its address; its log says why"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ServiceAbsent(f"{name} answers what cannot be read; ask an admin") from error


def check_issuer(config: SignOnConfig) -> None:
    """Raise `ConfigRefused` unless the settings name a provider over https, or over http on this machine."""
    parts = urlsplit(config.issuer)
    loopback = any(network.is_loopback for network in networks_of(config.issuer))
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
        raise ConfigRefused(
            f"oidc.issuer is {config.issuer!r}; a provider needs https, or http on this machine, since its "
            "keys are believed"
        )
    if parts.username or parts.password:
        raise ConfigRefused("keep credentials out of oidc.issuer")
    if not config.client_id:
        raise ConfigRefused("oidc.client_id is missing: the id under which the provider knows this server")
