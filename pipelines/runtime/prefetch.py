"""Load the next items in threads while the current one is processed."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def prefetch(items: Iterable[T], load: Callable[[T], R], ahead: int = 2) -> Iterator[R]:
    """`load(item)` for each item in order; the next `ahead` items load in threads meanwhile.

    Also works for output: with a generator as `items`, `load` can store one item while the next is computed.
    """
    with ThreadPoolExecutor(max_workers=max(1, ahead), thread_name_prefix="prefetch") as pool:
        waiting: list[Future[R]] = []
        try:
            for item in items:
                waiting.append(pool.submit(copy_context().run, load, item))
                if len(waiting) > ahead:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
