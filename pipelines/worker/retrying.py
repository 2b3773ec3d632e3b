"""Repeats what a full disk, an absent database or a silent blob store interrupted, until it passes by itself.

The pauses double and have jitter, so that the workers of a team do not all return at once. What fails for
another reason fails at once.
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from dataengine.errors import Unavailable
from pipelines.services.queue import retry_seconds

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
TICK_SECONDS = 0.25
STEADY_SECONDS = 120.0
"""Work that ran this long before it was interrupted begins a new count."""

T = TypeVar("T")


def patiently(work: Callable[[], T], say: Callable[[str], None] = lambda message: None) -> T:
    """The result of `work`, repeated while it raises `Unavailable`.

    During a pause `say` is called several times a second with what is waited for; what it raises, such as
    `Cancelled`, ends the waiting. Raises `Unavailable` with the cause after `retry_seconds` of attempts.
    """
    attempt, since = 1, time.monotonic()
    while True:
        began = time.monotonic()
        try:
            return work()
        except Unavailable as error:
            if attempt == 1 or time.monotonic() - began > STEADY_SECONDS:
                attempt, since = 1, time.monotonic()
            left = retry_seconds() - (time.monotonic() - since)
            if left <= 0:
                raise Unavailable(f"{error} (attempt {attempt}; it did not pass by itself)") from error
            attempt += 1
            _pause(min(pause_before(attempt), left), f"waiting for {_cause(error)}, attempt {attempt}", say)


def pause_before(attempt: int) -> float:
    """Seconds before that attempt, the second being the first that waits."""
    return min(FIRST_PAUSE * 2.0 ** (attempt - 2), LONGEST_PAUSE) * random.uniform(0.5, 1.5)


def _pause(seconds: float, message: str, say: Callable[[str], None]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        say(f"{message}, next in {left:.0f} s")
        time.sleep(min(TICK_SECONDS, left))


def _cause(error: Unavailable) -> str:
    text = str(error)
    if "is full" in text or "quota" in text:
        return "disk space"
    return "the blob store" if "blob store" in text else "the database"
