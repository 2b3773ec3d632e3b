"""Places where a test may pull the plug: `fail_point("generate:after_blob")`."""

import os
import signal
import time
from contextvars import ContextVar
from pathlib import Path

STAGE: ContextVar[str] = ContextVar("STAGE", default="worker")
"""The stage that this process runs."""


def fail_point(name: str) -> None:
    """Kill a process without warning if `CLINIC_FAIL_AT` names this place; once for each stage.

    `CLINIC_FAIL_AT` is a comma-separated list of names, `CLINIC_FAIL_DIR` the folder of marker files.
    `CLINIC_FAIL_VICTIM=worker` kills the worker that this process works for instead of this process. The
    marker is on disk before the kill, so a restarted process passes.
    """
    if name not in os.environ.get("CLINIC_FAIL_AT", "").split(","):
        return
    marker = f"{STAGE.get()}.{name.replace(':', '.')}"
    try:
        os.close(os.open(Path(os.environ["CLINIC_FAIL_DIR"]) / marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    worker = os.environ.get("CLINIC_WORKER_PID")
    if os.environ.get("CLINIC_FAIL_VICTIM") == "worker" and worker:
        os.kill(int(worker), signal.SIGKILL)
        time.sleep(60)  # the worker's death takes this process along; until then nothing more may happen
    os.kill(os.getpid(), signal.SIGKILL)
