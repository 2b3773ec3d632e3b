"""Parts of `make bench-access`: private addresses by every door that connects, and faults of sign-on.

An address counts as reached when this process begins a connection to a private address that nobody permitted.
A location that writes an address out in the usual form is such a permission for whoever types it into a
command; browsers cannot, as registering it is refused, which is tried here too.
"""

import ipaddress
import logging
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import httpx

from dataengine.curation.config import EndpointConfig
from dataengine.curation.endpoints import Endpoint
from dataengine.errors import ClinicError, ConfigRefused
from dataengine.outgoing import VARIABLE, is_permitted, is_public, parsed_networks
from pipelines.exchange.label_studio.server import Server
from pipelines.services.admin.endpoint_tests import check_endpoint
from pipelines.services.endpoints import checked_endpoint
from pipelines.services.operation.webhooks import post
from pipelines.services.sign_on.config import SignOnConfig
from pipelines.services.sign_on.provider import SECRET, Provider
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests import bad_provider
from tests.bad_provider import FAULTS, BadProvider, begin, client_of, come_back, config_of, signed_in, who
from tests.bench.harness import Figure, figure
from ui.config import ServerConfig
from ui.server import create_app

PUBLIC = "93.184.216.34"
FORMS = (
    *("127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001"),
    *("0", "0.0.0.0", "localhost", "LOCALHOST.", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]"),
    *(
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "198.18.0.1",
        "169.254.169.254",
    ),
    *("168.63.129.16", "224.0.0.1", "[fd00:ec2::254]", "[fe80::1]", "[fec0::1]", "[64:ff9b::7f00:1]"),
    *("[64:ff9b:1::a00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "metadata.google.internal"),
)
"""Private hosts as an address can write them."""
ODD_FORMS = ("127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "0")
"""Those that no setting, and no typing of it, permits."""
ANSWERS = (
    *("127.0.0.1", "10.0.0.1", "169.254.169.254", "100.100.100.200", "168.63.129.16", "0.0.0.0", "::1"),
    *("::ffff:127.0.0.1", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "fec0::1"),
    *("fd00:ec2::254", f"{PUBLIC} 127.0.0.1", f"::1 {PUBLIC}"),
)
"""What a hostile name server answers; several addresses by spaces."""
KINDS = ("vqa", "llm", "label-studio", "webhook")

Connect = Callable[[str, int], object]
"""Connects to a host and port, or refuses."""


@dataclass
class Watch:
    """Where this process connects, and what names resolve to."""

    answers: list[str] = field(default_factory=list)
    """Of `*.test`, one for each question; the last one stays."""
    permitted: tuple[Any, ...] = ()
    reached: list[str] = field(default_factory=list)
    """Private addresses to which a connection began that nobody permitted."""
    connected: list[str] = field(default_factory=list)

    def getaddrinfo(self, host: Any, port: Any, *rest: Any, **named: Any) -> Any:
        """The controlled answers for names below `test`, the system's for others."""
        name = host.decode() if isinstance(host, bytes) else str(host)
        if not name.rstrip(".").endswith(".test"):
            return SYSTEM_ADDRESSES(host, port, *rest, **named)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port or 0))
            for one in answer.split()
        ]

    def create_connection(self, address: tuple[str, int], *rest: Any, **named: Any) -> Any:
        """Connects to this machine where that is permitted, and nowhere else."""
        try:
            targets = [ipaddress.ip_address(address[0])]
        except ValueError:  # a name that nobody checked: whatever it leads to now
            targets = [ipaddress.ip_address(info[4][0]) for info in self.getaddrinfo(*address)]
        for target in targets:
            self.connected.append(str(target))
            if not is_permitted(target, self.permitted):
                self.reached.append(f"{address[0]} {target}")
        if any(is_public(target) or not is_permitted(target, self.permitted) for target in targets):
            raise OSError("nothing leaves this machine")
        return SYSTEM_CONNECTION(address, *rest, **named)


SYSTEM_ADDRESSES, SYSTEM_CONNECTION = socket.getaddrinfo, socket.create_connection


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch this process's connections."""
    watch = Watch(answers=[PUBLIC])
    with (
        mock.patch.object(socket, "getaddrinfo", watch.getaddrinfo),
        mock.patch.object(socket, "create_connection", watch.create_connection),
    ):
        yield watch


@contextmanager
def target() -> Iterator[tuple[int, list[str]]]:
    """A server on all addresses of this machine: its port, and the requests that it got. `/away` leads to
    another address of this machine.
    """
    got: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            got.append(f"{self.headers['Host']} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            away = self.path.startswith("/away")
            self.send_response(307 if away else 404)
            if away:
                self.send_header("Location", f"http://127.0.0.2:{server.server_port}/in")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server.server_port, got
    server.shutdown()
    server.server_close()
    thread.join(5)


def ask_endpoint(url: str) -> None:
    """One question of a stage to a model behind a URL."""
    config = EndpointConfig(timeout_seconds=2, attempts=1, patience_seconds=0)
    Endpoint(f"{url}#model", config).complete("?", seed=0, new_tokens=1, temperature=0.0)


def ask_provider(url: str) -> None:
    """The discovery of a provider of sign-on."""
    Provider(SignOnConfig(issuer=url, client_id="clinic", timeout_seconds=2)).metadata()


DOORS: dict[str, Callable[[str], object]] = {
    "endpoint": ask_endpoint,
    "webhook": lambda url: post(url, b"{}", {}).raise_for_status(),
    "Label Studio": lambda url: Server.connect(url, "token"),
    "sign-on": ask_provider,
}
"""What connects while the product runs."""


def attempt(action: Callable[[], object]) -> str:
    """The error with which it ended; "" without one."""
    try:
        action()
    except (ClinicError, httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""


def tries(watch: Watch, port: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """(what is tried, the try); the watch answers names as the try wants."""
    for kind in KINDS:
        scheme = "https" if kind == "webhook" else "http"
        for host in FORMS:
            url = f"{scheme}://{host}:{port}/v1"
            yield f"register {kind}", lambda kind=kind, url=url: checked_endpoint(kind, "x", url)  # type: ignore[misc]
            yield f"test {kind}", lambda kind=kind, url=url: check_endpoint(kind, "x", url)  # type: ignore[misc]
        for answer in ANSWERS:
            watch.answers = [answer]
            url = f"{scheme}://inside.test:{port}/v1"
            yield f"register {kind}", lambda kind=kind, url=url: checked_endpoint(kind, "x", url)  # type: ignore[misc]
            watch.answers = [PUBLIC, answer]
            yield f"rebind test {kind}", lambda kind=kind, url=url: check_endpoint(kind, "x", url)  # type: ignore[misc]
    for door, action in DOORS.items():
        secure = door in ("webhook", "sign-on")
        for host in ODD_FORMS:
            yield f"run {door}", lambda action=action, host=host: action(f"http://{host}:{port}/v1")  # type: ignore[misc]
        for answer in ANSWERS:
            url = f"{'https' if secure else 'http'}://inside.test:{port}/v1"
            watch.answers = [answer]
            yield f"run {door}", lambda action=action, url=url: action(url)  # type: ignore[misc]
        url = f"http://127.0.0.1:{port}/away"
        yield f"redirect {door}", lambda action=action, url=url: action(url)  # type: ignore[misc]


def addresses() -> list[Figure]:
    """Every private address by every door, and an allowed one by the same doors."""
    tried: dict[str, int] = {}
    with watched() as watch, target() as (port, got):
        watch.permitted = parsed_networks(("127.0.0.1/32",))  # what the redirecting location writes out
        unexplained = []
        for name, action in tries(watch, port):
            if name.startswith("redirect"):
                before = len(watch.reached)
            else:
                watch.permitted, before = (), len(watch.reached)
            said = attempt(action)
            tried[name.split()[0]] = tried.get(name.split()[0], 0) + 1
            if not said:
                unexplained.append(name)
            if len(watch.reached) > before:
                print(f"REACHED by {name}: {watch.reached[before:]}")
            watch.permitted = parsed_networks(("127.0.0.1/32",))
        led_inside = [one for one in got if one.endswith("/in")]
        controls = allowed(watch, port, got)
    by_door = ", ".join(f"{door} {count}" for door, count in tried.items())
    count = sum(tried.values())
    reached = len(watch.reached) + len(led_inside) + len(unexplained)
    return [
        figure("addresses_tried", count, n=count, note=by_door),
        figure("addresses_reached", reached, n=count, note="connections begun, or no sentence"),
        figure(
            "addresses_control", controls, n=len(DOORS) + 1, note="an allowed address is reached by each door"
        ),
    ]


def allowed(watch: Watch, port: int, got: list[str]) -> bool:
    """Whether each door reaches an address whose network is allowed, under its name."""
    watch.answers, watch.permitted = ["127.0.0.1"], parsed_networks(("127.0.0.0/8",))
    reached = []
    with mock.patch.dict(os.environ, {VARIABLE: "127.0.0.0/8"}):
        url = f"http://inside.test:{port}/v1"
        doors: list[Callable[[], object]] = [lambda: check_endpoint("vqa", "x", url)]
        for name, action in DOORS.items():
            # Webhooks and providers need https by a name, and take http on this machine.
            where = f"http://127.0.0.1:{port}/v1" if name in ("webhook", "sign-on") else url
            doors.append(lambda action=action, where=where: action(where))  # type: ignore[misc]
        for door in doors:
            before = len(got)
            attempt(door)
            reached.append(len(got) > before)
    return all(reached)


# ---- sign-on -------------------------------------------------------------------------------------------


@contextmanager
def real_provider() -> Iterator[str]:
    """A provider in a process of its own; its issuer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "oidc_provider_mock", "--host", "localhost", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    issuer = f"http://localhost:{port}"
    try:
        for _ in range(600):
            try:
                httpx.get(f"{issuer}/jwks")
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield issuer
    finally:
        process.terminate()
        process.wait(10)


def good_sign_ins(workspace: Workspace) -> int:
    """Right sign-ins at a real provider, by people of different groups, one of them twice."""
    right = 0
    with real_provider() as issuer:
        client = client_of(workspace, config_of(issuer, end_provider_session=False))
        people = (
            ("u1", "berta", "drawers"),
            ("u2", "carla", "leads"),
            ("u3", "dora", "drawers"),
            ("u1", "berta", "leads"),
        )
        for subject, name, group in people:
            httpx.put(f"{issuer}/users/{subject}", json={"preferred_username": name, "groups": [group]})
            sent = httpx.post(begin(client, "/annotate"), data={"sub": subject})
            back = come_back(client, sent.headers["location"])
            person = who(client)
            roles = {"drawers": ["annotator"], "leads": ["curator", "admin"]}[group]
            right += (
                back.status_code == 303
                and person["name"] == name
                and sorted(person["roles"]) == sorted(roles)
            )
            client.post("/api/logout", headers={"X-Clinic-CSRF": person["csrf"]})
            right -= client.get("/api/session").status_code != 401
    return right


def ends_well(client: Any, answer: Any, words: str) -> bool:
    """Whether a fault ended in a page with its sentence and a way back, and nobody is in."""
    text = answer.text.replace("&#39;", "'")
    page = answer.status_code in (403, 503) and words in text and 'href="/login' in text
    return page and client.get("/api/session").status_code == 401


def faulty_sign_ins(workspace: Workspace) -> tuple[int, list[str], int]:
    """(faults met, those that let somebody in or were not explained, right sign-ins between them)."""
    wrong, between = [], 0
    with BadProvider() as provider:
        for fault, words in FAULTS.items():
            provider.fault = ""
            client = client_of(workspace, config_of(provider.issuer))
            between += signed_in(client, provider).status_code == 303
            slow = 0.5 if "slow" in fault else 5.0
            client = client_of(workspace, config_of(provider.issuer, timeout_seconds=slow))
            provider.fault = fault
            answer: Any = client.get("/login/sso")
            if answer.status_code == 303:
                answer = come_back(client, provider.sign_in(answer.headers["location"]))
            if not ends_well(client, answer, words):
                wrong.append(fault)
        provider.fault = ""
        for name, met in OTHER_FAULTS.items():
            if not met(workspace, provider):
                wrong.append(name)
    return len(FAULTS) + len(OTHER_FAULTS), wrong, between


def replayed(workspace: Workspace, provider: BadProvider) -> bool:
    """The same way back twice, with the cookie that the first one had."""
    client = client_of(workspace, config_of(provider.issuer))
    back = provider.sign_in(begin(client))
    kept = list(client.cookies.jar)
    if come_back(client, back).status_code != 303:
        return False
    client.cookies.clear()
    for cookie in kept:
        client.cookies.jar.set_cookie(cookie)
    return ends_well(client, come_back(client, back), "was used already")


def stolen(workspace: Workspace, provider: BadProvider) -> bool:
    """A way back in another browser than the one that began."""
    client, thief = (client_of(workspace, config_of(provider.issuer)) for _ in range(2))
    return ends_well(thief, come_back(thief, provider.sign_in(begin(client))), "in another browser")


def reused(workspace: Workspace, provider: BadProvider) -> bool:
    """A code that another sign-in has used."""
    first, second = (client_of(workspace, config_of(provider.issuer)) for _ in range(2))
    back = provider.sign_in(begin(first))
    if come_back(first, back).status_code != 303:
        return False
    used = re.findall(r"code=([^&]+)", back)[0]
    again = re.sub(r"code=[^&]+", f"code={used}", provider.sign_in(begin(second)))
    return ends_well(second, come_back(second, again), "did not accept this sign-in")


def forged(workspace: Workspace, provider: BadProvider) -> bool:
    """A cookie of the sign-in that this server did not sign."""
    client = client_of(workspace, config_of(provider.issuer))
    back = provider.sign_in(begin(client))
    name = next(iter(client.cookies))
    client.cookies.clear()
    client.cookies.set(name, secrets.token_urlsafe(99), domain="127.0.0.1", path="/login/sso")
    return ends_well(client, come_back(client, back), "has expired")


def rotated(workspace: Workspace, provider: BadProvider) -> bool:
    """New keys: the right person still gets in, and a token by the former key does not."""
    client = client_of(workspace, config_of(provider.issuer))
    signed_in(client, provider)
    former = provider.key
    provider.rotate()
    if signed_in(client, provider).status_code != 303:
        return False
    new, provider.key = provider.key, former
    with mock.patch.object(
        BadProvider,
        "keys",
        lambda self, request: bad_provider.reply(request, 200, {"keys": [new.as_dict(private=False)]}),
    ):
        late = client_of(workspace, config_of(provider.issuer))
        answer = signed_in(late, provider)
    provider.key = new
    return ends_well(late, answer, "signed by a key that it does not publish")


def without_role(workspace: Workspace, provider: BadProvider) -> bool:
    """A person whose groups give no role."""
    client, former = client_of(workspace, config_of(provider.issuer)), provider.claims
    provider.claims = {"sub": "stranger", "groups": ["visitors"]}
    answer = signed_in(client, provider)
    provider.claims = former
    return ends_well(client, answer, "none of your groups has a role here")


def over_http(workspace: Workspace, provider: BadProvider) -> bool:
    """A provider over plain http, which is refused when the server starts."""
    try:
        create_app(workspace, ServerConfig(desks=False, oidc=config_of("http://sso.example.org")))
    except ConfigRefused as error:
        return "needs https" in str(error)
    return False


OTHER_FAULTS: dict[str, Callable[[Workspace, BadProvider], bool]] = {
    "replayed state": replayed,
    "another browser's state": stolen,
    "reused code": reused,
    "forged cookie": forged,
    "rotated keys": rotated,
    "no role": without_role,
    "http issuer": over_http,
}


def sign_on() -> list[Figure]:
    """Right sign-ins and every fault."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {SECRET: bad_provider.SECRET}):
        workspace = create_workspace(Path(folder) / "workspace")
        admit_an_admin(workspace)
        good = good_sign_ins(workspace)
        met, wrong, between = faulty_sign_ins(workspace)
        workspace.close()
    if wrong:
        print(f"LET IN OR UNEXPLAINED: {', '.join(wrong)}")
    return [
        figure("oidc_good", good, n=4, note=f"at a real provider; {between} of {len(FAULTS)} between faults"),
        figure("oidc_faults", met, n=met, note="each a page with a sentence and a way back"),
        figure(
            "oidc_let_in",
            len(wrong) + len(FAULTS) - between,
            n=met,
            note="let in, or unexplained, or a control that failed",
        ),
    ]


def admit_an_admin(workspace: Workspace) -> None:
    """A local admin, without whom nobody else may be first."""
    from storage.accounts import create_user

    with workspace.catalog() as catalog:
        create_user(catalog, "root", secrets.token_urlsafe(12), ["admin"], "bench")
        catalog.commit()


def figures(quick: bool) -> list[Figure]:
    """All of them; the quick form is the whole, which takes about a minute."""
    parts: Sequence[Callable[[], list[Figure]]] = (addresses, sign_on)
    return [one for part in parts for one in part()]


if __name__ == "__main__":
    from tests.bench.harness import table

    logging.disable(logging.WARNING)
    for part in (addresses, sign_on):
        print(table(part()), flush=True)
