"""Progress, logs and pauses of a running job."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.workspace import Workspace

DRAIN_VARIABLE = "CLINIC_DRAIN_FILE"
"""Environment variable of a worker's child: a file that appears when the worker is about to exit."""
REPORTS_PER_SECOND = 5.0
PAUSE_SECONDS = 1.0

Send = Callable[[dict[str, Any]], None]


@dataclass
class PauseAsked:
    """Whether a job was asked to pause, or its worker is about to exit; looks at most once in
    `PAUSE_SECONDS`."""

    workspace: Workspace
    job: str
    _checked: float = -math.inf
    _asked: bool = False

    def __call__(self) -> bool:
        if not self._asked and time.monotonic() - self._checked >= PAUSE_SECONDS:
            self._checked = time.monotonic()
            if self.draining():
                self._asked = True
                return True
            with self.workspace.catalog(read_only=True) as catalog:
                self._asked = catalog.jobs.pending_request(self.job) == "pause"
        return self._asked

    @staticmethod
    def draining() -> bool:
        """Whether the worker of this process is about to exit."""
        file = os.environ.get(DRAIN_VARIABLE)
        return bool(file) and Path(str(file)).exists()


@dataclass
class Reporter:
    """A `Report`: writes figures to the job's metrics at once, and sends progress to the worker at most
    `REPORTS_PER_SECOND` times a second."""

    send: Send
    write: Callable[[str], object]
    part: int = 0
    parts: int = 1
    say: Callable[[str], None] = lambda line: None
    """Called with each new message."""
    _last: float = 0.0
    _message: str = ""
    _unsent: dict[str, Any] | None = None

    def __call__(self, done: float, total: int, message: str = "", **figures: float) -> None:
        moment = time.time()
        if figures:
            line = {"time": moment, "done": done, "total": total, **figures}
            self.write(json.dumps(line) + "\n")
        if message != self._message:
            self._message = message
            self.say(message)
        share = (self.part + done / max(total, 1)) / max(self.parts, 1)
        self._unsent = {"event": "progress", "progress": min(share, 1.0), "message": message, **figures}
        if moment - self._last >= 1 / REPORTS_PER_SECOND:
            self._last = moment
            self.flush()

    def flush(self) -> None:
        """Send the last progress if it has not been sent yet."""
        if self._unsent is not None:
            self.send(self._unsent)
            self._unsent = None


def log_line(text: str) -> None:
    """Print a line with a timestamp; standard output is the job's log."""
    if text:
        print(f"{time.strftime('%F %T')} {text}", flush=True)


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Append everything that this process prints, native libraries included, to a file."""
    originals = [os.dup(1), os.dup(2)]
    try:
        with path.open("a") as file:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError):
                stream.flush()
        for descriptor, original in zip((1, 2), originals, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
