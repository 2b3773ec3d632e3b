"""A generator treated outside a round, with fakes: prompts held apart, figures before against after."""

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.errors import Cancelled, ConfigRefused, OutOfMemory
from dataengine.images import encode_png
from dataengine.records.images import JUDGE
from dataengine.treatment.config import SamplingConfig, TreatmentConfig, WeightsConfig
from pipelines.config import PromptChoice, TreatmentRun
from pipelines.generators.files import weights_of
from pipelines.generators.register import register_weights
from pipelines.jobs.compare_generators import compare_job
from pipelines.jobs.treat_generator import (
    LOOKS,
    STRIP_LOOKS,
    TreatmentReporter,
    generate_held_out,
    spread_over_prompts,
    treat_job,
    write_chosen_prompts,
)
from pipelines.runtime.context import Context
from pipelines.runtime.images import read_pixels
from pipelines.services import runs
from tests.fake_workspace import real_picture
from tests.fakes import Liking, paint, with_methods
from tests.pipelines.conftest import fresh_context


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return fresh_context(tmp_path_factory.mktemp("treating") / "workspace")[0]


def plan(run: str, **changes: Any) -> dict[str, Any]:
    choice = PromptChoice(source="category", categories=("hand", "face"), per_category=4)
    settings = TreatmentRun(
        generator="squares",
        name="steadier",
        prompts=choice,
        judge=choice.model_copy(update={"seed": 1, "per_category": 2}),
        tuning=TreatmentConfig(updates=3, sampling=SamplingConfig(steps=5, batch=4)),
        **changes,
    )
    return {"run": run, "settings": settings.model_dump(mode="json")}


def test_a_treated_generator_is_judged_on_prompts_that_it_was_not_treated_on(context: Context) -> None:
    told: list[str] = []

    def recorded(config: Any, family: Any, detector: Any, prompts: Any, *rest: Any, **more: Any) -> Any:
        told.extend(prompts)
        return context.models.treat(config, family, detector, prompts, *rest, **more)

    models = with_methods(context.models, treat=recorded)
    answer = treat_job(replace(context, models=models), plan("treat-1"))
    with context.workspace.catalog(read_only=True) as catalog:
        found = catalog.treatments.get(answer["treatment"])
        treated = catalog.generators.get(answer["treated"])
        images = catalog.images.find(generator_id=treated.id)
    assert {image.category for image in images} == {"hand", "face"}, "desks 3.13: judged images had none"
    assert treated.name == "steadier" and treated.parent == "squares" and found.round_id is None
    assert len(told) == 8 and {image.prompt for image in images}.isdisjoint(told)
    figures = found.result["judged"]
    assert figures["pairs"] == len(images) == 8 and figures["prompts"] == 4
    # The fake treated generator paints fewer red squares, which is what the fake detector looks for.
    assert figures["mean_confidence"]["after"] < figures["mean_confidence"]["before"]
    assert treat_job(context, plan("treat-1")) == answer
    shown = runs.kept_json(context.workspace, "treat-1", "samples.json")
    first = shown["samples"][0]
    assert shown["step"] == 3 and {"prompt", "before", "after", "map_before", "map_after"} == first.keys()
    assert context.workspace.blobs.has(first["after"])


def test_a_base_in_other_weights_is_judged_as_it_was_treated(context: Context) -> None:
    opened: list[WeightsConfig] = []

    def remembering(location: str, lora: Path | None, weights: WeightsConfig) -> Any:
        opened.append(weights)
        return context.models.open_generator(location, lora, weights)

    halved = WeightsConfig(precision="bfloat16")
    models = with_methods(context.models, open_generator=remembering)
    answer = treat_job(replace(context, models=models), plan("treat-4", weights=halved))
    with context.workspace.catalog(read_only=True) as catalog:
        treated = catalog.generators.get(answer["treated"])
        base = catalog.generators.get(answer["generator"])
    assert set(map(str, opened)) == {str(halved)} and treated.parent == base.id != "squares"
    assert base.name == "squares, in bfloat16" and weights_of(treated) == weights_of(base) == halved
    assert treat_job(context, plan("treat-4", weights=halved)) == answer
    assert register_weights(context.workspace, "squares", WeightsConfig()).id == "squares"
    assert register_weights(context.workspace, "squares", halved) == base


def test_no_two_pipelines_are_held_at_any_moment(context: Context) -> None:
    opened: list[weakref.ref[Any]] = []
    held: list[int] = []

    def counting(location: str, lora: Path | None, weights: WeightsConfig) -> Any:
        gc.collect()
        held.append(sum(each() is not None for each in opened))
        family = context.models.open_generator(location, lora, weights)
        opened.append(weakref.ref(family))
        return family

    models = with_methods(context.models, open_generator=counting)
    assert treat_job(replace(context, models=models), plan("treat-11", judge_seeds=3))["treated"]
    # Tuned, verified in a fresh pipeline, judged before and after.
    assert held == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        (0, "verifying the treated generator ran out of memory; images of fewer pixels"),
        (2, "judging the treated generator ran out of memory; images of fewer pixels"),
    ],
)
def test_out_of_memory_after_the_updates_is_one_sentence(context: Context, drawn: int, said: str) -> None:
    left = [drawn]

    def full(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise MemoryError
        return context.models.generate(*arguments, **named)

    models = with_methods(context.models, generate=full)
    args = plan(f"treat-12-{drawn}", judge_seeds=4)
    with pytest.raises(OutOfMemory, match=said):
        treat_job(replace(context, models=models), args)
    assert treat_job(context, args)["treated"], "resumed where there is room"


def test_a_cancelled_run_goes_on_with_the_prompts_it_had(context: Context) -> None:
    def stop(done: float, total: int, message: str = "", **figures: float) -> None:
        if message == "treating":
            raise Cancelled("stopped as asked")

    with pytest.raises(Cancelled):
        treat_job(replace(context, report=stop), plan("treat-2"))
    kept = runs.kept_json(context.workspace, "treat-2", "prompts.json")

    def another(*arguments: Any) -> list[str]:
        raise AssertionError("the prompts were written already")

    models = with_methods(context.models, write_prompts=another)
    answer = treat_job(replace(context, models=models), plan("treat-2"))
    assert answer["treated"] and runs.kept_json(context.workspace, "treat-2", "prompts.json") == kept


def test_prompts_that_are_missing_are_named(context: Context) -> None:
    with pytest.raises(ConfigRefused, match="no round has found hard categories yet"):
        write_chosen_prompts(context, PromptChoice(), "", ())
    with pytest.raises(ConfigRefused, match="name at least one category"):
        write_chosen_prompts(context, PromptChoice(source="category"), "", ())
    given = PromptChoice(source="given", texts=(" a hand ", "a hand", ""))
    assert write_chosen_prompts(context, given, "", ()) == {"a hand": ""}
    args = plan("treat-3")
    args["settings"]["prompts"] = args["settings"]["judge"] = given.model_dump(mode="json")
    with pytest.raises(ConfigRefused, match="all prompts to treat on are also among the other prompts"):
        treat_job(context, args)


def test_any_prompt_is_drawn_with_and_without_the_treatment(context: Context) -> None:
    made = treat_job(context, plan("treat-9"))
    asked = {"treatment": made["treatment"], "prompts": ["a dog", "a cat"], "seeds": 2}
    assert compare_job(context, asked) == {"pairs": 4} == compare_job(context, asked)
    with context.workspace.catalog(read_only=True) as catalog:
        for generator in (made["generator"], made["treated"]):
            drawn = catalog.images.find(generator_id=generator)
            mine = [one for one in drawn if one.prompt in ("a dog", "a cat")]
            assert len(mine) == 4
            assert len(catalog.predictions.of(made["detector"], [one.id for one in mine])) == 4


def test_compared_images_are_used_again_when_the_same_prompts_are_judged(context: Context) -> None:
    made = treat_job(context, plan("treat-10"))
    prompts = ["a dog", "a cat"]
    compare_job(context, {"treatment": made["treatment"], "prompts": prompts, "seeds": 2})
    sampling = TreatmentRun(generator=made["generator"]).tuning.sampling
    with context.workspace.catalog(read_only=True) as catalog:
        versions = [catalog.generators.get(made[name]) for name in ("generator", "treated")]
        before = catalog.images.count()
    for version in versions:
        judged = generate_held_out(context, version, prompts, 2, sampling)
        assert len(judged) == 4
    with context.workspace.catalog(read_only=True) as catalog:
        assert catalog.images.count() == before
        mine = [one for one in catalog.images.find(purpose=JUDGE) if one.prompt in prompts]
    assert len(mine) == 8  # a study of judged images finds all of them


def test_the_guard_asks_scorers_and_pictures_may_have_any_size(tmp_path: Any) -> None:
    context, _ = fresh_context(tmp_path / "workspace")
    other = replace(real_picture(context.workspace, "a photo of a hand", 77), split="train")
    pixels = paint("a photo of a hand", 77, flawless=True)[:24]
    other = replace(other, sha256=context.workspace.blobs.put(encode_png(pixels)), height=24)
    with context.workspace.catalog() as catalog:
        catalog.images.add_many([other])
        catalog.commit()
    seen: dict[str, Any] = {}

    def looking(*given: Any, **more: Any) -> Any:
        clean, captions, guard = given[4:7]
        seen.update(scorers=[one.name for one in guard._scorers], sizes={each.shape for each in clean})
        seen.update(images=len(clean), captions=len(captions))
        raise Cancelled("enough")

    models = with_methods(context.models, treat=looking)
    with pytest.raises(Cancelled):
        treat_job(replace(context, models=models), plan("treat-any", scorers=("pickscore:here",)))
    assert seen["scorers"] == ["pickscore:here"]
    assert len(seen["sizes"]) == 2 and seen["images"] == seen["captions"] > 2


def test_real_images_are_chosen_by_a_scorer(context: Context) -> None:
    """The fake scorer likes bright images; scores are stored, so that a resumed run asks for none."""
    seen: list[list[str]] = []
    asked: list[int] = []

    class Bright(Liking):
        def score(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
            asked.append(len(images))
            return super().score(images, prompts)

    def looking(*given: Any, **more: Any) -> Any:
        seen.append([round(float(image.mean())) for image in given[4]])
        raise Cancelled("enough")

    models = with_methods(context.models, treat=looking, open_scorer=Bright)
    with context.workspace.catalog(read_only=True) as catalog:
        known = catalog.images.find(source="real", split="train", status="active", has_prompt=True)
    brightness = [float(read_pixels(context.workspace, image).mean()) for image in known]
    least = float(np.median(brightness))
    args = plan("treat-real", real_scorer="clip:bright", real_least=least)
    for _ in range(2):
        with pytest.raises(Cancelled):
            treat_job(replace(context, models=models), args)
    expected = [round(value) for value in brightness if value >= least]
    assert seen == [expected, expected] and 0 < len(expected) < len(known) and sum(asked) == len(known)
    with pytest.raises(ConfigRefused, match=r"none of \d+ real images scores 300 or more by clip:bright"):
        args = plan("treat-real-2", real_scorer="clip:bright", real_least=300)
        treat_job(replace(context, models=models), args)


def test_the_strip_keeps_every_look_within_bounds(context: Context) -> None:
    prompts = ["a hand", "a hand", "a face", "a face"]
    reporter = TreatmentReporter(context=context, run="treat-strip", prompts=prompts)
    images, maps = np.zeros((4, 32, 32, 3), np.uint8), np.full((4, 32, 32), 0.25, np.float32)
    for update in range(0, 5 * (STRIP_LOOKS + 1), 5):
        reporter.report(update, images, maps)
    stored = context.workspace.job_files.get("treat-strip", LOOKS)
    updates = [look["update"] for look in stored["looks"]]
    assert updates[0] == 0 and updates[-1] == 5 * STRIP_LOOKS and len(updates) <= STRIP_LOOKS
    assert stored["prompts"] == prompts and stored["looks"][0]["mean_confidence"] == 0.25
    reporter.report(10, images, maps)
    again = context.workspace.job_files.get("treat-strip", LOOKS)["looks"]
    assert [look["update"] for look in again] == [0, 10], "a run that resumed earlier looks anew"
    assert spread_over_prompts(["a", "a", "b", "b", "c"], 3) == [0, 2, 4]
