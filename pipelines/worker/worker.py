"""The worker: a torch-free process that takes jobs from the queue and runs them in its child process.

Input: job rows. Output: their results, the rounds' next stages, a heartbeat every second. Safe to kill at any
time: child processes exit with it, and any worker resumes its jobs.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from dataengine.devices import default_device
from dataengine.errors import ClinicError, Paused, WorkspaceUnusable
from pipelines.runtime.devices import try_lock
from pipelines.runtime.loading import import_object
from pipelines.runtime.progress import DRAIN_VARIABLE
from pipelines.services.admin.worker_logs import LEVELS, log_level
from pipelines.services.operation.logs import log_to_stderr
from pipelines.services.queue import WORK_FORMAT
from pipelines.stages.stage import Stage
from pipelines.worker import inference_server
from pipelines.worker.child import Child, ChildDied
from pipelines.worker.retrying import patiently
from pipelines.worker.running import ActiveJob, RunningJobs
from pipelines.worker.scheduled_backups import ScheduledBackups
from pipelines.worker.webhook_sender import WebhookSender
from storage import job_queue
from storage.opening import open_workspace

log = logging.getLogger("clinic.worker")

FAREWELL_SECONDS, RECORDING_SECONDS = 2.0, 2.0
"""How long the end waits for a heartbeat that is being sent, and for a result that is being recorded."""
RESTART_SECONDS = 10.0
"""Minimum interval between two starts of the inference child."""
LEVEL_SECONDS = 30.0
"""How soon a changed log level counts."""
MAX_WORKERS_HERE = 64


class Draining(Exception):
    """The task has stopped at a checkpoint, because this worker is about to exit."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Settings of one worker."""

    workspace: Path
    device: str = field(default_factory=default_device)
    models: str = "pipelines.runtime.models:real_models"
    """"module:name" of a function from device to `Models`."""
    stages: str = "pipelines.round:ROUND"
    """"module:name" of the round's stages."""
    application_version: str = field(default_factory=lambda: f"{version('artifact-clinic')}+{WORK_FORMAT}")
    """Jobs started under another version are started over; that repeats at most one stage."""
    sweep_seconds: float = 1.0
    """Interval between two sweeps (see `workflows.Engine.sweep`)."""
    inference: bool = True
    """Whether to run the inference service."""
    grace_seconds: float = 0.0
    """How long a task may go on after SIGTERM, to end or to reach its next checkpoint."""
    with_parent: bool = False
    """Whether to exit when standard input is closed, that is, when the parent process ends."""


class Worker:
    """One worker process. `run` ends the process on SIGTERM, after the grace time, or SIGINT."""

    def __init__(self, settings: WorkerSettings, id: str) -> None:
        self.settings = settings
        self.id = id
        self.workspace = open_workspace(settings.workspace)
        self.stages: Sequence[Stage] = import_object(settings.stages)
        self.models = import_object(settings.models)(settings.device)
        self._drain_file = self.workspace.path / "locks" / f"drain-{id}"
        self._drain_file.unlink(missing_ok=True)
        self.child = Child(
            "pipelines.worker.child_main",
            (
                *("--workspace", str(self.workspace.path), "--device", settings.device),
                *("--models", settings.models, "--stages", settings.stages),
            ),
            {DRAIN_VARIABLE: str(self._drain_file)},
        )
        self.running = RunningJobs(self.workspace, id, settings.device)
        self.backups = ScheduledBackups(self.workspace)
        self._working = threading.Lock()
        self._level_read = float("-inf")
        self._ending = threading.Event()
        self._at_once = threading.Event()
        self._gone = threading.Event()
        """Set when the heartbeats end: after the grace time, in which the task is still this worker's."""
        self._beats = threading.Thread(
            target=self.running.beat_until, args=(self._gone,), daemon=True, name="beats"
        )

    def run(self) -> None:
        """Run jobs until SIGTERM or SIGINT; then exit, so that another worker can take over.

        At SIGTERM the task may end or reach a checkpoint within the grace time; SIGINT or a second SIGTERM
        ends it at once.
        """
        from pipelines.worker.workflows import Engine

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        job_queue.prepare(self.workspace.jobs_url)
        self.running.beat()
        self._beats.start()
        hooks = WebhookSender(self.workspace)
        threading.Thread(target=hooks.run, args=(self._ending,), daemon=True, name="webhooks").start()
        if self.settings.with_parent:
            threading.Thread(target=self._watch_parent, daemon=True, name="parent").start()
        engine = Engine(
            self.running,
            self.perform,
            models=self.models,
            stages=self.stages,
            version=self.settings.application_version,
        )
        engine.launch()
        log.info("worker %s takes jobs on %s", self.id, self.settings.device)
        with self._inference_service():
            while not self._ending.wait(self.settings.sweep_seconds):
                engine.sweep()
                self.backups.sweep()
                self._follow_log_level()
            self._drain()
        self._exit()

    def _end(self, number: int, frame: object) -> None:
        if number == signal.SIGINT or self._ending.is_set():
            self._at_once.set()
        self._ending.set()

    def _drain(self) -> None:
        """Let the task in flight end, or stop at its next checkpoint, and wait for it."""
        deadline = time.monotonic() + self.settings.grace_seconds
        if not self._working.locked() or self.settings.grace_seconds == 0:
            return
        log.info("worker %s ends: its task has %.0f s", self.id, self.settings.grace_seconds)
        self._drain_file.touch()
        while time.monotonic() < deadline and self._working.locked():
            if self._at_once.wait(0.1):
                return
        # The engine records what the task returned in another thread.
        self._at_once.wait(min(RECORDING_SECONDS, max(0.0, deadline - time.monotonic())))

    def _follow_log_level(self) -> None:
        """Log as much as the admin wants, read now and then."""
        if time.monotonic() - self._level_read < LEVEL_SECONDS:
            return
        self._level_read = time.monotonic()
        with contextlib.suppress(ClinicError):
            logging.getLogger("clinic").setLevel(LEVELS[log_level(self.workspace)])

    def perform(self, task: dict[str, Any]) -> dict[str, Any]:
        """Run one task in the child; again if its process dies or the storage fails it.

        Raises `Cancelled`, `ChildDied` if it died in the same way too often, `Unavailable` if the storage
        stayed away too long, or the task's own error.
        """

        def say(message: str) -> None:
            active.message = message
            active.raise_if_stopped()

        with self._working:
            if not self._ending.is_set():
                with contextlib.suppress(Draining), self.running.holding(task["job"]) as active:
                    return patiently(lambda: self._perform(task, active), say)
        self._hand_back()

    def _hand_back(self) -> NoReturn:
        """Leave a task to another worker: wait for the end of this process, whose jobs are then adopted."""
        while True:
            time.sleep(60)

    def _perform(self, task: dict[str, Any], active: ActiveJob) -> dict[str, Any]:
        while True:
            try:
                return self.child.call(
                    task,
                    lambda event: self._progress(active, event),
                    lambda: active.stop_request == "cancel",
                )
            except Paused:
                self.child.kill()  # frees its device memory
                if self._drain_file.exists():
                    raise Draining from None
                raise
            except ChildDied as death:
                log.warning("job %s: %s", task["job"], death)
                if reason := self.running.fails_alike(task["job"], str(death), active.progress):
                    raise ChildDied(reason) from death
            finally:
                active.hold_device("")
                with contextlib.suppress(ClinicError, OSError):
                    self.workspace.job_files.send(task["job"], everything=True)

    def _progress(self, active: ActiveJob, event: dict[str, Any]) -> None:
        if event["event"] == "device":
            active.hold_device(event["device"])
            return
        active.progress, active.message = event["progress"], event["message"]
        if memory := event.get("memory"):
            self.running.memory = {self.settings.device: memory}

    def _watch_parent(self) -> None:
        while os.read(0, 1024):
            pass
        self._ending.set()

    @contextmanager
    def _inference_service(self) -> Iterator[None]:
        if not self.settings.inference:
            yield
            return
        with inference_server.listening(self.workspace.path) as listener:
            if listener is None:
                yield
                return
            arguments = ("--workspace", str(self.workspace.path), "--models", self.settings.models)
            service = Child(
                "pipelines.worker.inference_server",
                (*arguments, "--device", self.settings.device, "--socket", str(listener.fileno())),
                pass_fds=(listener.fileno(),),
            )
            threading.Thread(target=attend, args=(listener, service, self._ending), daemon=True).start()
            yield

    def _exit(self) -> None:
        """Exit at once, as if killed, but remove the worker's heartbeat row first; closing the lifelines ends
        the children."""
        self._gone.set()
        self._beats.join(FAREWELL_SECONDS)
        with contextlib.suppress(ClinicError):
            self.running.forget()
        self._drain_file.unlink(missing_ok=True)
        log.info("worker %s ended", self.id)
        logging.shutdown()
        os._exit(0)


def attend(listener: socket.socket, service: Child, ending: threading.Event) -> None:
    """Start the inference child when a call arrives and none is running.

    If it fails to start, such as after an upgrade, it is retried at most every `RESTART_SECONDS`; the call
    stays pending on the socket.
    """
    started = -RESTART_SECONDS
    while not ending.is_set():
        if service.pid is None and select.select([listener], [], [], 0.2)[0]:
            if ending.wait(max(0.0, started + RESTART_SECONDS - time.monotonic())):
                return
            started = time.monotonic()
            service.start()
        ending.wait(0.05)


@contextmanager
def worker_identity(workspace: Path) -> Iterator[str]:
    """A worker id for this machine and workspace that no running worker uses; stable over restarts.

    Raises `WorkspaceUnusable` if all are taken.
    """
    folder = workspace / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(MAX_WORKERS_HERE):
        with (folder / f"worker-{socket.gethostname()}-{number}").open("a+") as file:
            if not try_lock(file.fileno()):
                continue
            file.seek(0)
            id = file.read().strip()
            if not id:
                id = f"{socket.gethostname()}-{number}-{uuid.uuid4().hex[:6]}"
                file.write(id)
                file.flush()
            yield id
            return
    raise WorkspaceUnusable(f"{MAX_WORKERS_HERE} workers already use {workspace} on this machine; stop one")


def run_worker(settings: WorkerSettings) -> None:
    """Run a worker until SIGTERM or SIGINT."""
    log_to_stderr()
    with worker_identity(open_workspace(settings.workspace).path) as id:
        Worker(settings, id).run()
