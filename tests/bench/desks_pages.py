"""How soon every desk is ready, and what open ones cost the server, in headless Chromium.

The catalog holds 100,000 images, 100 rounds with their stages' jobs, 100 runs and 20 studies with votes.
"""

import os
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from dataengine.records import GeneratorVersion, Job, Round, Study, Treatment, Vote, WorkerBeat, now
from pipelines.round import ROUND
from storage.accounts import create_user
from storage.catalog import Catalog
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.bench.annotate_server import PASSWORD
from tests.bench.harness import ROOT, Figure, bootstrap, figure, quick
from tests.bench.large_catalog import fill_catalog
from tests.bench.web_server import Server, server_process
from tests.services import chromium_path
from tests.ui.browsing import FLAGS, WITHOUT_TOUR

OWN = "#view[data-ready]"
READY = {
    "/annotate": "#empty:not([hidden]), #layers:not([hidden])",
    "/import": OWN,
    "/curate": OWN,
    "/train": OWN,
    "/treat": OWN,
    "/study": OWN,
    "/rounds": OWN,
    "/admin": '[data-testid^="cell-"]',
}
"""A selector of each desk's first content."""
PATIENCE_MS = 60_000
SETTLED = 3.0
"""Seconds until a page that is ready has fetched the rest."""
SIDES = ("champion", "candidate")
CHOICES: tuple[Literal["before", "tie", "after"], ...] = ("before", "tie", "after")


def filled(folder: Path, images: int, rounds: int) -> Workspace:
    """A busy team's workspace; everything in it is generated from a seed."""
    workspace = create_workspace(folder)
    fill_catalog(workspace.engine, images)
    random, names, began = np.random.default_rng(0), [stage.name for stage in ROUND], now() - 40_000 * rounds
    measured = {who: {"validation": {"mse": 0.03, "false_alarm": 0.1, "miss": 0.2}} for who in SIDES}
    with workspace.catalog() as catalog:
        create_user(catalog, "ada", PASSWORD, ["admin"], "bench")
        catalog.generators.add(GeneratorVersion(id="base", name="base", location="base"))
        for number in range(rounds):
            id, at = f"round-{number:04d}", began + 40_000 * number
            results = {name: {"images": 100} for name in names} | {
                "evaluate": measured,
                "treat": {
                    "treated": f"g{number}",
                    "generator": "base",
                    "kept": 5,
                    "updates": 9,
                    "stopped": "",
                },
                "judge": {"pairs": 9, "frequency": {"before": 0.8, "after": float(random.random() / 2)}},
            }
            catalog.rounds.add(
                Round(id=id, recipe={"name": "demo"}, stage="done", state="done", results=results, created=at)
            )
            catalog.treatments.add(
                Treatment(id=f"t{number}", generator_id="base", detector_id="d", round_id=id)
            )
            catalog.generators.add(
                GeneratorVersion(
                    id=f"g{number}", name="treated", location="base", parent="base", treatment_id=f"t{number}"
                )
            )
            for place, name in enumerate(names):
                catalog.jobs.add(
                    job(f"{id}.{name}.1", "stage", {"round_id": id, "stage": name}, at + 300 * place)
                )
            kind = ("retrain", "treat")[number % 2]
            catalog.jobs.add(job(f"{kind}-{number}", kind, {"run": f"run-{number}", "settings": {}}, at))
        for number in range(20):
            study(catalog, f"s{number}", random)
        catalog.workers.beat(WorkerBeat(id="w", host="bench", pid=1, beat=now() + 86_400))
        catalog.commit()
    return workspace


def job(id: str, kind: str, args: dict[str, Any], at: float) -> Job:
    """A job that took 250 seconds."""
    return Job(
        id=id, kind=kind, args=args, state="succeeded", progress=1, created=at, started=at, finished=at + 250
    )


def study(catalog: Catalog, id: str, random: np.random.Generator) -> None:
    """A study of 100 pairs judged by five raters."""
    pairs = tuple((f"a{pair}", f"b{pair}") for pair in range(100))
    catalog.studies.add(
        Study(id=id, name=f"Study {id}", before_id="base", after_id="g0", pairs=pairs, seed=7)
    )
    drawn = random.integers(len(CHOICES), size=(100, 5, 2))
    catalog.votes.add(
        *(
            Vote(
                study_id=id,
                pair=pair,
                rater=f"r{rater}",
                question=name,
                choice=CHOICES[drawn[pair, rater, place]],
            )
            for pair in range(100)
            for rater in range(5)
            for place, name in enumerate(("artifacts", "quality"))
        )
    )


def served(workspace: Workspace) -> AbstractContextManager[Server]:
    """A server process with all desks."""
    return server_process(ROOT, workspace.path)


def signed_in(browser: Browser, url: str) -> BrowserContext:
    """A browser without any cache, signed in as an admin."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.add_init_script(WITHOUT_TOUR)
    answer = context.request.post(url + "/api/login", data={"name": "ada", "password": PASSWORD})
    assert answer.ok, answer.text()
    return context


def ready_seconds(page: Page, url: str, path: str) -> float:
    """Time from the page request until its first content is visible."""
    began = time.perf_counter()
    page.goto(url + path, wait_until="commit")
    page.wait_for_selector(READY[path], timeout=PATIENCE_MS, state="attached")
    return time.perf_counter() - began


def loading(browser: Browser, url: str, loads: int) -> dict[str, tuple[list[float], list[float]]]:
    """Seconds of cold loads (a new browser each) and warm ones (the same again) of every desk."""
    times: dict[str, tuple[list[float], list[float]]] = {path: ([], []) for path in READY}
    for _ in range(loads):
        for path, (cold, warm) in times.items():
            context = signed_in(browser, url)
            page = context.new_page()
            cold.append(ready_seconds(page, url, path))
            warm.append(ready_seconds(page, url, path))
            context.close()
    return times


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watching(browser: Browser, url: str, pid: int, seconds: float) -> Figure:
    """CPU seconds of the server for each minute that a desk is open, with all desks open at once."""
    before = cpu_seconds(pid)
    time.sleep(seconds)
    idle = 60 * (cpu_seconds(pid) - before) / seconds
    contexts = []
    for path in READY:
        contexts.append(signed_in(browser, url))
        ready_seconds(contexts[-1].new_page(), url, path)
    time.sleep(SETTLED)
    before = cpu_seconds(pid)
    time.sleep(seconds)
    cost = 60 * (cpu_seconds(pid) - before) / seconds / len(READY)
    for context in contexts:
        context.close()
    note = f"{len(READY)} desks open for {seconds:.0f} s; the idle server takes {idle:.2f} s a minute in all"
    return figure("server_cpu_s_per_desk_minute", cost, None, "s", len(READY), note)


def worst(id: str, times: dict[str, list[float]]) -> Figure:
    """The slowest desk's median with its interval; the others in the note."""
    medians = {path: float(np.median(found)) for path, found in times.items()}
    slowest = max(medians, key=lambda path: medians[path])
    told = ", ".join(f"{path} {value:.2f}" for path, value in medians.items())
    interval = bootstrap(times[slowest], lambda drawn: float(np.median(drawn)))
    return figure(id, medians[slowest], interval, "s", len(times[slowest]), f"slowest desk {slowest}; {told}")


def page_figures() -> list[Figure]:
    """Times until desks are ready, and what open ones cost; `desks.py` writes them with the others."""
    images, rounds, loads, seconds = (2_000, 5, 1, 3.0) if quick() else (100_000, 100, 7, 60.0)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        workspace = filled(Path(folder) / "workspace", images, rounds)
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        with served(workspace) as (url, pid):
            loading(browser, url, 1)  # a server that has just started compiles its pages once
            times = loading(browser, url, loads)
            cost = watching(browser, url, pid, seconds)
        browser.close()
        workspace.close()
    own = {path: cold for path, (cold, _) in times.items() if path != "/admin"}
    return [
        worst("own_desk_cold_s", own),
        worst("desk_cold_s", {path: cold for path, (cold, _) in times.items()}),
        worst("desk_warm_s", {path: warm for path, (_, warm) in times.items()}),
        cost,
    ]
