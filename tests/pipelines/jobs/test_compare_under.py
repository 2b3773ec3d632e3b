"""Cells of a LoRA against its base on a tiny FLUX: drawn once, measured, judged, and advice."""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataengine.errors import ConfigRefused
from dataengine.records import DetectorVersion, Treatment
from dataengine.treatment.config import LoraSettings, SamplingConfig, WeightsConfig
from dataengine.treatment.families.loading import load_family
from pipelines.config import ComparisonRun, ConditionsConfig
from pipelines.generators import conditions
from pipelines.generators.register import register_generator
from pipelines.jobs import compare_under as job
from pipelines.jobs.compare_under import compare_under
from pipelines.runtime import context as runtime_context
from pipelines.runtime.context import Context
from pipelines.runtime.models import Models
from pipelines.services import model_card
from storage.opening import create_workspace
from tests.dataengine.treatment import tiny
from tests.fakes import TinyDetector, with_methods


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.flux(tmp_path_factory.mktemp("under") / "flux")


@pytest.fixture(scope="module")
def lora(folder: Path) -> Path:
    family = load_family(folder)
    family.adapter.add(LoraSettings(rank=2), seed=0)
    for weight in family.adapter.parameters().values():
        weight.data = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.3
    family.adapter.save(folder.parent / "lora")
    return folder.parent / "lora"


@pytest.fixture(scope="module")
def registered(folder: Path, lora: Path) -> tuple[Context, ComparisonRun]:
    context = Context(create_workspace(folder.parent / "w"), Models("cpu"))
    base = register_generator(context.workspace, str(folder), "base")
    treated = register_generator(context.workspace, str(folder), "treated", lora=lora)
    run = ComparisonRun(
        before=base.id, after=treated.id, detector="none", sampling=SamplingConfig(steps=2, batch=4)
    )
    return context, run


@pytest.fixture
def prepared(
    registered: tuple[Context, ComparisonRun], request: pytest.FixtureRequest
) -> tuple[Context, ComparisonRun]:
    """Cells of one test are not those of another, since they name another detector."""
    return registered[0], registered[1].model_copy(update={"detector": request.node.name})


def axes(run: ComparisonRun, *names: Any) -> ComparisonRun:
    return run.model_copy(update={"conditions": ConditionsConfig(axes=names)})


PROMPTS = ["a cat", "a dog"]


@pytest.mark.treating
def test_every_condition_is_a_cell_and_what_cannot_be_drawn_is_named(
    prepared: tuple[Context, ComparisonRun], tmp_path: Path, lora: Path
) -> None:
    context, run = prepared
    # With fewer steps, a multistep solver's are Euler's.
    run = run.model_copy(update={"sampling": SamplingConfig(steps=4, batch=4)})
    drawn: list[np.ndarray] = []

    def measure(images: np.ndarray) -> Sequence[float]:
        drawn.append(images)
        return [1.0] * len(images)

    given = (context, run, PROMPTS, tmp_path / "cells", lora, measure, 0.5)
    result = compare_under(*given)
    names = [cell["name"] for cell in result["cells"]]
    assert names == [
        *("as trained", "Heun", "DPM++ 2M", "UniPC", "0.5 × steps", "2 × steps"),
        *("0.75 × size", "1.25 × size", "portrait"),
        *("bfloat16", "bfloat16, merged before", "float8", "float8, merged before"),
        *("strength 0.5", "strength 0.75", "strength 1.25", "strength 1.5", "with a second LoRA"),
    ]
    assert {one["name"] for one in result["left_out"]} == {"guidance", "8 bits"}
    # The base is drawn once for each cell that differs without the LoRA: not for strengths and merging.
    assert len(drawn) == 12 + 18
    assert {cell["ratio"] for cell in result["cells"]} == {1.0} and result["held"] == 0
    height, width = drawn[0].shape[1:3]
    assert {images.shape[1:3] for images in drawn} >= {(height, width)} and len({i.shape for i in drawn}) > 1
    for cell in result["cells"]:
        assert all((tmp_path / "cells" / name).is_file() for name in cell["examples"])
    # Each condition changes the treated images, or it would not be one.
    treated = [images for images in drawn if images.shape == drawn[0].shape]
    assert len({images.tobytes() for images in treated}) >= len(treated) - 2
    assert compare_under(*given) == result and len(drawn) == 30, "measured cells are not drawn again"


def test_bad_cells_and_the_advice_to_merge(
    prepared: tuple[Context, ComparisonRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, run = prepared
    now: list[Any] = []

    def draw(context: Any, family: Any, condition: Any, *rest: Any) -> np.ndarray:
        now.append((bool(family.adapter.parameters()), condition))
        return np.zeros((2, 8, 8, 3), np.uint8)

    def measure(images: np.ndarray) -> Sequence[float]:
        treated, condition = now[-1]
        flawed = not treated or (condition.weights == "float8" and not condition.merged)
        return [0.9 if flawed else 0.1] * len(images)

    monkeypatch.setattr(job, "draw_under", draw)
    result = compare_under(context, axes(run, "weights"), PROMPTS, tmp_path / "c", None, measure, 0.5)
    assert result["bad"] == ["float8"] and result["held"] == 4
    assert result["advice"] == [job.MERGE.format(name="float8")]
    # No artifact among two images: the score interval's end is 0.66 of 1, whatever resampling says.
    assert result["cells"][0]["interval"] == pytest.approx([0, 0.6576], abs=1e-4)
    row = next(cell for cell in result["cells"] if cell["name"] == "float8")
    assert (row["before"], row["after"], row["ratio"], row["sure"]) == (1.0, 1.0, 1.0, True)


def test_a_base_without_artifacts_says_nothing(
    prepared: tuple[Context, ComparisonRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, run = prepared
    monkeypatch.setattr(job, "draw_under", lambda *given: np.zeros((2, 8, 8, 3), np.uint8))
    result = compare_under(
        context, axes(run, "steps"), PROMPTS, tmp_path / "c", None, lambda images: [0.0] * len(images), 0.5
    )
    assert {cell["verdict"] for cell in result["cells"]} == {job.NOTHING} and not result["bad"]
    assert all(cell["ratio"] is None for cell in result["cells"])


@pytest.mark.treating
def test_a_condition_that_cannot_be_drawn_is_left_out_and_the_rest_goes_on(
    prepared: tuple[Context, ComparisonRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, run = prepared

    def opened(location: str, lora: Path | None, weights: WeightsConfig) -> Any:
        if weights.precision == "bfloat16":
            raise ConfigRefused("this machine has no bfloat16")
        return Models("cpu").open_generator(location, lora, weights)

    def draw(context: Any, family: Any, condition: Any, *rest: Any) -> np.ndarray:
        if condition.merged:
            raise RuntimeError("mat1 and mat2 must have the same dtype")
        return np.zeros((2, 8, 8, 3), np.uint8)

    monkeypatch.setattr(job, "draw_under", draw)
    context = Context(context.workspace, with_methods(context.models, open_generator=opened))
    result = compare_under(
        context, axes(run, "weights"), PROMPTS, tmp_path / "c", None, lambda images: [1.0] * len(images), 0.5
    )
    left_out = {one["name"]: one["reason"] for one in result["left_out"]}
    assert left_out["bfloat16"] == "this machine has no bfloat16"
    assert left_out["float8, merged before"] == "mat1 and mat2 must have the same dtype"
    assert [cell["name"] for cell in result["cells"]] == ["as trained", "float8"]


def test_guidance_is_varied_where_there_is_some(folder: Path) -> None:
    family = load_family(folder)
    plain, left_out = conditions.conditions_of(family, WeightsConfig(), ("guidance",), True, False)
    assert [each.name for each in plain] == ["as trained"] and left_out[0][0] == "guidance"
    family.guidance = 4.0
    guided, left_out = conditions.conditions_of(family, WeightsConfig(), ("guidance",), True, False)
    settings = [each.sampling(family, SamplingConfig()).guidance for each in guided]
    assert settings == pytest.approx([4.0, 2.8, 5.6]) and not left_out


def test_without_a_lora_there_is_no_strength(folder: Path) -> None:
    found, _ = conditions.conditions_of(
        load_family(folder), WeightsConfig(), ("strength", "second"), False, True
    )
    assert found == [conditions.USUAL]
    assert asdict(conditions.USUAL.of_base)["name"] == ""


def test_the_command_writes_the_cells_and_the_card_names_the_bad_ones(
    prepared: tuple[Context, ComparisonRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import app

    context, run = prepared
    workspace = context.workspace
    checkpoint = workspace.checkpoints.publish(TinyDetector(0.2).save(tmp_path / "first"))
    with workspace.catalog() as catalog:
        catalog.detectors.add(DetectorVersion(id="first", name="first", checkpoint=checkpoint))
        treated = replace(catalog.generators.get(run.after), id="mine", name="mine", treatment_id="t")
        catalog.generators.add(treated)
        result = {"kept": 1, "judged": {}}
        row = Treatment(
            id="t", generator_id=run.before, detector_id="first", config={}, result=result, treated_id="mine"
        )
        catalog.treatments.add(row)
        catalog.commit()
    models = with_methods(
        Models("cpu"),
        open_detector=TinyDetector.open,
        artifact_maps=lambda detector, images, batch: [np.full(one.shape[:2], 0.9) for one in images],
    )
    monkeypatch.setattr(runtime_context, "real_models", lambda device="cpu": models)
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    words = ["--workspace", workspace.path, "compare", run.before, "mine", "--under", "--detector", "first"]
    words += ["--prompts", tmp_path / "p.txt", "--out", tmp_path / "out", "--set", "sampling.steps=1"]
    words += ["--set", 'conditions.axes=["strength"]', "--json"]
    assert app.main([str(word) for word in words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bad"] == ["as trained", *(f"strength {value:g}" for value in conditions.STRENGTHS)]
    assert {each.name for each in (tmp_path / "out").glob("*.*")} >= {
        *("report.json", "cells.csv", "under.html", "model_card_section.md")
    }
    card = zipfile.ZipFile(io.BytesIO(model_card.packed(workspace, "t")[1])).read("README.md").decode()
    assert "| strength 1.5 | 1.0000 | 1.0000 | 1.000 |" in card and "0 of 5 conditions" in card
    assert (tmp_path / "out/model_card_section.md").read_text() in card
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.treatments.get("t").result["kept"] == 1
