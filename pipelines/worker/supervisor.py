"""A worker process beside this one, started again when it dies, gone when this one ends however it ends."""

import contextlib
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from storage.workspace import Workspace

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
STEADY_SECONDS = 60.0
"""A worker that lived this long starts again after the first pause."""


@contextmanager
def supervised_worker(workspace: Workspace, options: Sequence[str] = ()) -> Iterator[None]:
    """Keep one `clinic worker` alive while the block runs; its log is `WORKSPACE/worker.log`."""
    command = [sys.executable, "-m", "app", "--workspace", str(workspace.path), "worker", "--with-parent"]
    over = threading.Event()
    thread = threading.Thread(
        target=_keep_alive,
        args=([*command, *options], workspace.path / "worker.log", over),
        name="supervisor",
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _keep_alive(command: Sequence[str], log_file: Path, over: threading.Event) -> None:
    pause = FIRST_PAUSE
    while not over.is_set():
        with log_file.open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )
        lived = _until_ended(process, over)
        if over.is_set():
            return
        pause = FIRST_PAUSE if lived > STEADY_SECONDS else min(2 * pause, LONGEST_PAUSE)
        log.warning(
            "the worker ended with status %s; another one starts in %.0f s", process.returncode, pause
        )
        over.wait(pause)


def _until_ended(process: subprocess.Popen[bytes], over: threading.Event) -> float:
    """Seconds that the worker lived; it is ended when `over` is set, by closing its standard input."""
    lived = 0.0
    while process.poll() is None:
        if over.wait(0.2):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
        lived += 0.2
    if process.stdin:
        process.stdin.close()
    return lived
