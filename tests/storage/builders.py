"""Small records, and transactions that start together."""

import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine

from dataengine.records import DetectorVersion, Image
from storage.catalog import Catalog


def image(id: str, **values: Any) -> Image:
    return Image(id=id, sha256=f"sha-{id}", height=4, width=6, **values)


def detector(id: str, **values: Any) -> DetectorVersion:
    return DetectorVersion(id=id, name=f"detector {id}", checkpoint=f"sum-{id}", **values)


def at_once(engine: Engine, act: Callable[[Catalog, int], Any], workers: int = 6) -> list[Any]:
    """What `act` gives in several transactions that start together; exceptions among them."""
    results: list[Any] = [None] * workers
    start = threading.Barrier(workers)

    def run(number: int) -> None:
        start.wait()
        try:
            with Catalog(engine) as catalog:
                results[number] = act(catalog, number)
                catalog.commit()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
