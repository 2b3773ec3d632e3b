"""What people who are not signed in cost, and the walks behind proxies.

1,000 wrong sign-ins arrive at once from 100 addresses of loopback and are sent again until each was judged,
while an annotator works; then the attacks on memory, one by one, on the same server. Every refusal has its
control in the same run: the right password of somebody else, and an annotator's next image.
"""

import asyncio
import base64
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil

from dataengine.masks import pack_label_map
from storage.workspace import Workspace
from tests.bench import harness
from tests.bench.annotate_server import (
    PASSWORD,
    artifact_map,
    soft_image,
    workspace_with_queue,
)
from tests.bench.harness import ROOT, Figure, figure, p95, share
from tests.bench.web_server import Server, server_process

ADDRESSES = [f"127.0.1.{number + 1}" for number in range(100)]
PEOPLE = ["ada", "ben"]
SIDE, LARGE = 512, 4096
PAUSE_SECONDS = 0.05
SETTINGS = ("desks=false",)
Gauge = Callable[[], float]


def figures(quick: bool) -> list[Figure]:
    """All of the part's figures; with `quick` from a tenth of the load and one walk."""
    harness.RESULTS.mkdir(parents=True, exist_ok=True)
    found: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="strangers-", dir=harness.RESULTS) as folder:
        images = [soft_image(number, SIDE) for number in range(40)] + [soft_image(99, LARGE)]
        maps = [artifact_map(number, SIDE) for number in range(40)]
        workspace = workspace_with_queue(Path(folder) / "workspace", images, maps, PEOPLE)
        with server_process(ROOT, workspace.path, *SETTINGS) as server:
            found += flood_figures(server, 100 if quick else 1000)
        with server_process(ROOT, workspace.path, *SETTINGS) as server:
            found += memory_figures(server, workspace, 0.1 if quick else 1.0)
        workspace.close()
        found += walk_figures(Path(folder), quick)
    return found


# ---- an annotator under a flood ----


class Annotator:
    """Asks for the next image and gives it back, again and again."""

    def __init__(self, url: str, name: str = PEOPLE[0]) -> None:
        self.client = httpx.Client(base_url=url, timeout=60)
        answer = self.client.post("/api/login", json={"name": name, "password": PASSWORD})
        answer.raise_for_status()
        self.client.headers["X-Clinic-CSRF"] = answer.json()["csrf"]

    def next_ms(self) -> float:
        began = time.perf_counter()
        answer = self.client.get("/api/annotate/next")
        took = 1000 * (time.perf_counter() - began)
        answer.raise_for_status()
        self.client.post("/api/annotate/release", json={"lease": answer.json()["lease"]}).raise_for_status()
        return took

    def work(self, until: Callable[[int], bool]) -> list[float]:
        """Milliseconds of each `next` until the number of them is enough."""
        took: list[float] = []
        while not until(len(took)):
            took.append(self.next_ms())
            time.sleep(PAUSE_SECONDS)
        return took


def flood_figures(server: Server, count: int) -> list[Figure]:
    """An annotator's `next` without and with the flood, and what became of the flood."""
    annotator = Annotator(server.url)
    annotator.work(lambda done: done >= 10)
    alone = annotator.work(lambda done: done >= 100)
    command = [sys.executable, "-m", "tests.bench.access_strangers", server.url, str(count)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as flood:
        assert flood.stdout is not None and flood.stdout.readline() == "begin\n"
        took = annotator.work(lambda done: flood.poll() is not None or done >= 2000)
        other = httpx.post(
            f"{server.url}/api/login", json={"name": PEOPLE[1], "password": PASSWORD}, timeout=60
        )
        told = json.loads(flood.stdout.read())
    return [
        p95("flood_p95_ms", took, note=f"an annotator's next under {count} wrong sign-ins at once"),
        p95("flood_alone_p95_ms", alone, note="the control: the same without them"),
        figure("flood_seconds", told["seconds"], unit="s", n=count, note="until all were judged"),
        figure("flood_let_in", told.get("200", 0), unit="sign-ins", n=count),
        figure("flood_told_to_wait", told.get("503", 0), unit="replies", n=count, note="and sent again"),
        figure("flood_others_get_in", other.status_code == 200, note="the right password of somebody else"),
    ]


async def flood(url: str, count: int) -> dict[str, float]:
    """Send wrong passwords for one known and many unknown names, each until it is judged."""
    told: dict[str, float] = {}
    clients = [
        httpx.AsyncClient(
            base_url=url, timeout=120, transport=httpx.AsyncHTTPTransport(local_address=one, retries=2)
        )
        for one in ADDRESSES
    ]

    async def guess(number: int) -> None:
        name = PEOPLE[0] if number % 2 else f"name-{number}"
        client = clients[number % len(clients)]
        for attempt in range(200):
            try:
                body = {"name": name, "password": f"guess {number} of many"}
                reply = await client.post("/api/login", json=body)
                status, wait = str(reply.status_code), float(reply.headers.get("retry-after", 1))
            except httpx.HTTPError as error:
                status, wait = type(error).__name__, 1.0
            told[status] = told.get(status, 0) + 1
            if status in ("200", "401"):
                return
            await asyncio.sleep(wait * (0.5 + (37 * number + attempt) % 100 / 100))

    print("begin", flush=True)
    began = time.monotonic()
    await asyncio.gather(*(guess(number) for number in range(count)))
    for client in clients:
        await client.aclose()
    return told | {"seconds": time.monotonic() - began}


# ---- memory ----


@contextmanager
def watched(pid: int) -> Iterator[Gauge]:
    """Yields a function for the most MB that the process grew by since here."""
    process, over = psutil.Process(pid), threading.Event()
    start = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not over.wait(0.02):
            most = max(most, process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: (most - start) / 1e6
    finally:
        over.set()
        thread.join()


def memory_figures(server: Server, workspace: Workspace, part: float) -> list[Figure]:
    """The most memory of every attack, in the order in which they are tried, and whether work went on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    annotator = Annotator(server.url)
    annotator.work(lambda done: done >= 20)
    address = (urlsplit(server.url).hostname or "", urlsplit(server.url).port or 0)

    def connections(count: int, first: bytes, drip: bytes = b"") -> Callable[[], None]:
        return lambda: asyncio.run(hold(address, max(1, round(count * part)), first, drip))

    head = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    inner = b"POST /api/annotate/submit HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    attacks: dict[str, Callable[[], None]] = {
        "sign-ins": lambda: print(asyncio.run(flood(server.url, round(1000 * part))), file=sys.stderr),
        "unfinished bodies": connections(1000, head + b"Content-Length: 16000\r\n\r\n" + b"a" * 15000, b"a"),
        "unread bodies": connections(500, inner + b"Content-Length: 8000000\r\n\r\n" + b"a" * 200_000, b"a"),
        "slow headers": connections(1100, b"GET /login HTTP/1.1\r\nHost: 127.0.0.1\r\nX-", b"a"),
        "long headers": connections(500, b"GET /login HTTP/1.1\r\nX-A: " + b"a" * 60_000, b"a" * 100),
        "silent connections": connections(3000, b""),
        "big drafts": lambda: drafts(server.url, workspace, max(2, round(20 * part))),
    }
    found, went_on = [], 0
    for name, attack in attacks.items():
        with watched(server.pid) as grown:
            thread = threading.Thread(target=attack, daemon=True)
            thread.start()
            slowest, answered = 0.0, True
            while thread.is_alive():
                try:
                    slowest = max(slowest, annotator.next_ms())
                except httpx.HTTPError as error:
                    answered = False
                    print(f"{name}: {error!r}", file=sys.stderr)
                time.sleep(PAUSE_SECONDS)
            went_on += answered
            slug = name.replace(" ", "_").replace("-", "_")
            note = f"the slowest next meanwhile took {slowest:.0f} ms"
            found.append(figure(f"stranger_mb_{slug}", grown(), unit="MB", note=note))
            print(f"{name}: {grown():.0f} MB; {note}", file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    worst = max(found, key=lambda one: float(one.value))
    return [
        figure("stranger_mb", worst.value, unit="MB", n=len(found), note=f"the most of all: {worst.id}"),
        share("strangers_work_goes_on", went_on, len(found), note="attacks during which next was answered"),
        *found,
    ]


async def hold(address: tuple[str, int], count: int, first: bytes, drip: bytes, seconds: float = 6.0) -> None:
    """Open connections from all addresses, send `first`, then a `drip` each second; then close them."""

    async def one(number: int) -> None:
        try:
            local = (ADDRESSES[number % len(ADDRESSES)], 0)
            _, writer = await asyncio.open_connection(*address, local_addr=local)
        except OSError:
            return
        try:
            writer.write(first)
            for _ in range(round(seconds)):
                await asyncio.sleep(1)
                writer.write(drip)
                await asyncio.wait_for(writer.drain(), 1)
        except (OSError, TimeoutError):
            pass
        finally:
            writer.close()

    await asyncio.gather(*(one(number) for number in range(count)))


def drafts(url: str, workspace: Workspace, count: int) -> None:
    """Small drafts of a large image, from a person whose password is known to strangers."""
    person = Annotator(url, PEOPLE[1])
    with workspace.catalog(read_only=True) as catalog:
        image = next(one.id for one in catalog.images.find() if one.height == LARGE)
    person.client.get("/api/annotate/next", params={"prefer": image}).raise_for_status()
    drawn = np.zeros((LARGE, LARGE), np.uint8)
    drawn[::2, :: LARGE // 4] = 1
    body = {"image": image, "label_map": base64.b64encode(pack_label_map(drawn)).decode(), "seconds": 1.0}

    async def all_at_once() -> None:
        client = httpx.AsyncClient(base_url=url, timeout=120, headers=person.client.headers)
        client.cookies = person.client.cookies
        replies = await asyncio.gather(
            *(client.post("/api/annotate/draft", json=body) for _ in range(count)), return_exceptions=True
        )
        print("drafts:", [getattr(one, "status_code", one) for one in replies][:3], file=sys.stderr)
        await client.aclose()

    asyncio.run(all_at_once())


# ---- walks behind proxies ----


def walk_figures(folder: Path, quick: bool) -> list[Figure]:
    """The share of walks that pass behind nginx and Caddy; with `quick` one role's behind one of them."""
    from playwright.sync_api import sync_playwright

    from storage.opening import create_workspace
    from tests.proxies import PROXIES, proxy
    from tests.services import chromium_path
    from tests.ui.browsing import FLAGS
    from tests.ui.conftest import add_people, furnish
    from tests.walks import ROLES, walk

    workspace = create_workspace(folder / "walked")
    furnish(workspace)
    add_people(workspace)
    walks: dict[str, str] = {}
    settings = ('trusted_proxies=["127.0.0.1"]',)
    with sync_playwright() as playwright, server_process(ROOT, workspace.path, *settings) as server:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        upstream = server.url.removeprefix("http://")
        for name in PROXIES[:1] if quick else PROXIES:
            with proxy(name, folder / name, upstream) as before:
                for base in before.bases[-1:] if quick else before.bases:
                    for what, problem in walk(browser, base, ROLES[:1] if quick else ROLES):
                        walks[f"{name}: {what}"] = problem
        browser.close()
    workspace.close()
    for what, problem in walks.items():
        if problem:
            print(f"{what}: {problem}", file=sys.stderr)
    passed = sum(not problem for problem in walks.values())
    return [share("proxy_walks", passed, len(walks), note="steps behind nginx and Caddy, / and /clinic/")]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(flood(sys.argv[1], int(sys.argv[2])))), flush=True)
