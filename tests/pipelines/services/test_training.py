"""A training in this process: an interrupted one is resumed, a finished one is followed by another."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dataengine.errors import Cancelled
from dataengine.records import digest
from pipelines.config import TrainingRun
from pipelines.runtime import context as runtime_context
from pipelines.services.training.here import plan_training, train_detector
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.fakes import fake_models
from tests.pipelines.conftest import real_picture


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """Real pictures, no detector, and fake models."""
    monkeypatch.setattr(runtime_context, "real_models", fake_models)
    workspace = create_workspace(tmp_path / "w")
    with workspace.catalog() as catalog:
        catalog.images.add_many(
            replace(real_picture(workspace, "a hand", seed), split="train") for seed in range(6)
        )
        catalog.commit()
    yield workspace
    workspace.close()


def test_an_interrupted_training_goes_on_with_its_training_set(workspace: Workspace) -> None:
    plan = TrainingRun.model_validate({"start": "random", "training": {"steps": 4}})
    seen: list[int] = []

    def stop(done: float, total: int, message: str = "", **figures: float) -> None:
        if "loss" in figures:
            seen.append(done)
            if seen == [1, 2]:
                raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        train_detector(workspace, plan, report=stop)
    with workspace.catalog() as catalog:
        (before,) = catalog.snapshots.list()
        catalog.images.add_many([replace(real_picture(workspace, "a hand", 99), split="train")])
        catalog.commit()
    result = train_detector(workspace, plan, report=stop)
    assert result["snapshot"] == before.id and result["samples"] == {"real": 6}
    assert seen[2] > 1, "it does not begin anew"
    following = train_detector(workspace, plan)
    assert following["samples"] == {"real": 7} and following["detector"] != result["detector"]
    run = f"train-{digest(plan.model_dump_json())[:12]}"
    assert [result["detector"], following["detector"]] == [
        digest("detector", f"{run}-{number}", "retrain") for number in (1, 2)
    ]


def test_without_a_recipe_the_one_that_needs_no_detector_is_taken(workspace: Workspace) -> None:
    plan = plan_training(workspace, seed=7)
    assert plan.start == "imagenet" and plan.training.name == "photo" and plan.training.seed == 7
    assert plan.evaluate.operating_point.rule == "recall_at"
    assert plan_training(workspace, recipe="demo", seed=3).training.seed == 3
    assert plan_training(workspace, recipe="photo", start="random").start == "random"
