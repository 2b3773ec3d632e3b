"""Generate: every prompt and seed once, splits by group, missing ones only, judging by two generators."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dataengine.errors import ConfigRefused, Corrupt, ModelRefused, NotFound, Paused, reason_of
from dataengine.records import GeneratorVersion
from dataengine.records.images import HARD, JUDGE, SURVEY
from pipelines.generators.files import PIPELINE, reads_prompts
from pipelines.runtime.context import Context
from pipelines.runtime.round_data import images_of, prompts_of, recipe_of
from pipelines.stages.generate import SURVEY_STAGE, finish, generating, run_shard, shards
from pipelines.stages.stage import run_work
from pipelines.stages.treat import generator_to_treat
from tests.pipelines.conftest import Played, run_one


def test_draws_every_prompt_with_its_seeds(played: Played) -> None:
    config = recipe_of(played.context, played.round_id).generate
    prompts = prompts_of(played.context, played.round_id, SURVEY)
    images = images_of(played.context, played.round_id, SURVEY)
    assert len(prompts) == len(config.categories) * config.prompts_per_category
    wanted = dict.fromkeys({prompt.text for prompt in prompts}, config.seeds_per_prompt)
    assert Counter(image.prompt for image in images) == wanted
    assert len({(image.prompt, image.seed) for image in images}) == len(images)
    assert all(image.settings["steps"] == config.sampling.steps and image.thumbnail for image in images)


def test_hard_images_show_what_their_prompts_were_written_for(played: Played) -> None:
    written = {prompt.text: prompt.category for prompt in prompts_of(played.context, played.round_id, HARD)}
    images = images_of(played.context, played.round_id, HARD)
    assert images and all(image.category == written[image.prompt] for image in images)


def test_drawing_again_adds_nothing(played: Played) -> None:
    before = len(images_of(played.context, played.round_id, SURVEY, HARD, JUDGE))
    again = run_one(played.context, played.round_id, "generate_hard")
    assert again == played.results["generate_hard"]
    assert len(images_of(played.context, played.round_id, SURVEY, HARD, JUDGE)) == before


def test_a_broken_shard_is_completed(fresh: tuple[Context, str]) -> None:
    context, round_id = fresh
    whole = shards(context, round_id, SURVEY)
    part = dict(whole[0], stop=3)
    assert run_shard(context, round_id, part)["drawn"] == 3
    assert run_shard(context, round_id, whole[0])["drawn"] == whole[0]["stop"] - 3
    assert run_shard(context, round_id, whole[0])["drawn"] == 0


def test_one_prompt_and_seed_is_one_group_in_one_split(played: Played) -> None:
    images = images_of(played.context, played.round_id, SURVEY, HARD, JUDGE)
    splits: dict[str, set[str]] = {}
    for image in images:
        splits.setdefault(image.group, set()).add(image.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {image.split for image in images} == {"train", "validation"}


def test_judging_draws_with_the_base_and_the_treated_one(played: Played) -> None:
    treated = played.results["treat"]
    drawn = Counter(image.generator_id for image in images_of(played.context, played.round_id, JUDGE))
    assert set(drawn) == {treated["generator"], treated["treated"]}
    assert len(set(drawn.values())) == 1


def drawing(context: Context, round_id: str, named: list[str], generators: list[GeneratorVersion]) -> str:
    """A round like that one which draws with the named generators, begun once those are registered."""
    with context.workspace.catalog() as catalog:
        row = catalog.rounds.get(round_id)
        recipe: dict[str, Any] = {**row.recipe, "generate": {**row.recipe["generate"], "generators": named}}
        for each in generators:
            catalog.generators.add(replace(each, created=row.created))
        catalog.rounds.add(replace(row, id="other", recipe=recipe))
        catalog.commit()
    return "other"


def test_an_unknown_generator_is_refused(fresh: tuple[Context, str]) -> None:
    context, round_id = fresh
    with pytest.raises(ConfigRefused, match=r"not registered: nobody \(registered: "):
        shards(context, drawing(context, round_id, ["nobody"], []), SURVEY)


UNPROMPTED = [
    GeneratorVersion(id=kind, name=kind, location="nowhere", settings={PIPELINE: kind})
    for kind in ("DDPMPipeline", "DiTPipeline")
]


@pytest.mark.parametrize(
    ("named", "expected"), [([], {"squares"}), (["DDPMPipeline", "squares"], {"DDPMPipeline", "squares"})]
)
def test_what_reads_no_prompts_draws_only_where_it_is_named(
    fresh: tuple[Context, str], named: list[str], expected: set[str]
) -> None:
    context, round_id = fresh
    found = shards(context, drawing(context, round_id, named, UNPROMPTED), SURVEY)
    assert {shard["generator"] for shard in found} == expected


def test_a_workspace_whose_generators_read_no_prompts_says_so(
    fresh: tuple[Context, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.generators.files.reads_prompts", lambda workspace, version: False)
    with pytest.raises(ConfigRefused, match=r"reads prompts.*generate\.generators.*squares"):
        shards(*fresh, SURVEY)


def other_generators(context: Context, round_id: str, *names: str, first: bool = False) -> str:
    """A round that draws with generators at `location/NAME`, after the fakes' own or before it."""
    others = [GeneratorVersion(id=name, name=f"the {name}", location=f"location/{name}") for name in names]
    return drawing(context, round_id, [*names, "squares"] if first else ["squares", *names], others)


def breaking(monkeypatch: pytest.MonkeyPatch, context: Context, word: str, error: BaseException) -> None:
    """Opening a generator fails where its location holds the word."""
    stock = context.models.open_generator

    def opened(location: str, *rest: Any) -> Any:
        if word in location:
            raise error
        return stock(location, *rest)

    monkeypatch.setattr(context.models, "open_generator", opened)


ERRORS = [
    ModelRefused("its unet is a Git LFS pointer"),
    NotFound("its folder does not exist"),
    Corrupt("its LoRA is damaged"),
    RuntimeError("size mismatch"),
    KeyError("to_q"),
]


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_broken_generator_is_skipped_and_named(
    fresh: tuple[Context, str], error: Exception, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, round_id = fresh
    other = other_generators(context, round_id, "broken", first=first)
    breaking(monkeypatch, context, "broken", error)
    result = run_work(context, other, generating(SURVEY))
    drawn = Counter(image.generator_id for image in images_of(context, other, SURVEY))
    assert result["by_generator"] == {"squares": drawn["squares"], "broken": 0} and drawn["squares"]
    assert result["skipped"] == {"broken": {"name": "the broken", "reason": reason_of(error)}}
    assert f"skipped the broken ({reason_of(error)})" in SURVEY_STAGE.summary(result)
    with context.workspace.catalog() as catalog:
        catalog.rounds.advance(other, "generate", result, "treat", "running")
        catalog.commit()
    assert generator_to_treat(context, other) == "squares"


def test_a_round_whose_generators_are_all_broken_fails_with_one_sentence(
    fresh: tuple[Context, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, round_id = fresh
    other = other_generators(context, round_id, "one", "two")
    breaking(monkeypatch, context, "", ModelRefused("it is damaged"))
    with pytest.raises(ModelRefused, match=r"No generator.*the one \(it is damaged\); the two \(.*--remove"):
        run_work(context, other, generating(SURVEY))


class OutOfMemoryError(RuntimeError):
    """As torch's is named."""


@pytest.mark.parametrize("error", [Paused("later"), OSError("disk full"), OutOfMemoryError("on the device")])
def test_what_is_not_the_generators_fault_is_tried_again(
    fresh: tuple[Context, str], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, round_id = fresh
    other = other_generators(context, round_id, "broken")
    breaking(monkeypatch, context, "broken", error)
    with pytest.raises(type(error)):
        run_work(context, other, generating(SURVEY))


def test_judging_needs_both_generators(fresh: tuple[Context, str]) -> None:
    context, round_id = fresh
    sound = {"generator": "a", "images": 2, "drawn": 2}
    broken = {"generator": "b", "images": 0, "drawn": 0, "name": "B", "failed": "it is damaged"}
    assert finish(context, round_id, [sound, broken], SURVEY)["skipped"]
    with pytest.raises(ModelRefused, match=r"Not every generator.*B \(it is damaged\)"):
        finish(context, round_id, [sound, broken], JUDGE)


def test_a_removed_generator_draws_no_more(fresh: tuple[Context, str]) -> None:
    context, round_id = fresh
    named = other_generators(context, round_id, "tired")
    with context.workspace.catalog() as catalog:
        catalog.generators.remove("tired", "root", "")
        row = catalog.rounds.get(named)
        recipe: dict[str, Any] = {**row.recipe, "generate": {**row.recipe["generate"], "generators": []}}
        catalog.rounds.add(replace(row, id="all", recipe=recipe))
        catalog.commit()
    with pytest.raises(ConfigRefused, match="removed or not registered: tired"):
        shards(context, named, SURVEY)
    assert {shard["generator"] for shard in shards(context, "all", SURVEY)} == {"squares"}


def test_files_tell_what_an_earlier_registration_did_not(fresh: tuple[Context, str], tmp_path: Path) -> None:
    context, _ = fresh
    version = GeneratorVersion(id="old", name="old", location=str(tmp_path))
    assert reads_prompts(context.workspace, version), "nothing is known against it"
    for kind, reads in (("FluxPipeline", True), ("DDPMPipeline", False)):
        (tmp_path / "model_index.json").write_text(f'{{"_class_name": "{kind}"}}')
        assert reads_prompts(context.workspace, version) == reads
