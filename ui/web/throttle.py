"""Slow down repeated sign-in attempts."""

import time
from collections import defaultdict, deque
from collections.abc import Callable
from threading import Lock

from dataengine.records import digest


class Throttle:
    """Counts failures by key within a window of seconds; too many and the key has to wait.

    Keys are kept hashed and at most `keys` of them, so that guesses cannot exhaust memory.
    """

    def __init__(
        self,
        limit: int,
        seconds: float = 600,
        keys: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self.seconds = seconds
        self.keys = keys
        self.clock = clock
        self.failures: defaultdict[str, deque[float]] = defaultdict(deque)
        self.lock = Lock()

    def blocked(self, *keys: str) -> bool:
        """True while any key failed `limit` times within the window."""
        with self.lock:
            return any(len(self.recent(digest(key))) >= self.limit for key in keys)

    def fail(self, *keys: str) -> None:
        """Count one failure for each key."""
        with self.lock:
            for key in map(digest, keys):
                self.failures[key].append(self.clock())
            while len(self.failures) > self.keys:
                self.failures.pop(next(iter(self.failures)))

    def clear(self, *keys: str) -> None:
        """Forget the failures of the keys, after a success."""
        with self.lock:
            for key in map(digest, keys):
                self.failures.pop(key, None)

    def recent(self, key: str) -> deque[float]:
        times = self.failures.get(key, deque())
        while times and times[0] < self.clock() - self.seconds:
            times.popleft()
        return times
