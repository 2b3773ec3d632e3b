"""Generate: every prompt and seed once, splits by group, missing ones only, judging by two generators."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dataengine.errors import ConfigRefused
from dataengine.records import GeneratorVersion
from dataengine.records.images import HARD, JUDGE, SURVEY
from pipelines.generators.files import PIPELINE, reads_prompts
from pipelines.runtime.context import Context
from pipelines.runtime.round_data import images_of, prompts_of, recipe_of
from pipelines.stages.generate import run_shard, shards
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
    monkeypatch.setattr("pipelines.stages.generate.reads_prompts", lambda workspace, version: False)
    with pytest.raises(ConfigRefused, match=r"reads prompts.*generate\.generators.*squares"):
        shards(*fresh, SURVEY)


def test_files_tell_what_an_earlier_registration_did_not(fresh: tuple[Context, str], tmp_path: Path) -> None:
    context, _ = fresh
    version = GeneratorVersion(id="old", name="old", location=str(tmp_path))
    assert reads_prompts(context.workspace, version), "nothing is known against it"
    for kind, reads in (("FluxPipeline", True), ("DDPMPipeline", False)):
        (tmp_path / "model_index.json").write_text(f'{{"_class_name": "{kind}"}}')
        assert reads_prompts(context.workspace, version) == reads
