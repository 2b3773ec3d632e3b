"""Faults that pass by themselves, each as a block: a full disk, a database that is away, a silent store.

`faulty_store` has the store; a full disk needs root, for a file system of fixed size in memory.
"""

import contextlib
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil

from tests.services import as_server

MIB = 1 << 20
REFILL_SECONDS = 0.1


def why_no_disk() -> str | None:
    """Why no file system can be mounted here; None where one can."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return "mounting a file system of fixed size needs root: a full disk cannot be simulated"
    return None


@contextmanager
def small_disk(where: Path, mib: int = 96) -> Iterator[Path]:
    """A file system of that size, in memory."""
    where.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


@contextmanager
def full_disk(where: Path) -> Iterator[None]:
    """No byte is free on that file system while the block runs, whatever is deleted meanwhile."""
    over, filler = threading.Event(), where / "filler"

    def fill() -> None:
        with filler.open("ab", buffering=0) as file:
            while not over.is_set():
                for size in (MIB, 4096, 1):
                    with contextlib.suppress(OSError):
                        while file.write(b"\0" * size):
                            pass
                over.wait(REFILL_SECONDS)

    filling = threading.Thread(target=fill)
    filling.start()
    try:
        while shutil.disk_usage(where).free:
            time.sleep(0.01)
        yield
    finally:
        over.set()
        filling.join()
        filler.unlink()


@contextmanager
def locked_sqlite(*files: Path) -> Iterator[None]:
    """Another writer holds these databases while the block runs."""
    with contextlib.ExitStack() as held:
        for file in files:
            other = held.enter_context(contextlib.closing(sqlite3.connect(file, timeout=30)))
            other.isolation_level = None
            other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def stopped_postgres(url: str) -> Iterator[None]:
    """The server of `tests.services.postgres_cluster` crashed while the block runs; then it is started."""
    data = _data(url)
    command = shlex.split((data / "postmaster.opts").read_text())
    server = psutil.Process(int((data / "postmaster.pid").read_text().split()[0]))
    every = [server, *server.children(recursive=True)]
    os.kill(server.pid, signal.SIGQUIT)
    psutil.wait_procs(every, 30)
    try:
        yield
    finally:
        with (data / "log").open("ab") as log:
            subprocess.Popen(
                as_server(command), stdout=log, stderr=log, cwd=data.parent, start_new_session=True
            )
        _wait_for(data)


@contextmanager
def paused_postgres(url: str) -> Iterator[None]:
    """All processes of the server stand still while the block runs: nothing is refused, nothing answered."""
    server = psutil.Process(int((_data(url) / "postmaster.pid").read_text().split()[0]))
    stopped = [server, *server.children(recursive=True)]
    for process in stopped:
        process.suspend()
    try:
        yield
    finally:
        for process in reversed(stopped):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def _data(url: str) -> Path:
    sockets = parse_qs(urlsplit(url).query)["host"][0]
    return Path(sockets).parent / "data"


def _wait_for(data: Path) -> None:
    until = time.monotonic() + 60
    state = data / "postmaster.pid"
    while not state.exists() or "ready" not in state.read_text():
        if time.monotonic() > until:
            raise RuntimeError("PostgreSQL did not start again")
        time.sleep(0.05)
