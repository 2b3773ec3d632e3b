"""The benchmark builder: sample by strata, collect labels, resolve disagreements, freeze."""

from typing import Any

from fastapi import APIRouter

from pipelines.services.benchmarks import (
    NewBenchmark,
    Settle,
    SettleAgreed,
    describe_benchmark,
    discard_benchmark,
    draft_benchmark,
    freeze_benchmark,
    items_of,
    settle_image,
    settle_where_agreed,
)
from storage.workspace import Workspace
from ui.curate.reviews import Judge
from ui.web.sessions import SignedIn


def benchmark_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/curate/benchmarks."""
    routes = APIRouter(prefix="/benchmarks")

    @routes.get("")
    def listed() -> dict[str, Any]:
        with workspace.catalog(read_only=True) as catalog:
            found = list(reversed(catalog.benchmarks.list()))
            return {"benchmarks": [describe_benchmark(catalog, one) for one in found]}

    @routes.post("")
    def draft(body: NewBenchmark, person: SignedIn) -> dict[str, Any]:
        made = draft_benchmark(workspace, body, person.name)
        with workspace.catalog(read_only=True) as catalog:
            return describe_benchmark(catalog, made)

    @routes.get("/{benchmark_id}")
    def one(benchmark_id: str) -> dict[str, Any]:
        return items_of(workspace, benchmark_id)

    @routes.post("/{benchmark_id}/settle")
    def settle(benchmark_id: str, body: Settle, person: Judge) -> dict[str, bool]:
        settle_image(workspace, benchmark_id, body, person.name)
        return {"settled": True}

    @routes.post("/{benchmark_id}/settle-agreed")
    def settle_agreed(benchmark_id: str, body: SettleAgreed, person: Judge) -> dict[str, int]:
        return {"settled": settle_where_agreed(workspace, benchmark_id, body.disagreement, person.name)}

    @routes.post("/{benchmark_id}/freeze")
    def freeze(benchmark_id: str, person: SignedIn) -> dict[str, Any]:
        frozen = freeze_benchmark(workspace, benchmark_id, person.name)
        with workspace.catalog(read_only=True) as catalog:
            return describe_benchmark(catalog, frozen)

    @routes.post("/{benchmark_id}/discard")
    def discard(benchmark_id: str, person: SignedIn) -> dict[str, bool]:
        discard_benchmark(workspace, benchmark_id, person.name)
        return {"discarded": True}

    return routes
