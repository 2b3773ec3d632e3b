"""Shards on a real Ray of this machine: `make test-ray`."""

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dataengine.errors import Cancelled, ConfigRefused, Conflict, ModelRefused
from dataengine.records import Report, no_report
from pipelines.runtime.context import Context, Result
from pipelines.runtime.shards import run_sequentially
from pipelines.services import rounds
from pipelines.worker.config import RayConfig
from pipelines.worker.ray_shards import RunShards, run_on_ray
from storage.opening import create_workspace
from tests.pipelines import ray_toys, toys
from tests.pipelines.rig import alive, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

TWO = RayConfig(num_cpus=0.5, actors=2)


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """The Ray that the first test starts."""
    ray = pytest.importorskip("ray", reason="run these with `make test-ray`")
    # By default Ray's processes give way to every other one, and a busy machine never lets them start.
    os.environ.setdefault("RAY_worker_niceness", "0")
    yield
    ray.shutdown()


def spread_out(
    folder: Path, work: Any, shards: list[dict[str, Any]], report: Report = no_report
) -> list[Result]:
    context = Context(create_workspace(folder), toys.no_models("cpu"), report)
    return run_on_ray(
        context, "r", work, shards, models="tests.pipelines.ray_toys:CountedModels", settings=TWO
    )


def test_the_same_results_and_rows_as_one_after_another(tmp_path: Path) -> None:
    on_ray = partial(run_on_ray, models="tests.pipelines.toys:no_models", settings=TWO)
    here, there = drawn(tmp_path / "here", run_sequentially), drawn(tmp_path / "there", on_ray)
    assert here[:2] == there[:2]
    assert there[0] == [{"written": 5}] * 4 and len(there[1]) == 20
    assert there[2] == sorted(there[2]) and there[2][-1] == 1.0


def drawn(folder: Path, run: RunShards) -> tuple[list[Result], list[tuple[int, str]], list[float]]:
    """The toys' answers, rows and progress."""
    workspace = create_workspace(folder)
    row = rounds.start_round(workspace, {}, stages=toys.STAGES)
    seen: list[float] = []

    def report(done: float, total: int, message: str = "", **figures: float) -> None:
        seen.append(done / total)

    context = Context(workspace, toys.no_models("cpu"), report)
    answers = run(context, row.id, toys.draw_shard, toys.draw_shards(context, row.id))
    with workspace.catalog(read_only=True) as catalog:
        rows = catalog.prompts.of_round(row.id, "survey")
    return answers, [(each.index, each.text) for each in rows], seen


def test_an_actor_opens_one_model_for_all_its_shards(tmp_path: Path) -> None:
    answers = spread_out(tmp_path, ray_toys.open_model, [{"name": "a", "seconds": 0.3}] * 24)
    by_process = Counter(answer["pid"] for answer in answers)
    assert len(by_process) <= 2 and os.getpid() not in by_process
    assert max(by_process.values()) > 1 and {answer["opened"] for answer in answers} == {1}
    assert {answer["device"] for answer in answers} == {"cpu"}


def test_a_killed_actor_is_replaced_and_its_work_runs_again(tmp_path: Path) -> None:
    answers = spread_out(tmp_path, ray_toys.die_once, [{"number": number} for number in range(12)])
    assert answers == [{"number": number} for number in range(12)]
    begun = Counter(int(line[2].split()[1]) for line in toys.traces(tmp_path))
    assert begun[3] == 2 and sum(begun.values()) <= 12 + TWO.ahead, "only what was in flight there"


def test_errors_of_ours_come_back_as_themselves(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="the cursor has moved"):
        spread_out(tmp_path, ray_toys.refuse, [{}] * 3)
    with pytest.raises(ModelRefused, match="absent is not on this machine"):
        spread_out(tmp_path, ray_toys.open_model, [{"name": "absent"}] * 3)


def test_a_stop_ends_the_actors(tmp_path: Path) -> None:
    def stop(done: float, total: int, message: str = "", **figures: float) -> None:
        if done >= 2:
            raise Cancelled("cancelled on request")

    with pytest.raises(Cancelled):
        spread_out(tmp_path, ray_toys.nap, [{"number": number} for number in range(6)], stop)
    processes = {int(line[2]) for line in toys.traces(tmp_path)}
    until(lambda: not any(map(alive, processes)), 30, "the actors are gone")


def test_more_gpus_than_there_are_is_refused_at_once(tmp_path: Path) -> None:
    context = Context(create_workspace(tmp_path), toys.no_models("cpu"))
    with pytest.raises(ConfigRefused, match="no node of Ray has room"):
        run_on_ray(context, "r", ray_toys.nap, [{"number": 0}], settings=RayConfig(num_gpus=64))
