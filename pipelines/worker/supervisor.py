"""Runs a worker process next to this one, restarts it when it dies, and ends it when this process ends."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from pipelines.services.operation.logs import PrivateLog, relay
from storage.workspace import Workspace

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
STEADY_SECONDS = 60.0
"""A worker that ran this long is restarted after `FIRST_PAUSE`; others after ever longer pauses."""


@contextmanager
def supervised_worker(
    workspace: Workspace,
    options: Sequence[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[None]:
    """Keep one `clinic worker` running while the block runs; its output is logged to
    `WORKSPACE/worker.log`, as JSON lines, in files that begin anew.

    `environment` holds variables for it besides those of this process.
    """
    command = [sys.executable, "-m", "app", "--workspace", str(workspace.path), "worker", "--with-parent"]
    over = threading.Event()
    thread = threading.Thread(
        target=_keep_alive,
        args=([*command, *options], workspace.path / "worker.log", over, {**os.environ, **environment}),
        name="supervisor",
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _keep_alive(
    command: Sequence[str], log_file: Path, over: threading.Event, environment: Mapping[str, str]
) -> None:
    pause = FIRST_PAUSE
    output = PrivateLog(log_file)
    while not over.is_set():
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
        # Ends with the last process that inherited the pipe.
        threading.Thread(target=relay, args=(process.stdout, output, "worker"), daemon=True).start()
        seconds = _wait_until_ended(process, over)
        if over.is_set():
            return
        pause = FIRST_PAUSE if seconds > STEADY_SECONDS else min(2 * pause, LONGEST_PAUSE)
        log.warning("the worker exited with status %s; restarting it in %.0f s", process.returncode, pause)
        over.wait(pause)


def _wait_until_ended(process: subprocess.Popen[bytes], over: threading.Event) -> float:
    """Wait until the worker exits, terminating it when `over` is set; returns how many seconds it ran."""
    seconds = 0.0
    while process.poll() is None:
        if over.wait(0.2):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
        seconds += 0.2
    if process.stdin:
        process.stdin.close()
    return seconds
