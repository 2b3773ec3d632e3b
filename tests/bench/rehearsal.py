"""Rounds for the benches that disturb them: of fakes, and `cpu-smoke` with real trainings and treatments.

A round's worker and web server are processes to kill or starve; its people answer over HTTP, and ask again
when the server was killed under them.
"""

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from dataengine.errors import JobFailed
from pipelines import recipes
from pipelines.config import DemoDataConfig, HumanErrorConfig
from pipelines.demo.data import prepare as prepare_clinic
from pipelines.demo.simulated_annotators import SimulatedAnnotator
from pipelines.services import queue
from pipelines.services.rounds import start_round
from storage.accounts import create_user
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests import fake_workspace
from tests.pipelines.rig import FAKES, REPOSITORY, Crew, crew
from tests.pipelines.test_round import counts

PERSON, PASSWORD = "ada", "correct horse battery"
EXACT = HumanErrorConfig(jitter=0, missed=0, false_strokes=0, pace=0)
SERVER = "import sys, app, tests.faulty_store; sys.exit(app.main(sys.argv[1:]))"
"""`clinic`, which also knows the blob stores that fail on demand."""
REAL_MODELS = ("pipelines.round:ROUND", "pipelines.runtime.models:real_models")


@dataclass(frozen=True)
class Kind:
    """A kind of round: how its workspace is prepared, who runs it, and what it leaves."""

    name: str
    spec: tuple[str, str]
    """Stages and models of its worker."""
    prepare: Callable[[Workspace], None]
    draw: Callable[[np.ndarray], np.ndarray]
    """What its people mark on an image."""
    exact: bool
    """Whether also the numbers that stages record are the same each time, not only the number of rows."""

    def begin(self, workspace: Workspace) -> str:
        """Start the round."""
        return start_round(workspace, recipes.named(self.name).model_dump(mode="json")).id

    def left(self, workspace: Workspace, round_id: str) -> dict[str, Any]:
        """What a finished round left. Raises `AssertionError` when it has not finished."""
        found = counts(workspace, round_id)
        return found if self.exact else {name: found[name] for name in found if name != "results"}


def prepare_real(workspace: Workspace) -> None:
    prepare_clinic(
        workspace, DemoDataConfig(clean=24, previous=12, validation=0, benchmark=8, benchmark_clean=6)
    )


def red_squares(image: np.ndarray) -> np.ndarray:
    return (image[..., 0].astype(int) - image[..., 1] > 128).astype(np.float32)


def some_squares(image: np.ndarray) -> np.ndarray:
    """A square on two of three images, by their content."""
    marked = np.zeros(image.shape[:2], np.float32)
    if (place := int(image.sum())) % 3:
        y, x = place % (image.shape[0] // 2), place // 7 % (image.shape[1] // 2)
        marked[y : y + image.shape[0] // 4, x : x + image.shape[1] // 4] = 1
    return marked


ROUND_OF_FAKES = Kind("fakes", FAKES, fake_workspace.prepare, red_squares, exact=True)
REAL_ROUND = Kind("cpu-smoke", REAL_MODELS, prepare_real, some_squares, exact=False)


@dataclass
class Stage:
    """A round under way, with its worker, its server and its people."""

    kind: Kind
    team: Crew
    round_id: str
    port: int
    server: "subprocess.Popen[bytes] | None" = None
    _answering: threading.Thread | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def workspace(self) -> Workspace:
        return self.team.workspace

    def worker(self) -> "subprocess.Popen[bytes]":
        """The worker; a new one if it died."""
        return self.team.keep_one(self.kind.spec)

    def works(self) -> bool:
        """Whether the worker has given a sign of life."""
        return self.worker().pid in [beat.pid for beat in queue.workers_alive(self.workspace)]

    def keep_served(self) -> None:
        """Start the server if it died, and let the people answer when the round waits for them."""
        if self.server is None or self.server.poll() is not None:
            command = [sys.executable, "-c", SERVER, "--workspace", str(self.workspace.path), "app"]
            command += ["--no-worker", "--port", str(self.port), "--set", "desks=false"]
            environment = self.team.all_environment()
            quiet = subprocess.DEVNULL
            self.server = subprocess.Popen(
                command, cwd=REPOSITORY, env=environment, stdout=quiet, stderr=quiet
            )
        waits = self.team.round_is(self.round_id, "waiting")
        if waits and (self._answering is None or not self._answering.is_alive()):
            self._answering = threading.Thread(target=self._answer, daemon=True)
            self._answering.start()

    def serves(self) -> bool:
        """Whether the server answers."""
        try:
            return httpx.get(f"{self._url}/healthz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def end(self) -> None:
        """End the server and the people; the crew ends its workers."""
        self._over.set()
        if self._answering is not None:
            self._answering.join(60)
        if self.server is not None:
            self.server.kill()
            self.server.wait(20)

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _answer(self) -> None:
        """Label what is queued, until the server fails; the next call goes on."""
        try:
            with httpx.Client(base_url=self._url, timeout=30) as client:
                person = SimulatedAnnotator(
                    client=client, name=PERSON, password=PASSWORD, oracle=self.kind.draw, error=EXACT
                )
                person.sign_in()
                person.label_all(more=lambda: not self._over.is_set())
        except (httpx.HTTPError, JobFailed):
            self._over.wait(0.2)


@contextmanager
def staged(
    kind: Kind, path: Path, template: Path | None = None, database_url: str = "sqlite", **environment: str
) -> Iterator[Stage]:
    """A round that has just begun, in a prepared workspace or a copy of one, with nobody left at the end."""
    if template is not None:
        shutil.copytree(template, path)
    with crew(path, database_url, **environment) as team:
        if template is None:
            furnish(kind, team.workspace)
        stage = Stage(kind, team, kind.begin(team.workspace), free_port())
        try:
            yield stage
        finally:
            stage.end()


def furnish(kind: Kind, workspace: Workspace) -> None:
    """What a round begins with, and an account for its people."""
    kind.prepare(workspace)
    with workspace.catalog() as catalog:
        create_user(catalog, PERSON, PASSWORD, ["annotator"], "bench")
        catalog.commit()


def prepared(kind: Kind, path: Path) -> Path:
    """A furnished workspace, to be copied."""
    workspace = create_workspace(path)
    furnish(kind, workspace)
    workspace.close()
    return path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def compare(expected: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[int, int]:
    """How much is missing and how much is beyond, number by number."""
    wanted, there = dict(leaves(expected)), dict(leaves(found))
    lost = sum(name not in there or there[name] < value for name, value in wanted.items())
    doubled = sum(name not in wanted or wanted[name] < value for name, value in there.items())
    return lost, doubled


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested counts, with its place."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from leaves(each, f"{name}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from leaves(each, f"{name}.{index}")
    elif value is not None:
        yield name, float(value)
