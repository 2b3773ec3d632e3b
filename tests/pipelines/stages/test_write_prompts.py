"""Write prompts: the hard categories of the fakes, and prompts that are held out from one another."""

from dataengine.records.images import HARD, JUDGE, SURVEY, TREAT
from pipelines.runtime.round_data import prompts_of
from pipelines.stages.write_prompts import write_prompts
from tests.pipelines.conftest import Played


def test_finds_what_breaks_often(played: Played) -> None:
    result = played.results["write_prompts"]
    assert (result["hard"], result["easy"]) == (["face", "hand"], ["house", "tree"])
    with played.context.workspace.catalog(read_only=True) as catalog:
        verdicts = catalog.hard.of_round(played.round_id)
    assert {verdict.category for verdict in verdicts if verdict.hard} == {"hand", "face"}
    assert all(verdict.hard == (verdict.statistic > verdict.limit) for verdict in verdicts)


def test_hard_prompts_are_for_hard_categories_only(played: Played) -> None:
    categories = {prompt.category for prompt in prompts_of(played.context, played.round_id, HARD)}
    assert categories == {"hand", "face"}
    everything = {prompt.category for prompt in prompts_of(played.context, played.round_id, JUDGE)}
    assert everything == {"hand", "face", "house", "tree"}


def test_judging_prompts_are_held_out(played: Played) -> None:
    texts = {
        purpose: {prompt.text for prompt in prompts_of(played.context, played.round_id, purpose)}
        for purpose in (SURVEY, HARD, TREAT, JUDGE)
    }
    assert texts[JUDGE]
    for purpose in (SURVEY, HARD, TREAT):
        assert not texts[JUDGE] & texts[purpose]


def test_what_is_written_stays(played: Played) -> None:
    before = prompts_of(played.context, played.round_id, TREAT)
    results = played.results
    assert write_prompts(played.context, played.round_id)["prompts"] == results["write_prompts"]["prompts"]
    assert prompts_of(played.context, played.round_id, TREAT) == before


def test_the_evidence_stands_beside_the_verdicts(played: Played) -> None:
    found = played.results["write_prompts"]
    rows = {row["category"]: row for row in found["evidence"] if row["generator"] == ""}
    assert set(found["hard"]) <= set(rows) and set(found["easy"]) <= set(rows)
    assert min(rows[name]["median"] for name in found["hard"]) > max(
        rows[name]["median"] for name in found["easy"]
    )
