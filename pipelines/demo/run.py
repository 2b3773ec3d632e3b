"""The demo: one whole round on the embedded clinic, with real models, on a machine without GPU or network.

Input: a workspace folder, and a function that serves it. Output: a finished round, `report.json`,
`report.html` and contact sheets in `WORKSPACE/demo/`. Cost: up to ten minutes on two cores, less than 4 GB.
It can be stopped at any time; started again, it resumes.

A worker runs the stages, the server hands out images, simulated annotators label them over HTTP. This module
prepares the workspace, follows the round, and evaluates the result with the judge.
"""

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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
from pipelines.demo.figures import wall_time
from pipelines.demo.report import format_figure, render_page
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
"""Serve a workspace while a block runs; passed by `app.py`, since `pipelines` must not import `ui`."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The round, the folder of the report, and its data."""

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
    """Prepare the workspace, run one round, evaluate it, write the report."""
    started = time.time()
    quiet()
    workspace = create_workspace(path)
    recipe = recipe or recipes.demo(seed)
    say(f"Artifact Clinic: one round on the embedded clinic, in {workspace.path}")
    with timed(say, "importing the clinic's models and images"):
        prepare(workspace, data or SIZES.get(recipe.name))
    row = start_or_resume(workspace, recipe)
    with (
        serve(workspace) as server,
        supervised_worker(workspace),
        annotators_at_work(workspace, row.id, server.url, seed),
    ):
        follow_round(workspace, row.id, say)
    with timed(say, "evaluating the result with the judge"):
        result = write_report(workspace, row.id, started)
    print_figures(result, say)
    return result


def quiet() -> None:
    """Disable the progress bars of libraries, which would mix with our output."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def start_or_resume(workspace: Workspace, recipe: RoundRecipe) -> Round:
    """Resume the workspace's newest round of this recipe, or start a new one."""
    with workspace.catalog() as catalog:
        rows = [row for row in catalog.rounds.list() if row.recipe["name"] == recipe.name]
    if not rows:
        return start_round(workspace, recipe.model_dump(mode="json"), "demo")
    if rows[-1].state in ("failed", "cancelled"):
        resume_round(workspace, rows[-1].id, "demo")
    return rows[-1]


@contextmanager
def annotators_at_work(workspace: Workspace, round_id: str, url: str, seed: int) -> Iterator[None]:
    """While the block runs, simulated annotators with temporary accounts label whatever is queued."""
    stop = threading.Event()
    passwords = open_accounts(workspace)
    oracle = SharedOracle(workspace)
    threads = [
        threading.Thread(
            target=annotate, args=(workspace, round_id, url, name, password, oracle, seed, stop), daemon=True
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


class SharedOracle:
    """The teacher as an oracle: loaded on first use, called by one annotator at a time."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._predict: Callable[[np.ndarray], np.ndarray] | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        from pipelines.demo.simulated_annotators import load_teacher_oracle

        with self._lock:
            if self._predict is None:
                self._predict = load_teacher_oracle(oracle_folder(self._workspace, "teacher"))
            return self._predict(image)


def annotate(
    workspace: Workspace,
    round_id: str,
    url: str,
    name: str,
    password: str,
    oracle: SharedOracle,
    seed: int,
    stop: threading.Event,
) -> None:
    """One annotator's loop: wait until images are queued, sign in, label them all."""
    import httpx

    from pipelines.demo.simulated_annotators import SimulatedAnnotator

    while not stop.wait(POLL_SECONDS):
        with workspace.catalog(read_only=True) as catalog:
            waiting = catalog.queue.remaining(round_id)
        if waiting:
            with httpx.Client(base_url=url, timeout=60) as client:
                annotator = SimulatedAnnotator(
                    client=client,
                    name=name,
                    password=password,
                    oracle=oracle,
                    error=HumanErrorConfig(),
                    seed=seed,
                )
                annotator.sign_in()
                annotator.label_all(more=lambda: not stop.is_set())


def open_accounts(workspace: Workspace) -> dict[str, str]:
    """Create fresh accounts for the simulated annotators; returns passwords by name."""
    from storage import accounts
    from storage.passwords import hash_password

    close_accounts(workspace)
    passwords = {name: secrets.token_urlsafe(16) for name in PEOPLE}
    hashes = {name: hash_password(password) for name, password in passwords.items()}
    with workspace.catalog() as catalog:
        for name, password_hash in hashes.items():
            accounts.create_user(catalog, name, password_hash, ("annotator",), "demo")
        catalog.commit()
    return passwords


def close_accounts(workspace: Workspace) -> None:
    """Remove the simulated annotators' accounts; their labels stay."""
    from storage import accounts

    with workspace.catalog() as catalog:
        for user in catalog.users.list():
            if user.name in PEOPLE:
                accounts.remove_user(catalog, user.name, "demo")
        catalog.commit()


def follow_round(workspace: Workspace, round_id: str, say: Say) -> None:
    """Print the round's progress until it is done. Raises `JobFailed` if it fails, or if it makes no progress
    and no worker is running its job; a stage that is merely slow is waited for."""
    printed_stages: set[str] = set()
    last_state, changed = "", time.monotonic()
    while True:
        with workspace.catalog(read_only=True) as catalog:
            row = catalog.rounds.get(round_id)
            jobs = jobs_of(catalog, round_id)
        for stage in describe_stages(row):
            if stage.name in row.results.keys() - printed_stages:
                printed_stages.add(stage.name)
                say(f"  ✓ {stage.title}: {stage.found}{duration(jobs, stage.name)}")
        if row.stage == DONE:
            return
        if row.state in ("failed", "cancelled"):
            error = next((job.error for job in reversed(jobs) if job.error), row.message)
            raise JobFailed(f"The round {row.state} at {row.stage}: {error} Run the demo again to resume it.")
        state = f"{row.stage} {row.state} {[(job.progress, job.message) for job in jobs[-1:]]}"
        if state != last_state:
            last_state, changed = state, time.monotonic()
        elif time.monotonic() - changed > STALLED_SECONDS:
            stalled = f"No progress at {row.stage} for {STALLED_SECONDS:.0f} s; see worker.log."
            if not any(map(is_running, jobs)):
                raise JobFailed(stalled)
            say(f"  … {stalled} Its job is still running. Ctrl-C stops the demo; start it again to resume.")
            changed = time.monotonic()
        time.sleep(POLL_SECONDS)


def is_running(job: Job) -> bool:
    """Whether a live worker is running the job."""
    return job.state == "running" and time.time() - (job.heartbeat or 0) < STALLED_SECONDS


def write_report(workspace: Workspace, round_id: str, started: float) -> DemoResult:
    """Evaluate the round with the judge; write report and sheets. `started`: start time of this process."""
    from dataengine.clinic.world import HARD
    from pipelines.demo import results
    from pipelines.reports.contact_sheet import render_sheet
    from pipelines.runtime.models import real_models

    context = Context(workspace, real_models("cpu"))
    evidence = results.judge_pairs(context, round_id, load_judge_oracle(workspace))
    figures = results.figures(context, round_id, evidence, HARD, CHAMPION)
    galleries = results.galleries(context, round_id, evidence, CHAMPION)
    seconds = time.time() - started + seconds_before(workspace, round_id, started)
    figures.append(wall_time(seconds))
    data = results.report_data(context, round_id, figures, stage_times(workspace, round_id), seconds)
    folder = workspace.path / FOLDER
    folder.mkdir(exist_ok=True)
    for gallery in galleries:
        render_sheet(gallery).save(folder / f"{gallery.name}.png")
    data["sheets"] = [f"{gallery.name}.png" for gallery in galleries]
    data["made_with"] = [f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}"]
    durable.write_text(folder / "report.html", render_page(data, galleries))
    durable.write_text(folder / "report.json", json.dumps(data, indent=1))
    return DemoResult(round_id=round_id, folder=folder, report=data)


def load_judge_oracle(workspace: Workspace) -> Callable[[np.ndarray], np.ndarray]:
    """The judge: uint8 NHWC images to confidence float32 NHW. It only measures."""
    import torch

    from dataengine.clinic.oracles import load_judge

    judge = load_judge(oracle_folder(workspace, "judge"))

    @torch.inference_mode()
    def predict(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        return torch.cat([judge.confidence(part.float() / 255) for part in pixels.split(64)]).numpy()

    return predict


def jobs_of(catalog: "Catalog", round_id: str) -> list[Job]:
    """The round's stage jobs, oldest first."""
    jobs = [job for job in catalog.jobs.list(kind="stage") if job.args["round_id"] == round_id]
    return sorted(jobs, key=lambda job: job.created)


def stage_times(workspace: Workspace, round_id: str) -> dict[str, float]:
    """Seconds of work by stage; waiting for labels counts from the end of mining to the start of training."""
    with workspace.catalog(read_only=True) as catalog:
        jobs = [job for job in jobs_of(catalog, round_id) if job.started and job.finished]
    times: dict[str, float] = {}
    for job in jobs:
        stage = job.args["stage"]
        times[stage] = times.get(stage, 0.0) + float(job.finished or 0) - float(job.started or 0)
    ended = {job.args["stage"]: float(job.finished or 0) for job in jobs}
    started = {job.args["stage"]: float(job.started or 0) for job in reversed(jobs)}
    if "mine" in ended and "train_teacher" in started:
        times["wait_for_labels"] = max(0.0, started["train_teacher"] - ended["mine"])
    return times


def seconds_before(workspace: Workspace, round_id: str, moment: float) -> float:
    """Seconds of the stages that ended before `moment`, in earlier runs of this demo."""
    with workspace.catalog(read_only=True) as catalog:
        jobs = jobs_of(catalog, round_id)
    ended = [(job.started, job.finished) for job in jobs if job.started and job.finished]
    return sum(finished - started for started, finished in ended if finished <= moment)


def duration(jobs: Sequence[Job], stage: str) -> str:
    """How long the jobs of a stage took, in brackets; "" for one without a job."""
    ended = [job for job in jobs if job.args.get("stage") == stage and job.started and job.finished]
    seconds = sum((job.finished or 0.0) - (job.started or 0.0) for job in ended)
    return f" ({seconds:.1f} s)" if ended else ""


@contextmanager
def timed(say: Say, title: str) -> Iterator[None]:
    """Print the step and its duration once the block has ended."""
    started = time.monotonic()
    yield
    say(f"  ✓ {title} ({time.monotonic() - started:.1f} s)")


def print_figures(result: DemoResult, say: Say) -> None:
    """Print the figures as a table, and the paths of the report and the workspace."""
    say("")
    for figure in result.report["figures"]:
        value = format_figure(figure["value"], figure["unit"])
        mark = {True: "✓", False: "✗", None: "·"}[figure["met"]]
        say(f"  {mark} {figure['title']:<52} {value:>8}   goal {figure['goal']:<12} {figure['note']}")
    say("")
    say(f"Report: {result.folder / 'report.html'}")
    say(f"Open this workspace in the browser: clinic --workspace {result.folder.parent} app")
