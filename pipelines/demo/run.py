"""The demo: one whole round on the embedded clinic, for real, on a machine without GPU or network.

Input: a workspace folder, and how to serve it. Output: a finished round, `report.json`, `report.html` and
contact sheets in `WORKSPACE/demo/`. Cost: up to ten minutes on two cores, less than 4 GB. Stop it at any
moment and start it again: it goes on where it stood.

A worker does the work, the server hands out images, simulated people answer through HTTP; this module only
prepares, watches, and at the end lets the judge look.
"""

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dataengine import durable
from dataengine.errors import JobFailed
from dataengine.records import Job, Round
from pipelines import recipes
from pipelines.config import DemoDataConfig, HumanErrorConfig, RoundRecipe
from pipelines.demo.data import CHAMPION, SIZES, oracle_folder, prepare
from pipelines.runtime.context import Context
from pipelines.services.rounds import describe_stages, resume_round, start_round
from pipelines.stages.stage import DONE
from pipelines.worker.supervisor import supervised_worker
from storage.opening import create_workspace
from storage.workspace import Workspace

if TYPE_CHECKING:
    from storage.catalog import Catalog


PEOPLE = ("simulated-ada", "simulated-ben")
POLL_SECONDS = 0.5
STALLED_SECONDS = 900.0
FOLDER = "demo"

Say = Callable[[str], None]


class Listening(Protocol):
    """Where the server can be reached."""

    @property
    def url(self) -> str: ...


Serve = Callable[[Workspace], AbstractContextManager[Listening]]
"""Serve a workspace while a block runs; given by `app.py`, since pipelines know no web framework."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Where everything lies, and the report's data."""

    round_id: str
    folder: Path
    report: dict[str, Any]


def demo(
    path: str | Path,
    serve: Serve,
    say: Say = print,
    recipe: RoundRecipe | None = None,
    data: DemoDataConfig | None = None,
    seed: int = 0,
) -> DemoResult:
    """Prepare, run one round, judge, report."""
    started = time.time()
    quiet()
    workspace = create_workspace(path)
    recipe = recipe or recipes.demo(seed)
    say(f"Artifact Clinic: one round on the embedded clinic, in {workspace.path}")
    with timed(say, "taking in the clinic's models and drawings"):
        prepare(workspace, data or SIZES.get(recipe.name))
    row = begin(workspace, recipe)
    with (
        serve(workspace) as server,
        supervised_worker(workspace),
        people(workspace, row.id, server.url, seed),
    ):
        watch(workspace, row.id, say)
    with timed(say, "the judge looks at the result"):
        result = conclude(workspace, row.id, started)
    tell(result, say)
    return result


def quiet() -> None:
    """No progress bars of libraries among our own lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def begin(workspace: Workspace, recipe: RoundRecipe) -> Round:
    """The workspace's newest round of this recipe, taken up again where it stopped, or a new one."""
    with workspace.catalog() as catalog:
        rows = [row for row in catalog.rounds.list() if row.recipe["name"] == recipe.name]
    if not rows:
        return start_round(workspace, recipe.model_dump(mode="json"), "demo")
    if rows[-1].state in ("failed", "cancelled"):
        resume_round(workspace, rows[-1].id, "demo")
    return rows[-1]


@contextmanager
def people(workspace: Workspace, round_id: str, url: str, seed: int) -> Iterator[None]:
    """Simulated people with accounts of their own, who answer whenever images wait. Gone after the block."""
    stop = threading.Event()
    passwords = open_accounts(workspace)
    eyes = Eyes(workspace)
    threads = [
        threading.Thread(
            target=work, args=(workspace, round_id, url, name, password, eyes, seed, stop), daemon=True
        )
        for name, password in passwords.items()
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
        close_accounts(workspace)


class Eyes:
    """The teacher's sight, opened when the first image waits, used by one person at a time."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._see: Callable[[np.ndarray], np.ndarray] | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        from pipelines.demo.simulated_annotators import teacher_eyes

        with self._lock:
            if self._see is None:
                self._see = teacher_eyes(oracle_folder(self._workspace, "teacher"))
            return self._see(image)


def work(
    workspace: Workspace,
    round_id: str,
    url: str,
    name: str,
    password: str,
    eyes: Eyes,
    seed: int,
    stop: threading.Event,
) -> None:
    """One person's day: wait until images wait, sign in, answer them all."""
    import httpx

    from pipelines.demo.simulated_annotators import Person

    while not stop.wait(POLL_SECONDS):
        with workspace.catalog(read_only=True) as catalog:
            waiting = catalog.queue.remaining(round_id)
        if waiting:
            with httpx.Client(base_url=url, timeout=60) as client:
                person = Person(
                    client=client, name=name, password=password, see=eyes, error=HumanErrorConfig(), seed=seed
                )
                person.sign_in()
                person.label_all(more=lambda: not stop.is_set())


def open_accounts(workspace: Workspace) -> dict[str, str]:
    """Fresh accounts for the simulated people; names and passwords."""
    from storage import accounts

    close_accounts(workspace)
    passwords = {name: secrets.token_urlsafe(16) for name in PEOPLE}
    with workspace.catalog() as catalog:
        for name, password in passwords.items():
            accounts.create_user(catalog, name, password, ("annotator",), "demo")
        catalog.commit()
    return passwords


def close_accounts(workspace: Workspace) -> None:
    """Remove the simulated people's accounts, not their labels."""
    from storage import accounts

    with workspace.catalog() as catalog:
        for user in catalog.users.list():
            if user.name in PEOPLE:
                accounts.remove_user(catalog, user.name, "demo")
        catalog.commit()


def watch(workspace: Workspace, round_id: str, say: Say) -> None:
    """Tell how the round goes until it is done. Raises `JobFailed` when it fails, or when nothing moves and
    nothing is at work: a stage that is slow, on a machine that does much else, is waited for."""
    told: set[str] = set()
    seen, moved = "", time.monotonic()
    while True:
        with workspace.catalog(read_only=True) as catalog:
            row = catalog.rounds.get(round_id)
            jobs = jobs_of(catalog, round_id)
        for stage in describe_stages(row):
            if stage.name in row.results.keys() - told:
                told.add(stage.name)
                say(f"  ✓ {stage.title}: {stage.found}")
        if row.stage == DONE:
            return
        if row.state in ("failed", "cancelled"):
            error = next((job.error for job in reversed(jobs) if job.error), row.message)
            raise JobFailed(f"The round {row.state} at {row.stage}: {error} Run the demo again to resume it.")
        now_seen = f"{row.stage} {row.state} {[(job.progress, job.message) for job in jobs[-1:]]}"
        if now_seen != seen:
            seen, moved = now_seen, time.monotonic()
        elif time.monotonic() - moved > STALLED_SECONDS:
            what = f"Nothing has moved at {row.stage} for {STALLED_SECONDS:.0f} s; see worker.log."
            if not any(map(at_work, jobs)):
                raise JobFailed(what)
            say(f"  … {what} Its job is still at work; Ctrl-C stops, and another start goes on from there.")
            moved = time.monotonic()
        time.sleep(POLL_SECONDS)


def at_work(job: Job) -> bool:
    """Whether a worker that lives has it."""
    return job.state == "running" and time.time() - (job.heartbeat or 0) < STALLED_SECONDS


def conclude(workspace: Workspace, round_id: str, started: float) -> DemoResult:
    """Let the judge look, write the report and the sheets; `started` is when this demo began or went on."""
    from dataengine.clinic.world import HARD
    from pipelines.demo import results
    from pipelines.demo.contact_sheet import sheet
    from pipelines.demo.report import page
    from pipelines.runtime.models import real_models

    context = Context(workspace, real_models("cpu"))
    evidence = results.judge_pairs(context, round_id, judge_eyes(workspace))
    figures = results.figures(context, round_id, evidence, HARD, CHAMPION)
    galleries = results.galleries(context, round_id, evidence, CHAMPION)
    seconds = time.time() - started + work_before(workspace, round_id, started)
    figures.append(results.wall_time(seconds))
    data = results.report_data(context, round_id, figures, stage_times(workspace, round_id), seconds)
    folder = workspace.path / FOLDER
    folder.mkdir(exist_ok=True)
    for gallery in galleries:
        sheet(gallery).save(folder / f"{gallery.name}.png")
    data["sheets"] = [f"{gallery.name}.png" for gallery in galleries]
    data["made_with"] = [f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}"]
    durable.write_text(folder / "report.html", page(data, galleries))
    durable.write_text(folder / "report.json", json.dumps(data, indent=1))
    return DemoResult(round_id=round_id, folder=folder, report=data)


def judge_eyes(workspace: Workspace) -> Callable[[np.ndarray], np.ndarray]:
    """How the judge sees: uint8 NHWC images to confidence float32 NHW. It measures and does nothing else."""
    import torch

    from dataengine.clinic.oracles import load_judge

    judge = load_judge(oracle_folder(workspace, "judge"))

    @torch.inference_mode()
    def see(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        return torch.cat([judge.confidence(part.float() / 255) for part in pixels.split(64)]).numpy()

    return see


def jobs_of(catalog: "Catalog", round_id: str) -> list[Job]:
    """The round's stage jobs, oldest first."""
    jobs = [job for job in catalog.jobs.list(kind="stage") if job.args["round_id"] == round_id]
    return sorted(jobs, key=lambda job: job.created)


def stage_times(workspace: Workspace, round_id: str) -> dict[str, float]:
    """Seconds of work by stage; waiting for people counts from the end of mining to the start of training."""
    with workspace.catalog(read_only=True) as catalog:
        jobs = [job for job in jobs_of(catalog, round_id) if job.started and job.finished]
    times: dict[str, float] = {}
    for job in jobs:
        stage = job.args["stage"]
        times[stage] = times.get(stage, 0.0) + float(job.finished or 0) - float(job.started or 0)
    ended = {job.args["stage"]: float(job.finished or 0) for job in jobs}
    begun = {job.args["stage"]: float(job.started or 0) for job in reversed(jobs)}
    if "mine" in ended and "train_teacher" in begun:
        times["wait_for_labels"] = max(0.0, begun["train_teacher"] - ended["mine"])
    return times


def work_before(workspace: Workspace, round_id: str, moment: float) -> float:
    """Seconds of the stages that had ended by then: what an earlier start of this demo has done."""
    with workspace.catalog(read_only=True) as catalog:
        jobs = jobs_of(catalog, round_id)
    ended = [(job.started, job.finished) for job in jobs if job.started and job.finished]
    return sum(finished - began for began, finished in ended if finished <= moment)


@contextmanager
def timed(say: Say, what: str) -> Iterator[None]:
    """Say what is done, and then how long it took."""
    started = time.monotonic()
    yield
    say(f"  ✓ {what} ({time.monotonic() - started:.1f} s)")


def tell(result: DemoResult, say: Say) -> None:
    """The figures as a table, and where to look."""
    say("")
    for figure in result.report["figures"]:
        value = figure["value"] if isinstance(figure["value"], bool) else f"{figure['value']:.3g}"
        mark = "✓" if figure["met"] else "✗"
        say(f"  {mark} {figure['title']:<52} {value!s:>8}   goal {figure['goal']:<12} {figure['note']}")
    say("")
    say(f"The report: {result.folder / 'report.html'}")
    say(f"The same workspace in the browser: clinic --workspace {result.folder.parent} app")
