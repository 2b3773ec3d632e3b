"""Retrain: a candidate from the published snapshot, with its lineage."""

from pipelines.stages.retrain import retrain
from tests.pipelines.conftest import Played


def test_the_candidate_knows_what_it_learned_from(played: Played) -> None:
    result = played.results["retrain"]
    with played.context.workspace.catalog(read_only=True) as catalog:
        candidate = catalog.detectors.get(result["detector"])
    assert candidate.parent == played.results["train_teacher"]["detector"]
    assert candidate.round_id == played.round_id
    assert candidate.snapshot_id == played.results["publish"]["snapshot"]
    assert result["samples"] == played.results["publish"]["composition"]


def test_again_gives_the_same_candidate(played: Played) -> None:
    assert retrain(played.context, played.round_id)["detector"] == played.results["retrain"]["detector"]
