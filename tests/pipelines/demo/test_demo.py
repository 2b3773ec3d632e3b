"""The demo: its people and accounts, its times, its failures; and the whole of it on the smallest recipe."""

import json
import threading
import time
from pathlib import Path

import pytest

from dataengine.errors import JobFailed
from dataengine.records import Job, Round
from pipelines import recipes
from pipelines.demo import run as demo_module
from pipelines.demo.run import (
    close_accounts,
    demo,
    follow_round,
    open_accounts,
    seconds_before,
    stage_times,
    start_or_resume,
)
from storage.opening import create_workspace, open_workspace
from storage.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return create_workspace(tmp_path / "workspace")


def add_round(workspace: Workspace, **changes: object) -> None:
    row = Round(
        **{"id": "r1", "recipe": recipes.demo().model_dump(mode="json"), "stage": "generate", **changes}
    )
    with workspace.catalog() as catalog:
        catalog.rounds.add(row)
        catalog.commit()


def test_accounts_last_as_long_as_the_demo(workspace: Workspace) -> None:
    passwords = open_accounts(workspace)
    with workspace.catalog(read_only=True) as catalog:
        assert {user.name: user.roles for user in catalog.users.list()} == dict.fromkeys(
            passwords, ("annotator",)
        )
    assert open_accounts(workspace) != passwords, "a demo that was killed left accounts, and gets new ones"
    close_accounts(workspace)
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.users.list() == []


def test_takes_up_the_round_that_is_there(workspace: Workspace) -> None:
    first = start_or_resume(workspace, recipes.demo())
    assert start_or_resume(workspace, recipes.demo()).id == first.id
    assert start_or_resume(workspace, recipes.cpu_smoke()).id != first.id


def test_a_failed_round_tells_why(workspace: Workspace) -> None:
    add_round(workspace, state="failed", stage="treat", message="see its job")
    with workspace.catalog() as catalog:
        catalog.jobs.add(
            Job(
                id="j1",
                kind="stage",
                args={"round_id": "r1", "stage": "treat"},
                state="failed",
                error="no memory.",
            )
        )
        catalog.commit()
    with pytest.raises(JobFailed, match=r"failed at treat: no memory\. Run the demo again"):
        follow_round(workspace, "r1", lambda text: None)


def test_nothing_moving_is_noticed(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    add_round(workspace)
    monkeypatch.setattr(demo_module, "STALLED_SECONDS", 0.3)
    with pytest.raises(JobFailed, match="No progress at generate"):
        follow_round(workspace, "r1", lambda text: None)


def add_running(workspace: Workspace, heartbeat: float) -> None:
    args = {"round_id": "r1", "stage": "generate"}
    with workspace.catalog() as catalog:
        catalog.jobs.add(Job(id="j1", kind="stage", args=args, state="running", heartbeat=heartbeat))
        catalog.commit()


def test_a_slow_stage_is_waited_for(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    add_round(workspace)
    add_running(workspace, heartbeat=time.time() + 3600)
    monkeypatch.setattr(demo_module, "STALLED_SECONDS", 0.3)
    said: list[str] = []
    watching = threading.Thread(target=follow_round, args=(workspace, "r1", said.append))
    watching.start()
    while not said and watching.is_alive():
        watching.join(0.1)
    assert "Its job is still running" in said[0]
    with workspace.catalog() as catalog:
        catalog.rounds.advance("r1", "generate", {"images": 7}, "done", "done")
        catalog.commit()
    watching.join(10)
    assert not watching.is_alive()


def test_a_stage_whose_worker_died_is_not_waited_for(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_round(workspace)
    add_running(workspace, heartbeat=time.time() - 60)
    monkeypatch.setattr(demo_module, "STALLED_SECONDS", 0.3)
    with pytest.raises(JobFailed, match="No progress at generate"):
        follow_round(workspace, "r1", lambda text: None)


def test_every_stage_is_told_once(workspace: Workspace) -> None:
    add_round(workspace)
    said: list[str] = []
    watching = threading.Thread(target=follow_round, args=(workspace, "r1", said.append))
    watching.start()
    generated = {"images": 7, "by_generator": {"flux": 7}}
    diagnosed = {"images": 7, "suspected": 2, "mean_max": 0.25}
    steps = (("generate", generated, "diagnose"), ("diagnose", diagnosed, "done"))
    for stage, result, following in steps:
        with workspace.catalog() as catalog:
            catalog.rounds.advance(
                "r1", stage, result, following, "done" if following == "done" else "running"
            )
            catalog.commit()
    watching.join(10)
    assert [line.strip() for line in said] == [
        "✓ generate survey images: 7 images: 7 by flux",
        "✓ predict artifact maps: 2 of 7 images flagged; mean peak confidence 0.25",
    ]


def test_people_count_from_mining_to_training(workspace: Workspace) -> None:
    times = {"mine": (10.0, 12.0), "train_teacher": (30.0, 45.0)}
    with workspace.catalog() as catalog:
        for number, (stage, (started, finished)) in enumerate(times.items()):
            args = {"round_id": "r1", "stage": stage}
            job = Job(
                id=stage, kind="stage", args=args, created=float(number), started=started, finished=finished
            )
            catalog.jobs.add(job)
        catalog.commit()
    assert (seconds_before(workspace, "r1", 20.0), seconds_before(workspace, "r1", 50.0)) == (2.0, 17.0)
    assert stage_times(workspace, "r1") == {"mine": 2.0, "train_teacher": 15.0, "wait_for_labels": 18.0}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_loop_on_the_smallest_recipe(tmp_path: Path) -> None:
    from ui.config import ServerConfig
    from ui.server import background

    said: list[str] = []
    result = demo(
        tmp_path / "workspace",
        serve=lambda workspace: background(workspace, ServerConfig(port=0, desks=False)),
        say=said.append,
        recipe=recipes.cpu_smoke(),
    )
    report = json.loads((result.folder / "report.json").read_text())
    assert [stage["stage"] for stage in report["stages"]][-1] == "judge"
    assert {"mse_ratio", "hard_categories_exact", "wall_s"} <= {figure["id"] for figure in report["figures"]}
    assert "<script" not in (result.folder / "report.html").read_text()
    assert all((result.folder / name).is_file() for name in report["sheets"])
    workspace = open_workspace(tmp_path / "workspace")
    with workspace.catalog(read_only=True) as catalog:
        labels = catalog.labels.of_round(result.round_id)
        assert catalog.users.list() == []
    assert labels and {label.source for label in labels} == {"simulated"}
    assert {label.author for label in labels} <= {"simulated-ada", "simulated-ben"}
