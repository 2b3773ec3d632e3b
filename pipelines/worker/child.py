"""The worker's resident child: one process group that runs tasks, can be killed, and never outlives the
worker.

The worker itself does not import torch; the child (`pipelines.worker.child_main`) imports it once. They
exchange lines of JSON through pipes. Input: a task. Output: the task's result, or an error. Cost: one
process.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataengine import errors
from dataengine.errors import Cancelled, ClinicError, JobFailed

GRACE_SECONDS = 0.7
"""Time between SIGTERM and SIGKILL to the group."""
POLL_SECONDS = 0.1
OUT_OF_HOST_MEMORY = (
    " (often since this machine's memory ran out; a smaller batch or image, gradient checkpointing, a "
    "smaller detector or a generator in bfloat16 needs less)"
)
"""What SIGKILL often means: the system kills the largest process, which can say nothing any more."""

Event = dict[str, Any]


class ChildDied(JobFailed):
    """The child process died during a task: killed, out of memory, or crashed in native code."""


@dataclass
class Child:
    """A process group running `python -m MODULE ARGS`, started on the first call and restarted after it
    died."""

    module: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    pass_fds: tuple[int, ...] = ()
    cwd: Path | None = None
    _process: subprocess.Popen[bytes] | None = None
    _lifeline: int = -1
    _events: int = -1
    _unread: bytes = b""

    @property
    def pid(self) -> int | None:
        """Process id of the group's leader; None while no child runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the child if none runs."""
        if self.pid is not None:
            return
        self.kill()
        lifeline_read, self._lifeline = os.pipe()
        self._events, events_write = os.pipe()
        os.set_blocking(self._events, False)
        self._unread = b""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, str(lifeline_read), str(events_write), *self.arguments],
                stdin=subprocess.PIPE,
                start_new_session=True,
                pass_fds=(lifeline_read, events_write, *self.pass_fds),
                cwd=self.cwd,
                env={**os.environ, "CLINIC_WORKER_PID": str(os.getpid()), **self.environment},
            )
        finally:
            os.close(lifeline_read)
            os.close(events_write)

    def call(
        self,
        request: Mapping[str, Any],
        on_event: Callable[[Event], None] = lambda event: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Run one task and return its JSON result.

        `on_event` receives progress; `should_stop` is polled about ten times a second. Raises `Cancelled`
        after a stop (the whole group is dead by then), `ChildDied` if the process died, or the task's own
        `ClinicError`.
        """
        self.start()
        assert self._process and self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            while True:
                if should_stop():
                    self.kill()
                    raise Cancelled("cancelled on request")
                for event in self._read():
                    if event["event"] == "done":
                        return event["result"]
                    if event["event"] == "error":
                        raise error_of(event)
                    on_event(event)
        except (BrokenPipeError, EOFError):
            raise self._death() from None

    def kill(self) -> None:
        """Kill the whole group: SIGTERM, a grace period, SIGKILL. Returns when the group's leader is gone."""
        process = self._process
        if process is not None:
            for number, timeout in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 10.0)):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout)
            if process.stdin:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
        for descriptor in (self._lifeline, self._events):
            if descriptor >= 0:
                os.close(descriptor)
        self._process, self._lifeline, self._events = None, -1, -1

    def _read(self) -> list[Event]:
        """Events that have arrived; waits up to `POLL_SECONDS`. Raises EOFError when the child is gone."""
        if not select.select([self._events], [], [], POLL_SECONDS)[0]:
            return []
        received = os.read(self._events, 1 << 16)
        if not received:
            raise EOFError
        *lines, self._unread = (self._unread + received).split(b"\n")
        return [json.loads(line) for line in lines]

    def _death(self) -> ChildDied:
        """Reap the dead child; returns the error that says how it ended."""
        process = self._process
        deadline = time.monotonic() + 2
        while process and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        code = process.returncode if process else None
        self.kill()
        if code is not None and (code < 0 or code > 128):
            number = -code if code < 0 else code - 128
            cause = f"was killed by signal {number}" + (OUT_OF_HOST_MEMORY if number == 9 else "")
        else:
            cause = f"exited with status {code}"
        return ChildDied(f"the child process {cause} during a task")


def error_of(event: Event) -> ClinicError:
    """The child's exception: as its own class if that is a `ClinicError` constructed from a message only."""
    kind = getattr(errors, event["type"], None)
    if isinstance(kind, type) and issubclass(kind, ClinicError) and kind is not errors.NonFinite:
        return kind(event["message"])
    if kind is errors.NonFinite:
        return JobFailed(event["message"])
    return JobFailed(f"{event['type']}: {event['message']}")
