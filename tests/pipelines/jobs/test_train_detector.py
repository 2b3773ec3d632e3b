"""A detector retrained outside a round: same snapshot after a kill, measured beside the champion."""

from dataclasses import replace

import pytest

from dataengine.errors import Cancelled, Conflict
from dataengine.records import digest
from pipelines.config import TrainingRun
from pipelines.detectors.evaluation import evaluation_sets
from pipelines.jobs.train_detector import retrain_job
from pipelines.runtime.context import Context
from pipelines.services import runs
from pipelines.services.detectors import objections_to, promote_detector, roll_back_champion
from storage import tables
from storage.catalog import Catalog
from storage.workspace import Workspace
from tests.pipelines.conftest import fresh_context, play


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A workspace whose people have answered a round's questions."""
    context, round_id = fresh_context(tmp_path_factory.mktemp("retraining") / "workspace")
    play(context, round_id, until="publish")
    return context


def plan(context: Context, name: str, steps: int = 4) -> dict[str, object]:
    with context.workspace.catalog(read_only=True) as catalog:
        champion = catalog.detectors.champion()
    assert champion is not None
    settings = TrainingRun(start=champion.id).model_dump(mode="json")
    settings["training"] |= {"name": name, "steps": steps}
    return {"run": f"train-{name}", "settings": settings}


def test_a_candidate_is_measured_beside_the_champion(labelled: Context) -> None:
    result = retrain_job(labelled, plan(labelled, "first"))
    with labelled.workspace.catalog(read_only=True) as catalog:
        candidate, champion = catalog.detectors.get(result["detector"]), catalog.detectors.champion()
    assert champion is not None and candidate.parent == champion.id and candidate.round_id is None
    assert candidate.role == "candidate" and candidate.snapshot_id == result["snapshot"]
    assert candidate.metrics["beside"]["detector"] == champion.id
    assert {"validation", "benchmark", "worst", "calibration"} <= candidate.metrics.keys()
    # The first fake detector suspects more than it should, the trained one less: nothing speaks against it.
    assert candidate.metrics["validation"]["mse"] < champion.metrics["validation"]["mse"]
    assert objections_to(candidate, champion) == []
    kinds = set(result["samples"])
    assert kinds == {"true", "real", "pseudo"}
    scores = [row["score"] for row in candidate.metrics["worst"]["misses"]]
    assert scores == sorted(scores, reverse=True)
    shown = runs.kept_json(labelled.workspace, "train-first", "samples.json")
    assert shown["step"] == 4 and 1 <= len(shown["samples"]) <= 6
    assert labelled.workspace.maps.get(shown["samples"][0]["map"]).max() > 0


def set_status(catalog: Catalog, image_id: str, status: str) -> None:
    """Take an image out of use, or back into it."""
    images = tables.images
    catalog.connection.execute(images.update().where(images.c.id == image_id).values(status=status))


def test_what_is_labelled_during_a_run_is_for_the_next(labelled: Context) -> None:
    args = plan(labelled, "stopped")

    def stop(done: float, total: int, message: str = "", **figures: float) -> None:
        if figures.get("loss") is not None and done == 2:
            raise Cancelled("stopped as asked")

    with pytest.raises(Cancelled):
        retrain_job(replace(labelled, report=stop), args)
    with labelled.workspace.catalog() as catalog:
        before = catalog.snapshots.list()[-1]
        image = catalog.snapshots.items(before.id)[0].image_id
        set_status(catalog, image, "refused")
        catalog.commit()
    try:
        result = retrain_job(labelled, args)
        assert result["snapshot"] == before.id
        again = retrain_job(labelled, args)
        assert again["detector"] == result["detector"] == digest("detector", "train-stopped", "retrain")
    finally:
        with labelled.workspace.catalog() as catalog:
            set_status(catalog, image, "active")
            catalog.commit()


def test_nothing_of_the_benchmark_is_trained_on(labelled: Context) -> None:
    sets = evaluation_sets(labelled, TrainingRun().publish)
    benchmark = {item.image_id for name in ("benchmark", "benchmark_real") for item in sets[name]}
    with labelled.workspace.catalog(read_only=True) as catalog:
        rows = catalog.snapshots.items(catalog.snapshots.list()[-1].id)
    assert benchmark and not benchmark & {item.image_id for item in rows}


def test_two_people_promoting_at_once(labelled: Context) -> None:
    workspace: Workspace = labelled.workspace
    one = retrain_job(labelled, plan(labelled, "ann's"))["detector"]
    two = retrain_job(labelled, plan(labelled, "ben's"))["detector"]
    with workspace.catalog(read_only=True) as catalog:
        seen = catalog.detectors.champion()
    assert seen is not None
    promote_detector(workspace, one, "ann", "", seen.id)
    with pytest.raises(Conflict, match="the champion is now ann's"):
        promote_detector(workspace, two, "ben", "", seen.id)
    with workspace.catalog(read_only=True) as catalog:
        champion, events = catalog.detectors.champion(), catalog.audit.list(actor="ann")
    assert champion is not None and champion.id == one
    assert events[0].action == "detector.promote" and events[0].details["reason"] == "better on validation"
    with pytest.raises(Conflict, match="champion was changed in the meantime"):
        roll_back_champion(workspace, "ben", seen.id)
    assert roll_back_champion(workspace, "ann", one).id == seen.id
