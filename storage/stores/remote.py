"""Time limits for a blob store that is not a folder: a silent or refusing one becomes `Unavailable`.

Clients of object stores have time limits of their own, but not all of them, and some retry for minutes.
Each call runs in a thread that is given up at its deadline, and `SLOTS` bounds how many may hang at once.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as DeadlinePassed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataengine.errors import ClinicError, Unavailable, WorkspaceUnusable

SLOTS = 24
"""Calls of this process that may be under way at once, fewer than a web server's threads."""
SLOT_SECONDS = 5.0
"""Seconds that a call waits for one of them."""
SLOWEST = 1 << 18
"""Bytes a second that a slow connection still carries: what is written may take as long."""
LISTING_SECONDS = 600.0
ANSWERS = (ClinicError, FileNotFoundError, FileExistsError, NotImplementedError, TypeError, ValueError)
"""Errors by which a store answers, or by which a mistake of ours shows."""
S3 = {"config_kwargs": {"connect_timeout": 5, "read_timeout": 15, "retries": {"max_attempts": 2}}}
OPTIONS: dict[str, dict[str, Any]] = {"s3": S3, "s3a": S3}
"""Time limits of the store's own client, by the URL's protocol."""


def store_seconds() -> float:
    """How long a blob store may stay silent before a call fails (`CLINIC_STORE_SECONDS`, default 20)."""
    return float(os.environ.get("CLINIC_STORE_SECONDS", "20"))


class Remote:
    """A file system of fsspec, each of whose calls ends in time.

    A call raises `Unavailable` when the store is silent or refuses, `WorkspaceUnusable` when it forbids, and
    passes on the errors by which a store answers.
    """

    def __init__(self, fs: Any, name: str) -> None:
        self._fs = fs
        self._name = name
        self._slots = threading.BoundedSemaphore(SLOTS)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._fs, name)
        return (
            (lambda *args, **options: self._bounded(method, *args, **options)) if callable(method) else method
        )

    @contextmanager
    def open(self, path: str, mode: str = "rb") -> "Iterator[Reader]":
        """A file to read, each piece of which comes in time."""
        file = self._bounded(self._fs.open, path, mode)
        try:
            yield Reader(lambda size: self._bounded(file.read, size))
        finally:
            file.close()

    def _bounded(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        limit = store_seconds()
        if not self._slots.acquire(timeout=min(SLOT_SECONDS, limit)):
            raise self._silent(limit)
        answer: Future[Any] = Future()

        def run() -> None:
            try:
                answer.set_result(method(*args, **options))
            except BaseException as error:
                answer.set_exception(error)
            finally:
                self._slots.release()

        threading.Thread(target=run, daemon=True, name="blob store").start()
        try:
            return answer.result(limit + _transfer_seconds(method.__name__, args))
        except DeadlinePassed as error:
            raise self._silent(limit) from error
        except ANSWERS:
            raise
        except PermissionError as error:
            raise WorkspaceUnusable(
                f"the blob store {self._name} refuses access; check its credentials ({error})"
            ) from error
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".strip(": ")
            raise Unavailable(
                f"the blob store {self._name} does not respond; try again ({reason})"
            ) from error

    def _silent(self, seconds: float) -> Unavailable:
        return Unavailable(
            f"the blob store {self._name} has not answered for {seconds:.0f} s; check that it is running, "
            "then try again"
        )


class Reader:
    """The part of a file that copying needs."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.read = read


def _transfer_seconds(method: str, args: tuple[Any, ...]) -> float:
    """Seconds beyond the silence that a call may take, by what it sends or lists."""
    if method == "find":
        return LISTING_SECONDS
    sent = sum(len(each) for each in args if isinstance(each, bytes))
    if method == "put_file":
        sent += Path(args[0]).stat().st_size
    return sent / SLOWEST
