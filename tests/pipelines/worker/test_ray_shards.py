"""Where shards run."""

import builtins
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dataengine.errors import ConfigRefused
from pipelines.runtime.context import Context
from pipelines.runtime.prefetch import prefetch
from pipelines.services import rounds
from pipelines.worker.ray_shards import ENGINES, run_on_ray
from storage.opening import create_workspace
from tests.pipelines import toys


def test_local_runs_shards_in_order_as_one_progress(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path)
    row = rounds.start_round(workspace, {}, stages=toys.STAGES)
    seen: list[float] = []
    context = Context(
        workspace, toys.no_models("cpu"), lambda done, total, message="", **figures: seen.append(done / total)
    )
    answers = ENGINES["local"](context, row.id, toys.draw_shard, toys.draw_shards(context, row.id))
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


def test_ray_gives_the_same_answers(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    workspace = create_workspace(tmp_path)
    row = rounds.start_round(workspace, {}, stages=toys.STAGES)
    context = Context(workspace, toys.no_models("cpu"))
    try:
        answers = run_on_ray(
            context,
            row.id,
            toys.draw_shard,
            toys.draw_shards(context, row.id),
            models="tests.pipelines.toys:no_models",
        )
    finally:
        ray.shutdown()
    assert answers == [{"written": 5}] * 4
    with workspace.catalog(read_only=True) as catalog:
        assert len(catalog.prompts.of_round(row.id, "survey")) == 20
