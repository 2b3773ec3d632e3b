"""Fail points, at which tests can kill a process: `fail_point("generate:after_blob")`."""

import os
import signal
import time
from contextvars import ContextVar
from pathlib import Path

STAGE: ContextVar[str] = ContextVar("STAGE", default="worker")
"""The stage that this process runs."""


def fail_point(name: str) -> None:
    """Kill a process with SIGKILL if `CLINIC_FAIL_AT` names this point; once for each stage.

    `CLINIC_FAIL_AT` is a comma-separated list of names, `CLINIC_FAIL_DIR` the folder of marker files.
    `CLINIC_FAIL_VICTIM=worker` kills this process's worker instead of this process. The marker is written
    before the kill, so that a restarted process passes.
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
        time.sleep(60)  # this process dies with its worker; until then it must do nothing more
    os.kill(os.getpid(), signal.SIGKILL)
