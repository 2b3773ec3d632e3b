"""What stages share: parts that cover everything, seeds of their own, progress that only rises."""

from typing import Any

import pytest

from dataengine.errors import ConfigRefused
from pipelines.runtime.context import Context
from pipelines.runtime.open_detector import champion_version
from pipelines.runtime.round_data import fresh_seed
from pipelines.runtime.shards import run_sequentially, shard_bounds
from pipelines.services.rounds import start_round
from storage.opening import create_workspace
from tests.fakes import fake_models


@pytest.mark.parametrize(("count", "size", "parts"), [(0, 4, 0), (1, 4, 1), (8, 4, 2), (9, 4, 3)])
def test_slices_cover_everything_once(count: int, size: int, parts: int) -> None:
    found = list(shard_bounds(count, size))
    assert len(found) == parts
    assert [i for start, stop in found for i in range(start, stop)] == list(range(count))


def test_every_use_and_every_round_has_a_seed_of_its_own(fresh: tuple[Context, str]) -> None:
    context, first = fresh
    with context.workspace.catalog(read_only=True) as catalog:
        recipe = catalog.rounds.get(first).recipe
    second = start_round(context.workspace, recipe, "test").id
    seeds = {
        fresh_seed(context, round_id, seed, *use)
        for round_id in (first, second)
        for seed in (0, 1)
        for use in (("images", "survey"), ("images", "hard"))
    }
    assert len(seeds) == 8 and all(0 <= seed < 2**30 for seed in seeds)
    assert fresh_seed(context, first, 0, "images") == fresh_seed(context, first, 0, "images")


def test_shards_report_as_one_rising_progress() -> None:
    told: list[float] = []

    def report(done: float, total: int, message: str = "", **figures: float) -> None:
        told.append(done / total)

    def shard(context: Context, round_id: str, part: dict[str, Any]) -> dict[str, Any]:
        for done in range(3):
            context.report(done, 2)
        return part

    context = Context(None, fake_models(), report)  # type: ignore[arg-type]
    assert run_sequentially(context, "round", shard, [{"n": 0}, {"n": 1}]) == [{"n": 0}, {"n": 1}]
    assert told == sorted(told) and told[0] == 0 and told[-1] == 1


def test_without_a_champion_a_round_says_what_to_do(tmp_path: Any) -> None:
    with pytest.raises(ConfigRefused, match="no champion detector"):
        champion_version(Context(create_workspace(tmp_path), fake_models()))
