"""Settings of the web server."""

from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from dataengine.config import Config
from pipelines.services.sign_on.config import SignOnConfig

Origin = Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.*\-]+(:[0-9]{1,5})?$")]

SubPath = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$")]


def network(text: str) -> str:
    """The text of an address or a network. Raises `ValueError` for anything else."""
    try:
        ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no address or network, such as 127.0.0.1 or 10.0.0.0/8") from None
    return text


Network = Annotated[str, AfterValidator(network)]


class ServerConfig(Config):
    """Where the server listens and how much it allows."""

    host: str = "127.0.0.1"
    """Address to listen on. Any address but loopback needs accounts (`clinic users add`)."""
    port: int = 7860
    """Port to listen on; 0 takes a free one."""
    allowed_hosts: tuple[str, ...] = ()
    """Further host names of the server; loopback and the bound address always work."""
    trusted_proxies: tuple[Network, ...] = ()
    """Addresses and networks of reverse proxies ("127.0.0.1", "10.0.0.0/8"), whose X-Forwarded-For, -Proto,
    -Host, -Port, -Prefix and Forwarded headers are believed; those of others are ignored."""
    root_path: SubPath = ""
    """Sub-path of the pages ("/clinic") behind a proxy that sends no X-Forwarded-Prefix."""
    secure_cookies: bool = False
    """Mark cookies Secure: set it behind HTTPS, unless a trusted proxy sends X-Forwarded-Proto."""
    session_hours: float = 12.0
    """Hours after which a sign-in ends."""
    lease_minutes: float = 15.0
    """Minutes for which an image stays with the annotator who opened it."""
    max_body_bytes: int = 8 * 2**20
    """Largest request body in bytes, for label maps and files; others hold 1 MiB, and 16 KiB before signing
    in."""
    max_upload_bytes: int = 512 * 2**20
    """Largest upload of image files in bytes, all files of one request together."""
    body_seconds: float = 60.0
    """Seconds within which a request's body has to arrive."""
    login_failures: int = 10
    """Wrong passwords for one name from one address within ten minutes before sign-in pauses there; five
    times as many for all names."""
    local_accounts: bool = True
    """Accept names and passwords of this workspace; turn it off where everybody signs in with `oidc`."""
    oidc: SignOnConfig = SignOnConfig()
    """Single sign-on with an OpenID Connect provider."""
    allowed_networks: tuple[str, ...] = ()
    """Private networks ("10.0.0.0/8", "127.0.0.1/32") in which an admin may register endpoints, and in which
    `oidc` may be."""
    embed_in: tuple[Origin, ...] = ()
    """Origins of sites ("https://portal.example.org") that may show these pages in a frame; by default
    none."""
    desks: bool = True
    """Mount the Gradio desks; without them only sign-in, home, /annotate and its API are served."""
    metrics: Literal["auto", "off", "loopback", "token"] = "auto"
    """Who may read /metrics: with "token" those who send the token of CLINIC_METRICS_TOKEN or
    CLINIC_METRICS_TOKEN_FILE as `Authorization: Bearer`; with "loopback" also programs on this machine that
    connect without a proxy; "auto" is "loopback" while there are no accounts, then "token"; with "off"
    nobody."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe lines that `server.log` gets; requests are "info"."""
    log_bytes: int = Field(default=5_000_000, ge=10_000)
    """Size in bytes at which `server.log` begins anew."""
    log_files: int = Field(default=5, ge=1, le=1000)
    """Former files of `server.log` that are kept."""
    start_token: str = ""
    """Start-up token that opens the server while it has no accounts; empty generates one."""
