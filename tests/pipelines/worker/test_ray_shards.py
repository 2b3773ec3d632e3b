"""Where shards run."""

import builtins
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dataengine.errors import ConfigRefused, Conflict, JobFailed, ModelRefused, WorkspaceUnusable
from pipelines.runtime.context import Context
from pipelines.runtime.prefetch import prefetch
from pipelines.services import rounds
from pipelines.worker import ray_shards
from pipelines.worker.config import RayConfig
from pipelines.worker.ray_shards import (
    ENGINES,
    ShardActor,
    actors_that_fit,
    as_json,
    event_of,
    run_on_ray,
)
from storage.opening import create_workspace
from tests.pipelines import toys


def test_local_runs_shards_in_order_as_one_progress(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path)
    row = rounds.start_round(workspace, {}, stages=toys.STAGES)
    seen: list[float] = []
    context = Context(
        workspace, toys.no_models("cpu"), lambda done, total, message="", **figures: seen.append(done / total)
    )
    answers = ENGINES["local"](RayConfig())(
        context, row.id, toys.draw_shard, toys.draw_shards(context, row.id)
    )
    assert answers == [{"written": 5}] * 4 and seen == [0.125, 0.375, 0.625, 0.875]


def test_prefetching_keeps_the_order_and_works_ahead() -> None:
    loaded: list[int] = []
    lock = threading.Lock()

    def load(number: int) -> int:
        time.sleep(0.01 * (3 - number % 3))
        with lock:
            loaded.append(number)
        return number * number

    items = prefetch(range(12), load, ahead=3)
    assert next(items) == 0
    time.sleep(0.2)
    assert len(loaded) >= 4, "the next ones load while the first is worked on"
    assert list(items) == [number * number for number in range(1, 12)]


def test_a_failed_load_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        list(prefetch([1, 0], lambda number: 1 / number))


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_ray(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "ray":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    context = Context(create_workspace(tmp_path), toys.no_models("cpu"))
    with pytest.raises(ConfigRefused, match=r"artifact-clinic\[ray\]"):
        run_on_ray(context, "round", toys.draw_shard, [])


def test_as_many_actors_as_the_nodes_have_room_for() -> None:
    def count(*nodes: dict[str, float], **settings: float) -> int:
        return actors_that_fit(nodes, RayConfig.model_validate(settings))

    one, two = {"CPU": 3.0}, {"CPU": 16.0, "GPU": 2.0, "memory": 1e9}
    assert count(one, two) == 19
    assert count(one, one, num_cpus=2) == 2, "an actor does not span nodes"
    assert count(one, two, num_gpus=0.5) == 4
    assert count(one, two, num_cpus=0.1, num_gpus=0) == 190
    assert count(one, two, num_cpus=0) == 2
    with pytest.raises(ConfigRefused, match=r"no node of Ray has room .* the largest have 3 CPUs and 0"):
        count(one, num_gpus=1)


def test_fractions_of_a_gpu_only_below_one() -> None:
    assert RayConfig(num_gpus=0.25).num_gpus == 0.25 and RayConfig(num_gpus=2).num_gpus == 2
    with pytest.raises(ValidationError, match="whole GPUs"):
        RayConfig(num_gpus=1.5)


@pytest.mark.parametrize("value", [Path("x"), (1, 2), float("nan"), {1: 2}])
def test_nothing_but_json_is_sent(value: Any) -> None:
    assert as_json({"shard": {"ids": ["a"], "start": 0}}) == {"shard": {"ids": ["a"], "start": 0}}
    with pytest.raises((TypeError, ValueError)):
        as_json({"shard": value})


def test_an_actor_opens_a_model_once_for_all_its_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor, opened = an_actor(tmp_path, monkeypatch)
    assert opened["result"] == {}
    answers = [actor.run(request("open_model", name="a"))["result"] for _ in range(3)]
    assert [answer["opened"] for answer in answers] == [1, 1, 1]
    assert actor.run(request("open_model", name="b"))["result"]["opened"] == 2
    assert answers[0]["device"] == "cpu"


def test_an_actor_answers_with_the_error_and_whether_it_lacks_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor, _ = an_actor(tmp_path, monkeypatch)
    absent = event_of(0, 1, actor.run(request("open_model", name="absent")))
    assert absent.unfit and isinstance(absent.error, ModelRefused) and "absent" in str(absent.error)
    assert absent.answer is None
    handled = event_of(0, 1, actor.run(request("open_or_not", name="absent")))
    assert handled.unfit and handled.answer == {"failed": True}
    refused = event_of(0, 1, actor.run(request("refuse")))
    assert not refused.unfit and isinstance(refused.error, Conflict)
    broken = event_of(0, 1, actor.run(request("divide")))
    assert not broken.unfit and isinstance(broken.error, JobFailed)
    assert "ZeroDivisionError" in str(broken.error)
    fine = event_of(0, 1, actor.run(request("open_model", name="a")))
    assert fine.error is None and fine.message == "opened" and fine.figures == {"loss": 0.5}


def test_an_actor_without_the_workspace_is_unfit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_shards, "own_device", lambda: "cpu")
    place = {"path": str(tmp_path / "nowhere"), "database_url": None, "blob_url": None}
    event = event_of(0, None, ShardActor().open({"place": place, "models": MODELS}))
    assert event.unfit and isinstance(event.error, WorkspaceUnusable)


MODELS = "tests.pipelines.ray_toys:CountedModels"


def an_actor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ShardActor, dict[str, Any]]:
    """An opened actor in this process."""
    monkeypatch.setattr(ray_shards, "own_device", lambda: "cpu")
    workspace = create_workspace(folder)
    place = {
        "path": str(workspace.path),
        "database_url": workspace.database_url,
        "blob_url": workspace.blob_url,
    }
    actor = ShardActor()
    return actor, actor.open({"place": place, "models": MODELS})


def request(work: str, **shard: Any) -> dict[str, Any]:
    return {"work": f"tests.pipelines.ray_toys:{work}", "round": "r", "shard": shard}
