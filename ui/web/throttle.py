"""Slow down guesses: counted failures, and a waiting line with an end.

Both live in this process: of several servers on one database, each counts for itself.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address
from threading import Lock

from dataengine.records import digest

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
    """Places for requests whose work takes long; of one address only a few."""

    def __init__(self, places: int, per_address: int) -> None:
        self.places = places
        self.per_address = per_address
        self.inside: dict[str, int] = {}
        self.taken = 0

    @contextmanager
    def place(self, address: str) -> Iterator[bool]:
        """Hold a place while inside; False, without one, where the line is full."""
        held = self.inside.get(address, 0)
        if self.taken >= self.places or held >= self.per_address:
            yield False
            return
        self.inside[address] = held + 1
        self.taken += 1
        try:
            yield True
        finally:
            self.taken -= 1
            self.inside[address] -= 1
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
