"""Connections of strangers: few enough, and none that sends nothing.

uvicorn waits without end for headers, and takes as many connections as there are file descriptors.
"""

import asyncio
import resource
from collections import OrderedDict
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

KEPT_DESCRIPTORS = 256
"""Left to files, database and workers."""
MOST_CONNECTIONS, FEWEST_CONNECTIONS = 4096, 64
HEADER_BYTES = 64 * 2**10
HEADER_SECONDS = 15.0


def most_connections() -> int:
    """How many connections the process may hold, after raising its limit of descriptors as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + KEPT_DESCRIPTORS
    if soft < wanted:
        with suppress(ValueError, OSError):
            raised = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return max(FEWEST_CONNECTIONS, min(MOST_CONNECTIONS, soft - KEPT_DESCRIPTORS))


class Connection(HttpToolsProtocol):
    """A connection that has to send its headers in time and in bounds.

    Where there are too many, the one that has been silent longest gives way to the new one; while all are
    being answered, the new one is closed.
    """

    limit = FEWEST_CONNECTIONS
    silent: "OrderedDict[Connection, None]"

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.header_bytes = 0
        self.header_task: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.limit and not self.make_room():
            transport.abort()
            self.transport = transport
            return
        super().connection_made(transport)
        self.await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.header_task is not None:
            self.header_bytes += len(data)
            if self.header_bytes > HEADER_BYTES and not self.parsed(data):
                self.transport.abort()
                return
        elif self.cycle is not None and self.cycle.response_complete:
            self.await_headers()
            self.header_bytes = len(data)
        super().data_received(data)

    def parsed(self, data: bytes) -> bool:
        """Whether these bytes may hold the end of the headers, and a body behind it."""
        return b"\r\n\r\n" in data

    def on_headers_complete(self) -> None:
        self.stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() and not self.pipeline:
            self.silent[self] = None

    def await_headers(self) -> None:
        self.header_bytes = 0
        self.silent[self] = None
        self.header_task = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def stop_waiting(self) -> None:
        self.silent.pop(self, None)
        if self.header_task is not None:
            self.header_task.cancel()
            self.header_task = None

    def make_room(self) -> bool:
        """Close the connection that has been silent longest; False if all are being answered."""
        if not self.silent:
            return False
        oldest, _ = self.silent.popitem(last=False)
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True


def bounded_connections(limit: int | None = None) -> type[Connection]:
    """The protocol of one server, with its own count; by default as many as the descriptors allow."""
    return type(
        "BoundedConnection",
        (Connection,),
        {"limit": limit or most_connections(), "silent": OrderedDict()},
    )
