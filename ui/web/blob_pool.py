"""Threads of their own for routes that read blobs, so that a silent blob store leaves the others free."""

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

THREADS = 16

P = ParamSpec("P")
T = TypeVar("T")

_limiter = CapacityLimiter(THREADS)


def reads_blobs(route: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """Run a route in these threads; the others share those of the framework."""

    @wraps(route)
    async def in_own_threads(*args: P.args, **named: P.kwargs) -> T:
        return await run_sync(partial(route, *args, **named), limiter=_limiter)

    return in_own_threads
