"""The curator's filter: one page of a filtered, sorted grid through HTTP, in a catalog of 100,000 images."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from storage.accounts import create_user
from storage.opening import create_workspace
from tests.bench.annotate_server import PASSWORD, served
from tests.bench.harness import Figure, p95
from tests.bench.large_catalog import CATEGORIES, fill_catalog

SEED = 0
SORTS = ("uncertainty", "max")
CURATOR = "curator"


def filter_figures(scratch: Path, images: int, pages: int) -> list[Figure]:
    """`filter_p95_ms`: category and confidence filter, sorted, in SQLite; and the count shown next to it."""
    workspace = create_workspace(scratch / "filter")
    fill_catalog(workspace.engine, images, seed=SEED)
    with workspace.catalog() as catalog:
        create_user(catalog, CURATOR, PASSWORD, [CURATOR], "bench")
        catalog.commit()
    rng = np.random.default_rng(SEED)
    with served(workspace) as url, httpx.Client(base_url=url, timeout=60) as client:
        client.post("/api/login", json={"name": CURATOR, "password": PASSWORD}).raise_for_status()
        wanted = [question(rng) for _ in range(pages)]
        page_times = [timed(partial(fetch, client, "images", one)) for one in wanted]
        count_times = [timed(partial(fetch, client, "count", one)) for one in wanted]
    workspace.close()
    note = f"category + confidence filter, sorted page of 48, {images:,} images, SQLite, through HTTP"
    return [
        p95("filter_p95_ms", page_times, note=note),
        p95("filter_count_p95_ms", count_times, note="how many images the same filters find"),
    ]


def question(rng: np.random.Generator) -> dict[str, Any]:
    """A category, bounds of confidence from narrow to wide, an order, and mostly a place within it."""
    low = round(float(rng.uniform(0, 0.9)), 3)
    high = round(min(1.0, low + float(rng.uniform(0.05, 0.6))), 3)
    asked = {
        "category": str(rng.choice(CATEGORIES)),
        "low": low,
        "high": high,
        "sort": str(rng.choice(SORTS)),
    }
    return asked if rng.random() < 0.3 else asked | {"after": f"{rng.uniform(low, high):.4f}:8"}


def fetch(client: httpx.Client, what: str, asked: dict[str, Any]) -> None:
    """One answer, which must be a good one."""
    query = {name: value for name, value in asked.items() if name != "after" or what == "images"}
    client.get(f"/api/curate/{what}", params=query).raise_for_status()


def timed(act: Callable[[], None]) -> float:
    """Milliseconds that it took."""
    started = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - started)
