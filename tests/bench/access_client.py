"""The Python client beside bare HTTP, and an assistant that curates, trains and compares by MCP alone.

`client_rate` answers one queue in turns by the client and by httpx with bodies packed beforehand, over
connections of one kind to one server process. `mcp_round` runs `clinic mcp --write` over stdio on a workspace
of the embedded clinic with a worker of its own.
"""

import base64
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np

from dataengine.masks import pack_label_map
from pipelines.services.admin.tokens import create_token
from storage.accounts import create_user
from storage.workspace import Workspace
from tests.bench import harness
from tests.bench.annotate_server import PASSWORD, artifact_map, served, soft_image, workspace_with_queue
from tests.bench.harness import ROOT, Figure, bootstrap, figure
from tests.bench.web_server import server_process
from tests.pipelines.rig import crew
from tests.ui.world import REAL, settle
from ui.client import Clinic
from ui.client.transport import BASE

SIDE, ANSWERS, TURNS = 512, 10, 20
"""Labels of one turn, and turns of each."""
SEED = 0
ROLES = ("annotator", "curator", "engineer")
RECIPE = "cpu-smoke"
GENEROUS = 300.0
"""Seconds for one run."""


def figures(quick: bool) -> list[Figure]:
    """All of the part's figures; with `quick` from a fifth of the answers."""
    harness.RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="client-", dir=harness.RESULTS) as folder:
        return [client_rate(Path(folder), TURNS // 5 if quick else TURNS), mcp_round(Path(folder))]


def client_rate(folder: Path, turns: int) -> Figure:
    """Labels a second by the client over those by bare HTTP, the median of paired turns."""
    count = 2 * ANSWERS * (turns + 1)
    images, maps = [soft_image(n, SIDE) for n in range(count)], [artifact_map(n, SIDE) for n in range(4)]
    workspace = workspace_with_queue(folder / "rate", images, maps, ["ada"])
    token = token_of(workspace, "ada", ["annotator"])
    label_map = (artifact_map(5, SIDE) > 0.5).astype(np.uint8)
    packed = base64.b64encode(pack_label_map(label_map)).decode()
    with served(workspace) as url, Clinic(url, token) as clinic, bare_client(url, token) as http:
        sides: list[Callable[[], float]] = [
            lambda: timed(lambda: by_client(clinic, label_map)),
            lambda: timed(lambda: by_http(http, packed)),
        ]
        warm_up = [side() for side in sides]
        assert all(warm_up)
        pairs = [taken(sides, turn) for turn in range(turns)]
    workspace.close()
    ratios = [bare / client for client, bare in pairs]
    rates = [ANSWERS / float(np.median([pair[side] for pair in pairs])) for side in (0, 1)]
    note = (
        f"{rates[0]:.0f} by the client and {rates[1]:.0f} by httpx, each {turns * ANSWERS} labels of {SIDE}²"
    )
    middle = lambda drawn: float(np.median(drawn))  # noqa: E731
    return figure("client_rate", float(np.median(ratios)), bootstrap(ratios, middle), "ratio", turns, note)


def taken(sides: list[Callable[[], float]], turn: int) -> tuple[float, float]:
    """Seconds of the client and of bare HTTP; which goes first alternates."""
    if turn % 2:
        bare, client = sides[1](), sides[0]()
        return client, bare
    return sides[0](), sides[1]()


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def by_client(clinic: Clinic, label_map: np.ndarray) -> None:
    for _ in range(ANSWERS):
        task = clinic.queue.next()
        assert task is not None, "the queue is empty"
        clinic.queue.submit(task, label_map, seconds=1.0)


def by_http(http: httpx.Client, packed: str) -> None:
    for _ in range(ANSWERS):
        task = http.get("/annotate/next").raise_for_status().json()
        answer = {
            "lease": task["lease"],
            "image": task["image"]["id"],
            "revision": task["revision"],
            "label_map": packed,
            "seconds": 1.0,
            "key": uuid.uuid4().hex,
        }
        http.post("/annotate/submit", json=answer).raise_for_status()


def bare_client(url: str, token: str) -> httpx.Client:
    """What a program without the client would use."""
    return httpx.Client(base_url=f"{url}{BASE}", headers={"Authorization": f"Bearer {token}"}, timeout=60)


def token_of(workspace: Workspace, name: str, roles: list[str]) -> str:
    """An API token of an account."""
    return create_token(workspace, name, "bench", roles, 1, "bench")[0]


def mcp_round(folder: Path) -> Figure:
    """Whether an assistant gets from a workspace with labels to a compared detector and generator by MCP."""
    settle(folder / "prepared").close()
    shutil.copytree(folder / "prepared", folder / "round")
    with crew(folder / "round", "sqlite") as team:
        with team.workspace.catalog() as catalog:
            create_user(catalog, "robot", PASSWORD, ROLES, "bench")
            catalog.commit()
        token = token_of(team.workspace, "robot", [*ROLES])
        team.start(REAL)
        with server_process(ROOT, team.workspace.path, "desks=false") as server:
            began = time.perf_counter()
            done, calls = anyio.run(assistants_round, server.url, token)
            seconds = time.perf_counter() - began
    note = f"{calls} calls of `clinic mcp --write` over stdio in {seconds:.0f} s, recipe {RECIPE}"
    return figure("mcp_round", done, n=1, note=note)


async def assistants_round(url: str, token: str) -> tuple[bool, int]:
    """Curate, train, treat and compare with the tools alone; whether all of it gave results, and the number
    of calls."""
    from fastmcp import Client
    from fastmcp.client.transports import StdioTransport

    environment = {**os.environ, "CLINIC_URL": url, "CLINIC_TOKEN": token, "PYTHONPATH": str(ROOT)}
    transport = StdioTransport(
        sys.executable, ["-m", "app", "mcp", "--write"], env=environment, cwd=str(ROOT), keep_alive=False
    )
    calls = 0
    async with Client(transport, timeout=GENEROUS) as client:

        async def call(tool: str, /, **arguments: Any) -> tuple[dict[str, Any], int]:
            nonlocal calls
            calls += 1
            found = await client.call_tool(tool, arguments)
            images = sum(one.type == "image" for one in found.content)
            return dict(found.structured_content or {}), images

        async def ended(id: str) -> dict[str, Any]:
            while not (found := (await call("wait_for", id=id, seconds=30.0))[0])["ended"]:
                pass
            assert found["state"] == "succeeded", found
            return found

        found = (await call("find_artifacts"))[0]
        await ended(found["job"])
        categories = (await call("hard_categories"))[0]["categories"]
        images = (await call("search_images", sort="max", state="unlabelled", limit=6))[0]["images"]
        shown = (await call("show_image", image=images[0]["id"]))[1]
        sent = (await call("queue_for_people", images=[one["id"] for one in images]))[0]
        run = (await call("start_training", recipe=RECIPE, name="by an assistant"))[0]["run"]
        await ended(run)
        curves = (await call("training_progress", run=run))[0]["curves"]
        verdicts = (await call("compare", id=run))[0]["verdicts"]
        generator = (await call("list_generators"))[0]["generators"][-1]["id"]
        chosen = [one["category"] for one in categories[:2]]
        treated = (await call("start_treatment", generator=generator, recipe=RECIPE, categories=chosen))[0]
        await ended(treated["run"])
        compared, pairs = await call("compare", id=treated["run"])
        await call("report")
    whole = shown == 2 and sent["sent"] and curves and verdicts and compared["held_out"] and pairs == 1
    return bool(whole), calls


if __name__ == "__main__":
    harness.write("access-client", figures(harness.quick()), [SEED])
