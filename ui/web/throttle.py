"""Slow down guesses: counted failures, and a waiting line with an end.

Both live in this process: of several servers on one database, each counts for itself.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from threading import Lock
from typing import TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from dataengine.errors import Unavailable
from dataengine.records import digest

T = TypeVar("T")
SITE_PREFIX = 64
"""Bits of an IPv6 address that name a site: whoever has one address has all of its /64."""


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

    def attempt(self, key: str) -> bool:
        """Count an attempt as a failure before its outcome is known, so that attempts at the same time cannot
        pass together; `forgive` takes it back. False, and nothing is counted, while the key is blocked.
        """
        with self.lock:
            if len(self.recent(digest(key))) >= self.limit:
                return False
            self.add(digest(key))
            return True

    def forgive(self, key: str) -> None:
        """Take one attempt back."""
        with self.lock:
            times = self.failures.get(digest(key))
            if times:
                times.pop()
            if not times:
                self.failures.pop(digest(key), None)

    def fail(self, *keys: str) -> None:
        """Count one failure for each key."""
        with self.lock:
            for key in keys:
                self.add(digest(key))

    def clear(self, *keys: str) -> None:
        """Forget the failures of the keys, after a success."""
        with self.lock:
            for key in map(digest, keys):
                self.failures.pop(key, None)

    def add(self, key: str) -> None:
        self.failures[key].append(self.clock())
        while len(self.failures) > self.keys:
            self.failures.pop(next(iter(self.failures)))

    def recent(self, key: str) -> deque[float]:
        times = self.failures.get(key, deque())
        while times and times[0] < self.clock() - self.seconds:
            times.popleft()
        return times


class WaitingLine:
    """Runs blocking work in few threads of its own; a limited number of callers waits, of whom one address
    may be only a few."""

    def __init__(self, at_once: int, waiting: int, per_address: int, busy: str) -> None:
        self.limiter = CapacityLimiter(at_once)
        self.places = at_once + waiting
        self.per_address = per_address
        self.busy = busy
        self.inside: defaultdict[str, int] = defaultdict(int)

    async def run(self, address: str, work: Callable[[], T]) -> T:
        """The result of `work`. Raises `Unavailable` at once where the line is full."""
        if sum(self.inside.values()) >= self.places or self.inside[address] >= self.per_address:
            self.leave(address, 0)
            raise Unavailable(self.busy)
        self.inside[address] += 1
        try:
            return await run_sync(work, limiter=self.limiter)
        finally:
            self.leave(address, 1)

    def leave(self, address: str, places: int) -> None:
        self.inside[address] -= places
        if not self.inside[address]:
            del self.inside[address]


def site_of(address: str) -> str:
    """What an address is counted by: an IPv4 address itself, the /64 of an IPv6 address."""
    try:
        known = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(known, IPv6Address):
        if known.ipv4_mapped:
            return str(known.ipv4_mapped)
        return str(IPv6Address(int(known) >> (128 - SITE_PREFIX) << (128 - SITE_PREFIX)))
    return str(known)
