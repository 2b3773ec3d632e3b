"""The measured web server: a process of its own, started by the public command line.

Free of the repository's other modules, so that a bench may serve another commit with it.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

GREETING = "Artifact Clinic: "


PATIENCE_SECONDS = 60.0


class Server(NamedTuple):
    """Where it answers, and its process id."""

    url: str
    pid: int


@contextmanager
def server_process(checkout: Path, workspace: Path, *settings: str) -> Iterator[Server]:
    """`clinic app` of a checkout over a workspace that has accounts, without a worker; `settings` as `--set`.

    Raises `RuntimeError` when it ends before it says where it answers.
    """
    command = [sys.executable, "-m", "app", "--workspace", str(workspace), "app", "--port", "0"]
    command += ["--no-worker", *(word for setting in settings for word in ("--set", setting))]
    with subprocess.Popen(
        command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        try:
            greeting = next((line for line in server.stdout if line.startswith(GREETING)), None)
            if greeting is None:
                raise RuntimeError(f"{' '.join(command)} ended with {server.wait(20)}")
            url = greeting.removeprefix(GREETING).strip()
            wait_until_listening(url)
            yield Server(url, server.pid)
        finally:
            server.terminate()
            server.wait(20)


def wait_until_listening(url: str) -> None:
    """Return once the address takes connections; it is announced a little earlier. Raises `OSError`."""
    parts, deadline = urlsplit(url), time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection((parts.hostname or "", parts.port or 0), 5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
