"""nginx and Caddy before a server, by the configuration files of the documentation.

Each listens on two ports of loopback, http and https, and serves both "/" and "/clinic/".
"""

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

EXAMPLES = Path(__file__).parents[1] / "docs" / "proxies"
UPSTREAM = "127.0.0.1:7860"
PREFIXES = ("", "/clinic")
PROXIES = ("nginx", "caddy")
PATIENCE_SECONDS = 60.0


class Proxy(NamedTuple):
    """A running proxy: its addresses without a path."""

    name: str
    http: str
    https: str

    @property
    def bases(self) -> list[str]:
        """Where the clinic is found, each without a slash at its end."""
        return [origin + prefix for origin in (self.http, self.https) for prefix in PREFIXES]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate of localhost, and its key."""
    made = folder / "clinic.crt", folder / "clinic.key"
    if not made[0].exists():
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
        command += ["-addext", "subjectAltName=DNS:localhost"]
        command += ["-out", str(made[0]), "-keyout", str(made[1])]
        subprocess.run(command, check=True, capture_output=True)
    return made


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in taken]
    finally:
        for one in taken:
            one.close()


def example(name: str) -> str:
    """A documented configuration, for the server at `UPSTREAM`."""
    return (EXAMPLES / name).read_text(encoding="utf-8")


def nginx_config(folder: Path, upstream: str, ports: list[int]) -> str:
    """The documented server in a configuration that needs no files of the system."""
    crt, key = certificate(folder)
    server = example("nginx.conf")
    for documented, here in (
        ("listen 80;", f"listen 127.0.0.1:{ports[0]};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{ports[1]} ssl;"),
        ("server_name clinic.example;", "server_name localhost;"),
        ("/etc/ssl/clinic.crt", str(crt)),
        ("/etc/ssl/clinic.key", str(key)),
        (UPSTREAM, upstream),
    ):
        assert documented in server, f"docs/proxies/nginx.conf has no {documented!r} any more"
        server = server.replace(documented, here)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    return (
        f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{places}{server}}}\n"
    )


def caddy_config(folder: Path, upstream: str, ports: list[int]) -> str:
    """The documented snippet at addresses of loopback, with our own certificate."""
    crt, key = certificate(folder)
    documented = "clinic.example {\n\timport clinic\n}"
    config = example("Caddyfile")
    assert documented in config and UPSTREAM in config
    here = (
        f"http://localhost:{ports[0]} {{\n\tbind 127.0.0.1\n\timport clinic\n}}\n"
        f"https://localhost:{ports[1]} {{\n\tbind 127.0.0.1\n\ttls {crt} {key}\n\timport clinic\n}}"
    )
    options = "{\n\tadmin off\n\tauto_https off\n}\n"
    return options + config.replace(documented, here).replace(UPSTREAM, upstream)


@contextmanager
def proxy(name: str, folder: Path, upstream: str) -> Iterator[Proxy]:
    """The proxy before the server at `upstream`, HOST:PORT; skips the test where it is not installed."""
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip(f"{name} is not installed (Debian: {name}): it is tested before our server")
    folder.mkdir(parents=True, exist_ok=True)
    ports = free_ports(2)
    make = nginx_config if name == "nginx" else caddy_config
    config = folder / f"{name}.conf"
    config.write_text(make(folder, upstream, ports), encoding="utf-8")
    command = (
        [program, "-p", str(folder), "-c", str(config)]
        if name == "nginx"
        else [program, "run", "--adapter", "caddyfile", "--config", str(config)]
    )
    log = folder / f"{name}.log"
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=home) as running,
    ):
        try:
            for port in ports:
                wait_for(port, running, log)
            yield Proxy(name, f"http://localhost:{ports[0]}", f"https://localhost:{ports[1]}")
        finally:
            running.terminate()
            running.wait(20)


def wait_for(port: int, running: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the port takes connections. Raises `RuntimeError` with what the proxy said."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if running.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text(errors="replace")[-2000:]) from None
            time.sleep(0.02)


def unverified() -> ssl.SSLContext:
    """For clients of the self-signed certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
