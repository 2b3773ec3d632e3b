"""What a job does once a worker has it: a round's stage or part of it, or work that stands alone.

Runs inside the worker's child (`Runner`). Input: a task of ids. Output: a small JSON answer; a log and an
append-only file of metrics in `WORKSPACE/jobs/JOB/`. Cost: the work's own.
"""

import contextlib
import importlib
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataengine.errors import ConfigRefused, Paused
from pipelines.context import Context, Result, Waiting
from pipelines.devices import device_lock
from pipelines.failpoint import STAGE
from pipelines.requests import STAGE_JOB
from pipelines.stage import Stage, stage_named
from pipelines.tools import Tools
from storage.job_files import LOG, METRICS
from storage.workspace import Workspace

REPORTS_PER_SECOND = 5.0
PAUSE_SECONDS = 1.0

Send = Callable[[dict[str, Any]], None]


def import_job(context: Context, args: dict[str, Any]) -> Result:
    """Take pictures from a registered folder."""
    from pipelines.exchange.folders import import_folder

    return asdict(import_folder(context.workspace, report=context.report, **args))


def backup_job(context: Context, args: dict[str, Any]) -> Result:
    """Write the catalog and all blobs to a new file in the workspace's `backups/`."""
    from storage.backup import back_up

    target = context.workspace.path / "backups" / f"backup-{time.strftime('%Y%m%d-%H%M%S')}.tar"
    made = back_up(context.workspace, target, report=context.report)
    return {"path": str(made.path), "bytes": made.bytes, "damaged": list(made.damaged)}


def pull_job(context: Context, args: dict[str, Any]) -> Result:
    """Bring labels in line with a Label Studio project that was pushed; the token is in the environment."""
    from pipelines.exchange.label_studio import Server, token
    from pipelines.exchange.pull import pull

    with context.workspace.catalog(read_only=True) as catalog:
        home = catalog.endpoints.get(args["endpoint"])
    server = Server.connect(home.location, token())
    return asdict(pull(context.workspace, server, str(home.settings["project"]), report=context.report))


def features_job(context: Context, args: dict[str, Any]) -> Result:
    """Compute the champion's features of images that have none."""
    from pipelines.features import compute_features

    return compute_features(context)


def retrain_job(context: Context, args: dict[str, Any]) -> Result:
    """Retrain a detector outside a round."""
    from pipelines.retraining import retrain_job

    return retrain_job(context, args)


def treat_job(context: Context, args: dict[str, Any]) -> Result:
    """Treat a generator outside a round."""
    from pipelines.treating import treat_job

    return treat_job(context, args)


def refine_job(context: Context, args: dict[str, Any]) -> Result:
    """Train a generator on real pictures, minding its own flaws."""
    from pipelines.refine import refine_job

    return refine_job(context, args)


def compare_job(context: Context, args: dict[str, Any]) -> Result:
    """Draw prompts with and without a treatment."""
    from pipelines.treating import compare_job

    return compare_job(context, args)


def dynamics_job(context: Context, args: dict[str, Any]) -> Result:
    """Score dynamics of one drawn image at a point (x, y) in its pixels."""
    from pipelines.dynamics import at_point

    return at_point(context, args["image"], tuple(args["point"]))


JOBS: dict[str, Callable[[Context, dict[str, Any]], Result]] = {
    "import": import_job,
    "backup": backup_job,
    "pull": pull_job,
    "features": features_job,
    "dynamics": dynamics_job,
    "retrain": retrain_job,
    "treat": treat_job,
    "compare": compare_job,
    "refine": refine_job,
}
"""Work that stands alone, by the kind of job."""


def load(spec: str) -> Any:
    """The object that "module:name" names."""
    module, _, name = spec.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigRefused(f"{spec!r} names no object of ours: {error}. Expected module:name.") from error


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs tasks in this process, one at a time, holding the device's lock."""

    workspace: Workspace
    tools: Tools
    stages: Sequence[Stage]
    device: str = "cpu"

    @classmethod
    def open(cls, path: str, *, tools: str, stages: str, device: str) -> "Runner":
        """From the words of a command line: `tools` and `stages` as "module:name"."""
        return cls(
            workspace=Workspace.open(path), tools=load(tools)(device), stages=load(stages), device=device
        )

    def run(self, task: dict[str, Any], send: Send) -> Result:
        """Run one task: `{"job", "kind", "args", "action", "payload", "part", "parts"}`."""
        folder = self.workspace.job_files.folder(task["job"])
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / METRICS).open("a", buffering=1) as metrics, output_to(folder / LOG):
            report = Reporter(send, metrics.write, task.get("part", 0), task.get("parts", 1), say=log_line)
            with device_lock(self.device, self.workspace.path, lambda message: report(0, 1, message)):
                try:
                    pausing = PauseAsked(self.workspace, task["job"])
                    return self._answer(Context(self.workspace, self.tools, report, pausing), task)
                except Paused as pause:
                    log_line(str(pause))
                    raise
                except Exception:
                    traceback.print_exc()
                    raise
                finally:
                    report.flush()

    def _answer(self, context: Context, task: dict[str, Any]) -> Result:
        if task["kind"] != STAGE_JOB:
            return kind_named(task["kind"])(context, task["args"])
        round_id, stage = task["args"]["round_id"], stage_named(task["args"]["stage"], self.stages)
        log_line(f"{stage.name}: {task['action']} {task.get('payload') or ''}")
        running = STAGE.set(stage.name)
        try:
            return self._run_stage(context, round_id, stage, task)
        finally:
            STAGE.reset(running)

    def _run_stage(self, context: Context, round_id: str, stage: Stage, task: dict[str, Any]) -> Result:
        if task["action"] == "shards":
            assert stage.shards
            return {"shards": stage.shards(context, round_id)}
        if task["action"] == "shard":
            assert stage.run_shard
            return stage.run_shard(context, round_id, task["payload"])
        if task["action"] == "finish":
            assert stage.finish
            return stage.finish(context, round_id, task["payload"])
        answer = stage.run(context, round_id)
        assert not isinstance(answer, Waiting), f"{stage.name} waits for people, so it is no job"
        return answer


def kind_named(kind: str) -> Callable[[Context, dict[str, Any]], Result]:
    """The work of that kind. Raises `ConfigRefused` naming the kinds there are."""
    if kind not in JOBS:
        raise ConfigRefused(f"there is no job of kind {kind!r}; kinds are {', '.join([STAGE_JOB, *JOBS])}")
    return JOBS[kind]


@dataclass
class PauseAsked:
    """Whether somebody asked a job to pause; looked up about once a second, however often it is asked."""

    workspace: Workspace
    job: str
    _looked: float = -math.inf
    _asked: bool = False

    def __call__(self) -> bool:
        if not self._asked and time.monotonic() - self._looked >= PAUSE_SECONDS:
            self._looked = time.monotonic()
            with self.workspace.catalog(read_only=True) as catalog:
                self._asked = catalog.jobs.asked(self.job) == "pause"
        return self._asked


@dataclass
class Reporter:
    """A `Report`: figures go to the job's metrics at once, progress to the worker a few times a second."""

    send: Send
    write: Callable[[str], object]
    part: int = 0
    parts: int = 1
    say: Callable[[str], None] = lambda line: None
    """Told what the work turns to."""
    _last: float = 0.0
    _said: str = ""
    _unsent: dict[str, Any] | None = None

    def __call__(self, done: int, total: int, message: str = "", **figures: float) -> None:
        moment = time.time()
        if figures:
            line = {"time": moment, "done": done, "total": total, **figures}
            self.write(json.dumps(line) + "\n")
        if message != self._said:
            self._said = message
            self.say(message)
        share = (self.part + done / max(total, 1)) / max(self.parts, 1)
        self._unsent = {"event": "progress", "progress": min(share, 1.0), "message": message, **figures}
        if moment - self._last >= 1 / REPORTS_PER_SECOND:
            self._last = moment
            self.flush()

    def flush(self) -> None:
        """Send what was held back."""
        if self._unsent is not None:
            self.send(self._unsent)
            self._unsent = None


def log_line(text: str) -> None:
    """A line of the job's log, with the time."""
    if text:
        print(f"{time.strftime('%F %T')} {text}", flush=True)


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Append everything that this process prints, native libraries included, to a file."""
    kept = [os.dup(1), os.dup(2)]
    try:
        with path.open("a") as file:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError):
                stream.flush()
        for descriptor, original in zip((1, 2), kept, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
