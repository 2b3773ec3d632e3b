"""Every stage has its words, and they hold what it answered."""

from pipelines.round import ROUND
from pipelines.stages.stage import FOUND, TITLES, found
from tests.pipelines.conftest import Played


def test_every_stage_is_told(played: Played) -> None:
    names = {stage.name for stage in ROUND}
    assert names == set(TITLES) == set(FOUND)
    for name, result in played.results.items():
        assert found(name, result), name


def test_the_words_hold_the_figures(played: Played) -> None:
    results = played.results
    assert "hard: face, hand" in found("write_prompts", results["write_prompts"])
    assert str(results["publish"]["rows"]) in found("publish", results["publish"])
    assert "candidate is champion" in found("promote", results["promote"])
    refused = {"promoted": False, "reasons": ["it is worse"]}
    assert found("promote", refused) == "refused: it is worse"


def test_a_round_whose_guard_kept_nothing() -> None:
    assert "nothing kept" in found(
        "treat", {"treated": None, "stopped": "the guard", "kept": 0, "updates": 9}
    )
    assert found("judge", {"pairs": 0}) == "no treated generator"
