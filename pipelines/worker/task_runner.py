"""Runs one task of a job: a round's stage or a part of it, or a job outside rounds.

Runs inside the worker's child (`Runner`). Input: a task of ids. Output: a small JSON result; a log and an
append-only metrics file in `WORKSPACE/jobs/JOB/`. Cost: that of the job.
"""

import re
import shutil
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataengine.errors import Cancelled, ClinicError, Paused, Unavailable
from dataengine.records import STAGE_JOB
from pipelines.runtime.context import Context, Result, Waiting
from pipelines.runtime.devices import device_kind, device_lock, memory_in_use
from pipelines.runtime.failpoint import STAGE
from pipelines.runtime.loading import import_object
from pipelines.runtime.models import Models
from pipelines.runtime.progress import PauseAsked, Reporter, Send, log_line, output_to
from pipelines.stages.stage import Stage, run_action, stage_named
from pipelines.worker.handlers import handler_of
from storage.opening import open_workspace
from storage.stores.blobs import FULL
from storage.stores.job_files import LOG, METRICS
from storage.workspace import Workspace

FULL_TEXT = re.compile(r"no space left|disk is full|os error 28", re.IGNORECASE)
LITTLE_BYTES = 1 << 20


def disk_is_full(error: BaseException, path: Path) -> bool:
    """Whether the error comes from a full disk: libraries that write weights wrap it in errors of their
    own, or tell no reason."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return bool(FULL_TEXT.search(str(error))) or shutil.disk_usage(path).free < LITTLE_BYTES


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs tasks in this process, one at a time, while holding the device's lock."""

    workspace: Workspace
    models: Models
    stages: Sequence[Stage]
    device: str = "cpu"

    @classmethod
    def open(cls, path: str, *, models: str, stages: str, device: str) -> "Runner":
        """Create a runner from command-line arguments: `models` and `stages` are "module:name"."""
        return cls(
            models=import_object(models)(device),
            workspace=open_workspace(path),
            stages=import_object(stages),
            device=device,
        )

    def run(self, task: dict[str, Any], send: Send) -> Result:
        """Run one task: `{"job", "kind", "args", "action", "payload", "part", "parts"}`.

        Raises what the task raises, and `Unavailable` for whatever a full disk makes it raise.
        """
        try:
            return self._run_with_files(task, send)
        except (ClinicError, KeyboardInterrupt):
            raise
        except Exception as error:
            if not disk_is_full(error, self.workspace.path):
                raise
            reason = f"{type(error).__name__}: {error}"
            raise Unavailable(f"{self.workspace.path} is full; free disk space ({reason})") from error

    def _run_with_files(self, task: dict[str, Any], send: Send) -> Result:
        folder = self.workspace.job_files.folder(task["job"])
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / METRICS).open("a", buffering=1) as metrics, output_to(folder / LOG):
            report = Reporter(
                self._with_memory(send),
                metrics.write,
                task.get("part", 0),
                task.get("parts", 1),
                say=log_line,
            )
            with device_lock(self.device, self.workspace.path, lambda message: report(0, 1, message)):
                send({"event": "device", "device": device_kind(self.device)})
                try:
                    pausing = PauseAsked(self.workspace, task["job"])
                    return self._run(Context(self.workspace, self.models, report, pausing), task)
                except (Paused, Cancelled) as stop:
                    log_line(str(stop))
                    raise
                except Exception:
                    traceback.print_exc()
                    raise
                finally:
                    report.flush()

    def _with_memory(self, send: Send) -> Send:
        """Sends events with what they need to be watched by: the device's memory."""
        return lambda event: send(event | {"memory": memory_in_use(self.device)})

    def _run(self, context: Context, task: dict[str, Any]) -> Result:
        if task["kind"] != STAGE_JOB:
            return handler_of(task["kind"])(context, task["args"])
        round_id, stage = task["args"]["round_id"], stage_named(task["args"]["stage"], self.stages)
        log_line(f"{stage.name}: {task['action']} {task.get('payload') or ''}")
        running = STAGE.set(stage.name)
        try:
            result = run_action(context, round_id, stage.work, task["action"], task.get("payload"))
        finally:
            STAGE.reset(running)
        assert not isinstance(result, Waiting), f"{stage.name} waits for people, so it must not run as a job"
        return result
