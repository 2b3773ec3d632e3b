"""Work of the workers: how it stands, and waiting for it."""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ui.client.records import Job, Run, read
from ui.client.transport import ApiError, Transport, an_id

ENDED = frozenset({"succeeded", "failed", "cancelled"})
POLL_SECONDS = 1.0
W = TypeVar("W", Job, Run)


class Jobs:
    """Jobs of the workers, by id."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def get(self, job: str) -> Job:
        """How a job stands."""
        return read(Job, self._http.get(f"/jobs/{an_id(job)}"))

    def cancel(self, job: str) -> str:
        """Cancel a job; its state."""
        return str(self._http.post(f"/jobs/{an_id(job)}/cancel", repeatable=True)["state"])

    def watch(self, job: str, poll: float = POLL_SECONDS) -> Iterator[Job]:
        """The job each time that it has changed, until it has ended."""
        return watched(lambda: self.get(job), poll)

    def wait(
        self,
        job: str,
        *,
        report: Callable[[Job], Any] | None = None,
        timeout: float | None = None,
        poll: float = POLL_SECONDS,
    ) -> Job:
        """The job once it has succeeded; `report` gets every change.

        Raises `ApiError` where it fails or is cancelled, and after `timeout` seconds.
        """
        return waited(lambda: self.get(job), f"job {job}", report, timeout, poll)


def watched(look: Callable[[], W], poll: float) -> Iterator[W]:
    """What `look` finds, each time that it differs, until that has ended or is paused."""
    before = None
    while True:
        found = look()
        if found != before:
            yield found
        if found.state in ENDED or found.state == "paused":
            return
        before = found
        time.sleep(poll)


def waited(
    look: Callable[[], W], what: str, report: Callable[[W], Any] | None, timeout: float | None, poll: float
) -> W:
    """What `look` finds once it has succeeded. Raises `ApiError` otherwise."""
    deadline = None if timeout is None else time.monotonic() + timeout

    def in_time() -> W:
        found = look()
        late = deadline is not None and time.monotonic() > deadline
        if late and found.state not in ENDED:
            reason = "" if getattr(found, "worker", True) else " and no worker is running"
            raise ApiError(f"{what} is still {found.state} after {timeout:g} seconds{reason}")
        return found

    found = None
    for found in watched(in_time, poll):
        if report is not None:
            report(found)
    assert found is not None
    if found.state != "succeeded":
        raise ApiError(f"{what} is {found.state}: {found.error or found.message or 'no reason was given'}")
    return found
