"""Wait for labels: a state, not a sleep."""

from pipelines.runtime.context import Context, Waiting
from pipelines.stages.wait_for_labels import wait_for_labels
from tests.fake_workspace import answer_queue
from tests.pipelines.conftest import Played, play


def test_the_round_waited_once_for_everything(played: Played) -> None:
    assert [waiting.remaining for waiting in played.waited] == [played.results["mine"]["queued"]]
    assert "/annotate" in played.waited[0].reason
    result = played.results["wait_for_labels"]
    assert result["answered"] == result["labels"] == played.results["mine"]["queued"]
    assert result["authors"] == 1 and result["median_lead_seconds"] == 1.0


def test_goes_on_when_all_have_answered(fresh: tuple[Context, str]) -> None:
    context, round_id = fresh
    play(context, round_id, until="wait_for_labels")
    assert isinstance(wait_for_labels(context, round_id), Waiting)
    answer_queue(context.workspace, round_id)
    answer = wait_for_labels(context, round_id)
    assert isinstance(answer, dict) and answer["clean"] < answer["labels"]
