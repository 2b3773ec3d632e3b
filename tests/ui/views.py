"""Every view of every desk: its address and what must be done to see it; and a workspace that fills them."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from playwright.sync_api import Browser, BrowserContext, Page

from dataengine.masks import pack_label_map
from dataengine.records import (
    BenchmarkItem,
    GeneratorVersion,
    Job,
    Label,
    Round,
    Study,
    Vote,
    WorkerBeat,
    now,
)
from pipelines.config import TrainingRun
from pipelines.round import ROUND
from storage.workspace import Workspace
from tests.ui.browsing import PASSWORD, PATIENCE_MS, WITHOUT_TOUR
from tests.ui.conftest import add_people, furnish
from tests.ui.curate.test_repairs import propose

OWN = "#view[data-ready]"
GRADIO = ".gradio-container button[role=tab]"
ANNOTATE = "#empty:not([hidden]), #layers:not([hidden])"
CURATE = (
    "images",
    "map",
    "duplicates",
    "categories",
    "review",
    "benchmark",
    "balance",
    "repairs",
    "pilots",
    "people",
)
BEAT_SECONDS = 5.0
RATES = {"false_alarm": 0.1, "miss": 0.3}
MEASURED = {
    "images": 80,
    "mse": 0.014,
    "kl": 0.62,
    "kl1m": 0.051,
    "intervals": {"mse": [0.011, 0.018], "kl": [0.51, 0.74], "kl1m": [0.04, 0.063]},
    "operating": RATES | {"intervals": {"miss": [0.2, 0.42], "false_alarm": [0.04, 0.2]}},
    "categories": {name: {"images": 40, "clean": 20, "mse": 0.014} | RATES for name in ("hands", "mugs")},
}
FACTS = {
    "train": {"loss": 0.3},
    "evaluate": {"champion": {"validation": {"mse": 0.03, "false_alarm": 0.1, "miss": 0.2}}},
}


@dataclass(frozen=True)
class View:
    """A view: its name, its address, a selector that says it is there, and what opens it from there."""

    name: str
    path: str
    ready: str = OWN
    open: Callable[[Page], None] | None = None
    user: str | None = "admin"
    gradio: bool = False


def press(*keys: str) -> Callable[[Page], None]:
    """Press keys one after the other."""

    def act(page: Page) -> None:
        for key in keys:
            page.keyboard.press(key)
            page.wait_for_timeout(150)

    return act


def click(selector: str) -> Callable[[Page], None]:
    """Click the first element of a selector."""
    return lambda page: page.locator(selector).first.click()


def tab(name: str) -> Callable[[Page], None]:
    """Open a tab of a Gradio page, which may be behind its "…" menu."""

    def act(page: Page) -> None:
        shown = page.locator("button[role=tab]", has_text=name).locator("visible=true")
        if not shown.count():
            page.locator(".overflow-menu > button").first.click()
            page.locator(".overflow-dropdown button", has_text=name).first.click()
        else:
            shown.first.click()
        page.wait_for_timeout(1200)

    return act


def views(first_image: str) -> tuple[View, ...]:
    """All of them, for the workspace of `fill`."""
    dialogs = {
        "triage": click("[data-do=triage]"),
        "answers": click("[data-do=answers]"),
        "guide": click("[data-do=guide]"),
        "keys": click("[data-do=help]"),
        "skip": click("[data-do=skip]"),
        "comments": click("[data-do=comment]"),
    }
    curate = [View(f"curate-{name}", f"/curate?view={name}") for name in CURATE]
    return (
        View("sign-in", "/login", "form", user=None),
        View("join", "/join", "main", user=None),
        View("forbidden", "/curate", "main", user="rater"),
        View("missing", "/nowhere", "main"),
        View("home", "/", "main"),
        View("home-annotator", "/", "main", user="annotator"),
        View("account", "/account"),
        View("api", "/api/docs", "#annotate", user=None),
        View("import", "/import"),
        View("annotate", "/annotate", ANNOTATE),
        *(View(f"annotate-{name}", "/annotate", ANNOTATE, act) for name, act in dialogs.items()),
        *curate,
        View("curate-large", f"/curate?view=images&image={first_image}", "dialog.detail"),
        View("curate-selection", "/curate", OWN, press_tile),
        View("train", "/train"),
        View("train-new", "/train?new=1"),
        View("train-run", "/train?run=retrained"),
        View("train-detector", "/train?detector=d1"),
        View("train-inject", "/train?inject=1"),
        View("treat", "/treat"),
        View("treat-new", "/treat?new=1"),
        View("treat-learn", "/treat?learn=1"),
        View("treat-treatment", "/treat?treatment=t1"),
        View("treat-play", f"/treat?play={first_image}"),
        View("rounds", "/rounds"),
        View("rounds-form", "/rounds?new=1"),
        View("rounds-lineage", "/rounds?view=lineage"),
        View("rounds-figures", "/rounds?view=figures"),
        View("rounds-jobs", "/rounds?view=jobs&job=retrain-1"),
        View("study", "/study"),
        View("study-make", "/study?view=make"),
        View("study-judge", "/study?view=judge&study=open"),
        View("study-results", "/study?view=results&study=judged"),
        *(
            View(f"admin-{name.split()[0].lower()}", "/admin/", GRADIO, tab(name), gradio=True)
            for name in (
                *("People", "API tokens", "Models and endpoints", "Webhooks", "System"),
                *("Label classes", "Audit", "Erasure"),
            )
        ),
        *(
            View(f"gradio-{name.split()[0].lower()}", "/gradio/", GRADIO, tab(name), gradio=True)
            for name in ("Diagnose", "Hard", "Label", "Retrain", "Treat")
        ),
    )


def press_tile(page: Page) -> None:
    """Select two images of the grid."""
    page.locator(".tile .open").first.focus()
    press("x", "ArrowRight", "x")(page)


def fill(workspace: Workspace) -> str:
    """People, images with maps and places, labels, repairs, a benchmark, a round, runs with curves, jobs and
    two studies; the id of an image."""
    ids = furnish(workspace)
    add_people(workspace)
    random, square = np.random.default_rng(0), np.zeros((64, 64), np.uint8)
    square[20:40, 12:32] = 1
    blob = workspace.blobs.put(pack_label_map(square))
    for seed, image in enumerate(ids[-2:]):
        propose(workspace, image, 50 + seed)
    with workspace.catalog() as catalog:
        for author in ("annotator", "curator", "admin"):
            for image in ids[4:7]:
                catalog.labels.submit(
                    Label(image_id=image, author=author, height=64, width=64, label_map=blob, lead_seconds=9)
                )
        twin = catalog.images.get(ids[0])
        catalog.images.add_many(
            replace(twin, id=f"twin{at}", group="look:" + "0" * 16, source="imported", round_id=None, seed=at)
            for at in (90, 91)
        )
        catalog.map_places.replace("m1", ids, random.integers(2000, 63_000, (len(ids), 2), np.uint16))
        items = [
            BenchmarkItem(image_id=image, stratum="mugs, suspected", annotations_per_image=3)
            for image in ids[4:6]
        ]
        catalog.benchmarks.draft("November", items, "curator")
        steadier = GeneratorVersion(
            id="steadier",
            name="steadier flux",
            location="/models/flux",
            parent="base",
            treatment_id="t1",
            created=now() - 90_000,
        )
        catalog.generators.add(steadier)
        catalog.detectors.record_metrics("d1", {"validation": MEASURED, "validation_real": MEASURED})
        results = {stage.name: {"images": 8} for stage in ROUND} | FACTS
        catalog.rounds.add(
            Round(id="r1", recipe={"name": "demo"}, stage="done", state="done", results=results)
        )
        for place, stage in enumerate(ROUND):
            args = {"round_id": "r1", "stage": stage.name}
            catalog.jobs.add(done(f"r1.{stage.name}.1", "stage", args, now() - 4000 + 300 * place))
        settings = TrainingRun().model_dump(mode="json")
        catalog.jobs.add(
            done("retrain-1", "retrain", {"run": "retrained", "settings": settings}, now() - 900)
        )
        pairs = tuple((ids[place], ids[place + 1]) for place in range(0, 8, 2))
        for id in ("open", "judged"):
            catalog.studies.add(
                Study(id=id, name=f"Hands and mugs, {id}", before_id="base", after_id="treated", pairs=pairs)
            )
        catalog.votes.add(
            *(
                Vote(study_id="judged", pair=pair, rater=rater, question=asked, choice=choice)
                for pair in range(4)
                for rater in ("rater", "annotator", "curator")
                for asked in ("artifacts", "quality")
                for choice in [("before", "tie", "after", "after")[int(random.integers(4))]]
            )
        )
        catalog.commit()
    folder = workspace.job_files.folder("retrain-1")
    folder.mkdir(parents=True, exist_ok=True)
    began = now() - 900
    figures = (
        {"time": began + step, "total": 240, "done": step, "loss": 0.4 / (1 + step / 40), "lr": 1e-3}
        for step in range(0, 240, 2)
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in figures))
    return ids[0]


@contextmanager
def alive(workspace: Workspace) -> Iterator[None]:
    """While the block runs, a worker seems to run."""
    ended = threading.Event()

    def beat() -> None:
        while True:
            with workspace.catalog() as catalog:
                catalog.workers.beat(WorkerBeat(id="w", host="here", pid=1))
                catalog.commit()
            if ended.wait(BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def done(id: str, kind: str, args: dict, at: float) -> Job:
    """A job that took 250 seconds."""
    return Job(
        id=id,
        kind=kind,
        args=args,
        state="succeeded",
        progress=1,
        result={"detector": "d1"},
        created=at,
        started=at,
        finished=at + 250,
    )


def context_of(browser: Browser, url: str, user: str | None) -> BrowserContext:
    """A browser in which somebody is signed in."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    context.add_init_script(WITHOUT_TOUR)
    if user is not None:
        answer = context.request.post(url + "/api/login", data={"name": user, "password": PASSWORD})
        assert answer.ok, answer.text()
    return context


def show(page: Page, url: str, view: View, patience_ms: int = PATIENCE_MS) -> None:
    """Go to a view and open what it opens."""
    page.set_default_timeout(patience_ms)
    page.goto(url + view.path, wait_until="load")
    page.wait_for_selector(view.ready, timeout=patience_ms, state="attached")
    page.wait_for_timeout(250)
    if view.open is not None:
        view.open(page)
        page.wait_for_timeout(250)
