"""Slow down guesses: counted failures, and a waiting line with an end.

Failures are counted in the catalog, so that several servers on one database count together; a waiting line is
this process's own.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address

from dataengine.records import digest
from storage.workspace import Workspace

SITE_PREFIX = 64
"""Bits of an IPv6 address that name a site: whoever has one address has all of its /64."""
LONGEST_SECONDS = 3600.0
"""The longest window of any throttle; older failures are deleted."""


class Throttle:
    """Counts failures by key within a window of seconds; too many and the key has to wait.

    Keys are stored hashed, apart from those of throttles with another name.
    """

    def __init__(
        self,
        workspace: Workspace,
        name: str,
        limit: int,
        seconds: float = 600,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.workspace = workspace
        self.name = name
        self.limit = limit
        self.seconds = seconds
        self.clock = clock

    def blocked(self, key: str) -> bool:
        """True while the key failed `limit` times within the window."""
        with self.workspace.catalog(read_only=True) as catalog:
            return catalog.failed_attempts.count(self.stored(key), self.since()) >= self.limit

    def attempt(self, key: str) -> bool:
        """Count an attempt as a failure before its outcome is known, so that attempts at the same time cannot
        pass together; `forgive` takes it back. False, and nothing is counted, while the key is blocked.
        """
        if self.blocked(key):
            return False
        number = self.fail(key)
        with self.workspace.catalog() as catalog:
            # Committed before they are counted, attempts at the same time see each other on every server.
            if catalog.failed_attempts.count(self.stored(key), self.since()) <= self.limit:
                return True
            catalog.failed_attempts.drop(number)
            catalog.commit()
        return False

    def forgive(self, key: str) -> None:
        """Take one attempt back."""
        with self.workspace.catalog() as catalog:
            catalog.failed_attempts.forgive(self.stored(key))
            catalog.commit()

    def fail(self, key: str) -> int:
        """Count one failure; returns its number."""
        moment = self.clock()
        with self.workspace.catalog() as catalog:
            catalog.failed_attempts.purge(moment - LONGEST_SECONDS)
            number = catalog.failed_attempts.add(self.stored(key), moment)
            catalog.commit()
        return number

    def clear(self, key: str) -> None:
        """Forget the failures of the key, after a success."""
        with self.workspace.catalog() as catalog:
            catalog.failed_attempts.clear([self.stored(key)])
            catalog.commit()

    def stored(self, key: str) -> str:
        """What the catalog stores of a key."""
        return digest(self.name, key)

    def since(self) -> float:
        """When the window begins, in epoch seconds."""
        return self.clock() - self.seconds


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
