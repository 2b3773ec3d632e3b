"""The job that learns an instance (DreamBooth), with a fake learner and a fake encoder: what it reads, makes,
keeps for its treatment, and measures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dataengine.errors import InputRefused, NotFound, Paused
from dataengine.images import encode_png
from dataengine.quality import likeness
from dataengine.records import PAUSABLE
from dataengine.treatment.tuning import dreambooth
from pipelines.jobs import learn_instance
from pipelines.jobs.learn_instance import known_instance, learn_job
from pipelines.jobs.likeness import NO_PAIR, NOT_MEASURED, measure_likeness
from pipelines.runtime.context import Context
from pipelines.runtime.models import Models
from pipelines.selections.config import InstanceRun
from pipelines.services.standalone.dreambooth import run_id
from pipelines.worker.handlers import JOBS
from storage.opening import create_workspace
from tests.fake_workspace import prepare

WORDS = {"generator": "squares", "instance_prompt": "a sks hand", "class_prompt": "a hand"}


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    workspace = create_workspace(tmp_path / "w")
    prepare(workspace, real=6)
    monkeypatch.setattr(learn_instance, "open_generator", lambda context, base: f"opened {base.id}")
    yield Context(workspace, Models())
    workspace.close()


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[np.ndarray]]:
    """The images of each call of a learner that pauses if it is asked to."""
    seen: list[Sequence[np.ndarray]] = []

    def learn(
        config: Any,
        family: str,
        images: Sequence[np.ndarray],
        instance: str,
        kind: str,
        work: Path,
        count: int,
        report: Callable[..., None],
        pausing: Callable[[], bool],
    ) -> Any:
        assert (family, instance, kind, count) == ("opened squares", "a sks hand", "a hand", 200)
        seen.append(images)
        if pausing():
            raise Paused("paused")
        (work / "lora").mkdir(parents=True)
        (work / "lora" / "weights").write_bytes(b"lora")
        report(1, 2, "treating", loss=0.5)
        return SimpleNamespace(lora_folder=work / "lora", updates=2, history=[{"loss": 0.5}])

    monkeypatch.setattr(dreambooth, "learn_instance", learn)
    return seen


def ids_of(context: Context) -> list[str]:
    with context.workspace.catalog(read_only=True) as catalog:
        return [one.id for one in catalog.images.find(source="real")[:3]]


def args(run: str, **values: Any) -> dict[str, Any]:
    return {"run": run, "settings": InstanceRun(**{**WORDS, **values}).model_dump(mode="json")}


def test_a_worker_s_job_registers_the_learned_generator(
    context: Context, learner: list[Sequence[np.ndarray]]
) -> None:
    ids, reported = ids_of(context), []
    watched = replace(context, report=lambda *values, **figures: reported.append(figures))
    result = JOBS["dreambooth"](watched, args("run-1", ids=ids))
    assert result["images"] == 3 and result["updates"] == 2 and {"loss": 0.5} in reported
    with context.workspace.catalog(read_only=True) as catalog:
        made = catalog.generators.get(result["learned"])
    assert (made.parent, made.name) == ("squares", "squares, a sks hand")
    assert (context.workspace.checkpoints.fetch(made.lora or "") / "weights").read_bytes() == b"lora"
    plan, learned = known_instance(context.workspace, "run-1")
    assert learned == made.id and list(plan.ids) == ids
    assert JOBS["dreambooth"](context, args("run-1", ids=ids))["learned"] == made.id and len(learner) == 1


def test_a_paused_run_registers_nothing_and_resumes(
    context: Context, learner: list[Sequence[np.ndarray]]
) -> None:
    asked = args("run-2", ids=ids_of(context))
    with pytest.raises(Paused):
        learn_job(replace(context, pausing=lambda: True), asked)
    with context.workspace.catalog(read_only=True) as catalog:
        assert [one.id for one in catalog.generators.list()] == ["squares"]
    assert learn_job(context, asked)["images"] == 3 and "dreambooth" in PAUSABLE
    assert all(np.array_equal(*pair) for pair in zip(*learner, strict=True))


def test_what_is_gone_or_broken_is_left_out_by_name(
    context: Context, learner: list[Sequence[np.ndarray]], tmp_path: Path
) -> None:
    ids = ids_of(context)
    with context.workspace.catalog(read_only=True) as catalog:
        lost = catalog.images.get(ids[0])
    context.workspace.blobs.delete(lost.sha256)
    result = learn_job(context, args("run-3", ids=[*ids, "erased"]))
    assert result["images"] == 2 and len(result["refused"]) == 2
    assert "erased" in result["refused"][0] and lost.id in result["refused"][1]
    with pytest.raises(InputRefused, match="none of the 1 images of the instance can be read"):
        learn_job(context, args("run-4", ids=["erased"]))
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputRefused, match="holds no image that can be read"):
        learn_job(context, args("run-5", images=str(tmp_path / "pictures")))


def test_an_instance_has_one_source() -> None:
    for values in ({}, {"images": "folder", "ids": ["a"]}):
        with pytest.raises(ValueError, match="name either a folder"):
            InstanceRun(**WORDS, **values)
    one, other = (InstanceRun(**WORDS, images="folder", encoder=name) for name in ("", "dino"))
    assert run_id(one) == run_id(other), "an encoder measures what was learned, and changes nothing"


class Brightness:
    """A likeness that an image's mean decides."""

    def __init__(self, location: str, references: Sequence[np.ndarray], device: Any) -> None:
        assert location == "dino" and len(references) == 3

    def score(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        return images.reshape(len(images), -1).mean(1) / 255


def test_the_likeness_is_measured_on_pairs_that_name_the_instance(
    context: Context, learner: list[Sequence[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likeness, "Likeness", Brightness)
    rows = []
    with context.workspace.catalog(read_only=True) as catalog:
        example = catalog.images.get(ids_of(context)[0])
    for number, (prompt, levels) in enumerate(
        (("a sks hand at night", (200, 100)), ("a sks hand on grass", (100, 50)), ("a hand", (9, 250)))
    ):
        row = {"prompt": prompt}
        for at, level in zip(("before", "after"), levels, strict=True):
            sha256 = context.workspace.blobs.put(encode_png(np.full((32, 32, 3), level, np.uint8)))
            row[at] = f"{at}-{number}"
            with context.workspace.catalog() as catalog:
                catalog.images.add_many(
                    [replace(example, id=row[at], sha256=sha256, height=32, width=32, seed=number)]
                )
                catalog.commit()
        rows.append(row)
    learn_job(context, args("run-6", ids=ids_of(context), encoder="dino"))
    found = measure_likeness(context, "run-6", rows)
    assert (found["pairs"], found["instance"], found["encoder"]) == (2, "run-6", "dino")
    assert found["before"] == pytest.approx(150 / 255) and found["after"] == pytest.approx(75 / 255)
    assert found["ratio"] == pytest.approx(0.5) and found["interval"] == pytest.approx([0.5, 0.5])
    assert measure_likeness(context, "run-6", rows[2:])["note"] == NO_PAIR
    learn_job(context, args("run-7", ids=ids_of(context)))
    assert measure_likeness(context, "run-7", rows)["note"] == NOT_MEASURED
    with pytest.raises(NotFound, match="no run 'nobody' has learned an instance"):
        measure_likeness(context, "nobody", rows)
