"""A round of fakes through every stage, undisturbed and with a kill -9 inside them."""

from pathlib import Path
from typing import Any

import pytest

from pipelines import recipes
from pipelines.round import ROUND, advance
from pipelines.runtime.context import Context, Waiting
from pipelines.runtime.shards import run_sequentially
from pipelines.services import rounds
from pipelines.stages.stage import DONE, Done, Stage
from pipelines.worker.local_runner import LocalRunner
from storage.opening import create_workspace
from storage.queries import overview as queries_overview
from storage.queries import rounds as queries_rounds
from storage.workspace import Workspace
from tests import fake_workspace, fakes
from tests.pipelines import toys
from tests.pipelines.rig import FAKES, crew, until
from tests.services import postgres, postgres_url

__all__ = ["postgres", "postgres_url"]

STAGES = [stage.name for stage in ROUND]
FAIL_AT = [
    *("generate:survey", "diagnose:maps", "categorize:answers", "write_prompts:judge", "generate:hard"),
    *("mine:chosen", "wait_for_labels:counted", "train_teacher:trained", "pseudo_label:predicted"),
    *("publish:composed", "retrain:trained", "evaluate:measured", "promote:decided", "treat:tuned"),
    "judge:predicted",
]


def begin(workspace: Workspace) -> str:
    """A prepared workspace's new round of fakes."""
    fake_workspace.prepare(workspace)
    return rounds.start_round(workspace, recipes.fakes().model_dump(mode="json")).id


def counts(workspace: Workspace, round_id: str) -> dict[str, Any]:
    """How much of everything there is, and every number that the stages recorded."""
    with workspace.catalog(read_only=True) as catalog:
        row = catalog.rounds.get(round_id)
        progress = queries_rounds.round_progress(catalog, round_id)
        overview = queries_overview.overview(catalog)
        purposes = ("survey", "hard", "treat", "judge")
        prompts = {each: len(catalog.prompts.of_round(round_id, each)) for each in purposes}
        predictions = {
            each.name.partition(" ")[0]: len(
                catalog.predictions.of(each.id, [image.id for image in catalog.images.find()])
            )
            for each in catalog.detectors.list()
        }
    assert (row.state, row.stage) == ("done", DONE) and list(row.results) == STAGES
    return {
        "prompts": prompts,
        "images": progress.images,
        "answered": progress.answered,
        "labels": progress.labels,
        "pseudo_labels": progress.pseudo_labels,
        "predictions": predictions,
        "kept": [
            overview.images,
            overview.snapshots,
            overview.detectors,
            overview.generators,
            overview.treatments,
        ],
        "results": numbers(row.results),
    }


def numbers(value: Any) -> Any:
    """Nested results without their texts, which hold ids of the round."""
    if isinstance(value, dict):
        return {name: numbers(each) for name, each in value.items() if not isinstance(each, str)}
    if isinstance(value, list):
        return [numbers(each) for each in value if not isinstance(each, str)]
    return value


def run_here(workspace: Workspace, round_id: str) -> list[str]:
    """Run a round in this process, answering as a person would; what `advance` said, in order."""
    models = fakes.fake_models()
    runner = LocalRunner(
        workspace=workspace,
        models=models,
        report=lambda *a, **k: None,
        stages=ROUND,
        run_shards=run_sequentially,
    )
    said: list[str] = []
    while True:
        answer = runner.advance(round_id)
        if isinstance(answer, Done):
            return said
        said.append(answer.name if isinstance(answer, Stage) else "waiting")
        if isinstance(answer, Waiting):
            fake_workspace.answer_queue(workspace, round_id)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a round leaves that nobody disturbs."""
    workspace = create_workspace(tmp_path_factory.mktemp("undisturbed"))
    round_id = begin(workspace)
    assert run_here(workspace, round_id) == [*STAGES[:7], "waiting", *STAGES[7:]]
    return counts(workspace, round_id)


def test_an_undisturbed_round_does_what_it_says(undisturbed: dict[str, Any]) -> None:
    assert undisturbed["images"] == {"hard": 6, "judge": 24, "survey": 12}
    assert undisturbed["answered"] == undisturbed["labels"] == 6
    assert undisturbed["results"]["promote"]["promoted"] is True
    assert undisturbed["results"]["judge"]["frequency"]["ratio"] < 0.5


@pytest.mark.parametrize(
    ("database", "victim", "points"),
    [
        pytest.param("sqlite", "self", FAIL_AT, id="sqlite, the child dies"),
        pytest.param(
            "postgresql", "worker", FAIL_AT[::2], id="postgresql, the worker dies", marks=pytest.mark.postgres
        ),
    ],
)
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_kill_inside_the_stages_changes_nothing(
    tmp_path: Path,
    undisturbed: dict[str, Any],
    database: str,
    victim: str,
    points: list[str],
    request: pytest.FixtureRequest,
) -> None:
    url = "sqlite" if database == "sqlite" else request.getfixturevalue("postgres_url")
    kills = tmp_path / "kills"
    kills.mkdir()
    fails = {
        "CLINIC_FAIL_AT": ",".join(points),
        "CLINIC_FAIL_DIR": str(kills),
        "CLINIC_FAIL_VICTIM": victim,
    }
    with crew(tmp_path / "w", url, **fails) as team:
        round_id = begin(team.workspace)

        def over() -> bool:
            team.keep_one(FAKES)
            if team.round_is(round_id, "waiting"):
                fake_workspace.answer_queue(team.workspace, round_id)
            return team.round_is(round_id, "done", "failed")

        until(over, 570, "the round ends")
        assert counts(team.workspace, round_id) == undisturbed, team.log()
    killed = {marker.name.partition(".")[0] for marker in kills.iterdir()}
    assert len(killed) >= len(points), "once for each stage that passes the point"
    if points == FAIL_AT:
        assert killed == {*STAGES, "worker"} - {"wait_for_labels"}


def test_advance_may_be_called_again_at_any_time(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path)
    row = rounds.start_round(workspace, {}, stages=toys.STAGES)
    context = Context(workspace, toys.no_models("cpu"))
    said = [advance(context, row.id, toys.STAGES) for _ in range(4)]
    assert [getattr(each, "name", each) for each in said] == [
        "draw",
        "count",
        Waiting("somebody has to create a file", 1),
        Waiting("somebody has to create a file", 1),
    ]
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.rounds.get(row.id).state == "waiting"
    (tmp_path / "people-are-done").touch()
    said = [advance(context, row.id, toys.STAGES) for _ in range(4)]
    assert [getattr(each, "name", each) for each in said] == ["ask", "train", Done(), Done()]


def test_stages_have_distinct_names() -> None:
    assert len(set(STAGES)) == len(STAGES) == 16
