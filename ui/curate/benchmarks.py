"""The benchmark builder: draw by strata, collect opinions, settle what people disagree on, freeze."""

from typing import Any

from fastapi import APIRouter

from pipelines.services.benchmarks import (
    NewBenchmark,
    Settle,
    SettleAgreed,
    described,
    drafted,
    items_of,
    round_of,
    settle_where_agreed,
    truth,
)
from storage.workspace import Workspace
from ui.web.sessions import SignedIn


def benchmark_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/curate/benchmarks."""
    routes = APIRouter(prefix="/benchmarks")

    @routes.get("")
    def listed() -> dict[str, Any]:
        with workspace.catalog(read_only=True) as catalog:
            found = list(reversed(catalog.benchmarks.list()))
            return {"benchmarks": [described(catalog, one) for one in found]}

    @routes.post("")
    def draft(body: NewBenchmark, person: SignedIn) -> dict[str, Any]:
        with workspace.catalog() as catalog:
            made = drafted(catalog, body, person.name)
            catalog.commit()
            return described(catalog, made)

    @routes.get("/{benchmark_id}")
    def one(benchmark_id: str) -> dict[str, Any]:
        return items_of(workspace, benchmark_id)

    @routes.post("/{benchmark_id}/settle")
    def settle(benchmark_id: str, body: Settle, person: SignedIn) -> dict[str, bool]:
        target, how = truth(workspace, body)
        with workspace.catalog() as catalog:
            catalog.benchmarks.settle(benchmark_id, body.image, target, person.name, how)
            catalog.commit()
        return {"settled": True}

    @routes.post("/{benchmark_id}/settle-agreed")
    def settle_agreed(benchmark_id: str, body: SettleAgreed, person: SignedIn) -> dict[str, int]:
        return {"settled": settle_where_agreed(workspace, benchmark_id, body.disagreement, person.name)}

    @routes.post("/{benchmark_id}/freeze")
    def freeze(benchmark_id: str, person: SignedIn) -> dict[str, Any]:
        with workspace.catalog() as catalog:
            frozen = catalog.benchmarks.freeze(benchmark_id, person.name)
            catalog.commit()
            return described(catalog, frozen)

    @routes.post("/{benchmark_id}/discard")
    def discard(benchmark_id: str, person: SignedIn) -> dict[str, bool]:
        with workspace.catalog() as catalog:
            round_id = round_of(catalog.benchmarks.get(benchmark_id))
            for item in catalog.benchmarks.items(benchmark_id):
                catalog.queue.withdraw(item.image_id, round_id)
            catalog.benchmarks.discard(benchmark_id, person.name)
            catalog.commit()
        return {"discarded": True}

    return routes
