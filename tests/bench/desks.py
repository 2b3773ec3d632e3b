"""The desks: time until they are ready, until a curve is drawn, delay of progress; map, search, uploads.

`make bench-desks` writes `build/bench/desks.json`. Real Chromium, the real server in a process of its own.
With `BASE=COMMIT` also today's times over that commit's (see `base`).
"""

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from dataengine.records import Job, WorkerBeat, now
from pipelines.config import TrainingRun
from pipelines.runtime.progress import Reporter
from storage.accounts import create_user
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.bench.annotate_server import PASSWORD
from tests.bench.base import over_base
from tests.bench.desks_map import map_figures
from tests.bench.desks_pages import page_figures, served, signed_in
from tests.bench.desks_search import search_figures
from tests.bench.desks_upload import upload_figure
from tests.bench.desks_views import view_figures
from tests.bench.harness import Figure, bootstrap, figure, quick, write
from tests.services import chromium_path
from tests.ui.browsing import FLAGS

POINTS = 100_000
WORKER = "bench"
REDRAW = """async (address) => {
  const { curvesPanel } = await import("/static/runs/run.js");
  const { get } = await import("/static/api.js");
  const place = document.body.appendChild(document.createElement("section"));
  const began = performance.now();
  const groups = [{ name: "loss", figures: ["loss"] }];
  const panel = curvesPanel(place, { api: "", at: null, own: "long", name: "long", settings: {}, groups });
  panel.show(await get(address));
  if (!place.querySelector("canvas")) throw new Error("no chart was drawn");
  place.getBoundingClientRect();
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const took = performance.now() - began;
  place.remove();
  return took;
}"""
"""Milliseconds from asking the server for the curves to the painted chart."""
SEEN = """() => {
  const found = document.querySelector(".standing-facts dd")?.textContent.match(/^(\\d+) of/);
  return [found ? Number(found[1]) : 0, Date.now() / 1000];
}"""
"""The step that the page shows, and the browser's clock."""


def main() -> None:
    """Measure and write."""
    points, times, seconds = (5_000, 3, 4.0) if quick() else (POINTS, 30, 60.0)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        workspace = create_workspace(Path(folder) / "workspace")
        with workspace.catalog() as catalog:
            create_user(catalog, "ada", PASSWORD, ["admin"], "bench")
            catalog.commit()
        logged(workspace, "long", points)
        running(workspace, "live")
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        with served(workspace) as (url, _):
            found = [redraw(browser, url, points, times), lag(browser, url, workspace, seconds)]
        browser.close()
        workspace.close()
    figures = [*page_figures(), *map_figures(), *search_figures(), *found, upload_figure(), *view_figures()]
    write("desks", [*figures, *over_base("desks")], seeds=[0])


def running(workspace: Workspace, run: str) -> Job:
    """A training that a worker is running."""
    settings = TrainingRun().model_dump(mode="json")
    job = Job(
        id=run,
        kind="retrain",
        args={"run": run, "settings": settings},
        state="running",
        worker=WORKER,
        started=now(),
    )
    with workspace.catalog() as catalog:
        catalog.jobs.add(job)
        catalog.commit()
    workspace.job_files.folder(run).mkdir(parents=True)
    return job


def logged(workspace: Workspace, run: str, points: int) -> None:
    """A run with so many logged points."""
    running(workspace, run)
    random = np.random.default_rng(0)
    losses = np.exp(-np.arange(points) / points * 4) + 0.05 * random.random(points)
    with (workspace.job_files.folder(run) / "metrics.jsonl").open("w") as file:
        for step, loss in enumerate(losses):
            line = {"time": step / 10, "done": step, "total": points, "loss": float(loss), "lr": 1e-4}
            file.write(json.dumps(line) + "\n")


def redraw(browser: Browser, url: str, points: int, times: int) -> Figure:
    """From asking for a long run's curves to the painted chart."""
    context = signed_in(browser, url)
    page = context.new_page()
    page.goto(f"{url}/train?run=long")
    page.wait_for_selector("#view[data-ready]")
    took = [float(page.evaluate(REDRAW, "/api/train/runs/long/curves")) for _ in range(times)]
    context.close()
    interval = bootstrap(took, lambda drawn: float(np.median(drawn)))
    note = f"{points:,} logged points; p95 {np.percentile(took, 95):.0f} ms"
    return figure("curve_redraw_ms", float(np.median(took)), interval, "ms", times, note)


def lag(browser: Browser, url: str, workspace: Workspace, seconds: float) -> Figure:
    """How old the step is that the page shows while a job reports ten times a second."""
    context = signed_in(browser, url)
    page = context.new_page()
    ages = []
    with working(workspace, "live") as done_at:
        page.goto(f"{url}/train?run=live")
        page.wait_for_selector("#view[data-ready]")
        page.wait_for_timeout(2000)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            step, moment = page.evaluate(SEEN)
            # The oldest that the page can be: since the step after the shown one was done.
            ages.append(max(0.0, moment - done_at.get(int(step) + 1, moment)))
            page.wait_for_timeout(97)
    context.close()
    p95 = float(np.percentile(ages, 95))
    interval = bootstrap(ages, lambda drawn: float(np.percentile(drawn, 95)))
    note = f"p95; median {np.median(ages):.2f}, worst {max(ages):.2f}"
    return figure("progress_lag_s", p95, interval, "s", len(ages), note)


@contextmanager
def working(workspace: Workspace, run: str) -> Iterator[dict[int, float]]:
    """Report a step every tenth of a second as a job does, and beat as its worker; when each was done."""
    ended, done_at = threading.Event(), dict[int, float]()

    def sent(event: dict[str, Any]) -> None:
        with workspace.catalog() as catalog:
            catalog.jobs.heartbeat(run, event["progress"], event["message"])
            catalog.workers.beat(WorkerBeat(id=WORKER, host="bench", pid=1, job_id=run))
            catalog.commit()

    def work() -> None:
        path = workspace.job_files.folder(run) / "metrics.jsonl"
        with path.open("a", buffering=1) as file:
            report, step = Reporter(sent, file.write), 0
            while not ended.wait(0.1):
                step += 1
                done_at[step] = time.time()
                report(step, 10_000, "training", loss=1 / step)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield done_at
    finally:
        ended.set()
        thread.join(5)


if __name__ == "__main__":
    main()
