"""Every stage states what it is, and its words hold what it recorded."""

from typing import get_args

import pytest

from dataengine.errors import NotFound
from dataengine.records import Round
from pipelines.cli import stages as cli_stages
from pipelines.config import Part, RoundRecipe
from pipelines.round import ROUND
from pipelines.services.rounds import describe_stages
from pipelines.stages.stage import (
    SURVEY_PART,
    Sharded,
    Stage,
    change,
    counted,
    run_action,
    run_work,
    skipped_stages,
    stage_named,
)
from tests.pipelines import toys
from tests.pipelines.conftest import Played


def summary(name: str, result: dict[str, object]) -> str:
    return stage_named(name, ROUND).summary(result)


@pytest.mark.parametrize("stage", ROUND, ids=lambda stage: stage.name)
def test_every_stage_states_what_it_is(stage: Stage, played: Played) -> None:
    assert stage.title and stage.takes
    assert stage.part in (SURVEY_PART, *get_args(Part))
    assert stage.section in RoundRecipe.model_fields
    assert stage.found(played.results[stage.name])
    assert callable(stage.work) or isinstance(stage.work, Sharded)


def test_titles_differ_and_every_part_has_stages() -> None:
    assert len({stage.title for stage in ROUND}) == len(ROUND)
    assert {stage.part for stage in ROUND} == {SURVEY_PART, *get_args(Part)}
    assert [stage.name for stage in ROUND if stage.people] == ["wait_for_labels"]


def test_the_words_hold_the_figures(played: Played) -> None:
    results = played.results
    assert "Hard categories: face, hand" in summary("write_prompts", results["write_prompts"])
    assert str(results["publish"]["rows"]) in summary("publish", results["publish"])
    assert "Candidate promoted" in summary("promote", results["promote"])
    measured = summary("evaluate", results["evaluate"])
    assert measured.startswith("Squared error on validation ")
    assert all(name.replace("_", " ") in measured for name in results["evaluate"]["champion"])
    refused = {"promoted": False, "reasons": ["worse", "slower"]}
    assert summary("promote", refused) == "Champion kept: worse; slower"


def test_a_round_whose_guard_kept_nothing() -> None:
    kept_none = {"treated": None, "stopped": "the guard", "kept": 0, "updates": 9}
    assert summary("treat", kept_none) == "No checkpoint kept: the guard"
    assert summary("judge", {"pairs": 0}) == "Nothing to compare"


@pytest.mark.parametrize("stage", ROUND, ids=lambda stage: stage.name)
def test_a_result_of_another_version_still_shows_its_figures(stage: Stage) -> None:
    assert stage.summary({"odd": 3, "more": [1]}) == "odd 3"


def test_counts_and_changes_in_words() -> None:
    assert counted({"true": 3, "pseudo": 5}) == "3 true, 5 pseudo" and counted({}) == "none"
    assert change(0.12345, None) == "0.1235 → –" and change(2.0, 1.0) == "2 → 1"


def test_a_recipe_leaves_out_parts() -> None:
    survey_only = Round(id="r", recipe={"parts": []}, stage="generate")
    kept = [stage.name for stage in ROUND if stage.name not in skipped_stages(survey_only, ROUND)]
    assert kept == ["generate", "diagnose", "categorize", "write_prompts"]
    treated = Round(id="r", recipe={"parts": ["treatment", "hard"]}, stage="generate")
    left_out = skipped_stages(treated, ROUND)
    assert {"mine", "wait_for_labels", "promote"} <= left_out
    assert not left_out & {"generate_hard", "diagnose_hard", "treat", "judge"}
    assert skipped_stages(Round(id="r", recipe={}, stage="generate"), ROUND) == set()


def test_a_round_is_described_stage_by_stage(played: Played) -> None:
    with played.context.workspace.catalog(read_only=True) as catalog:
        row = catalog.rounds.get(played.round_id)
    described = describe_stages(row)
    assert [one.name for one in described] == [stage.name for stage in ROUND]
    assert [one.title for one in described] == [stage.title for stage in ROUND]
    assert all(one.found and one.takes and not one.skipped for one in described)
    begun = describe_stages(Round(id="r", recipe={"parts": []}, stage="generate"))
    assert not any(one.found for one in begun) and begun[6].skipped


def test_a_stage_without_people_has_a_command() -> None:
    commands = {stage.section.replace("_", "-") for stage in ROUND if not stage.people}
    assert commands == set(cli_stages.STAGES)


def test_actions_of_sharded_work_give_what_the_whole_gives(played: Played) -> None:
    work = stage_named("categorize", ROUND).work
    about = (played.context, played.round_id, work)
    shards = run_action(*about, "shards")["shards"]  # type: ignore[index]
    results = [run_action(*about, "shard", shard) for shard in shards]
    assert run_action(*about, "finish", results) == run_action(*about, "run") == run_work(*about)


def test_work_of_one_piece_has_no_shards() -> None:
    with pytest.raises(AssertionError, match="no shards"):
        run_action(None, "r", toys.count, "shards")  # type: ignore[arg-type]


def test_an_unknown_stage_is_named() -> None:
    with pytest.raises(NotFound, match="its stages are draw, count, ask, train"):
        stage_named("paint", toys.STAGES)
