"""Killed without warning, push and pull leave nothing half-written, and the next one completes the work."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dataengine.records import DetectorVersion, Prediction
from pipelines.exchange.label_studio.pull import pull
from pipelines.exchange.label_studio.push import push
from pipelines.exchange.label_studio.server import Server
from pipelines.exchange.label_studio.tasks import brush_results
from storage.workspace import Workspace
from tests.labelstudio.server import EMAIL, LabelStudioServer
from tests.ui.conftest import SIDE

pytestmark = [pytest.mark.labelstudio, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("shape distortion", "unreasonable content", "watermark")


def killed(label_studio: LabelStudioServer, workspace: Workspace, title: str, point: str) -> None:
    command = [sys.executable, "-m", "tests.labelstudio.victim", label_studio.url, label_studio.token]
    done = subprocess.run(
        [*command, str(workspace.path), title, point], cwd=ROOT, capture_output=True, timeout=300, check=False
    )
    assert done.returncode == -9, f"{point} was never reached: {done.stderr.decode()[-800:]}"


def at_rest(server: Server, project: int) -> None:
    """Wait until the server has done what it was asked to by somebody who is no more."""
    seen, quiet = -1, 0
    while quiet < 3:
        time.sleep(0.3)
        found = len(list(server.tasks(project)))
        seen, quiet = found, quiet + 1 if found == seen else 0


@pytest.mark.parametrize(
    "point",
    [
        "push:after ready_project:1",
        "push:after upload:2",
        "push:after add_tasks:2",
        "push:amid add_tasks:2",
        "push:before remember:1",
    ],
)
def test_a_killed_push_is_completed(
    workspace: Workspace, label_studio: LabelStudioServer, server: Server, title: str, point: str
) -> None:
    killed(label_studio, workspace, title, point)
    project = server.project(title)
    assert project is not None
    at_rest(server, project.id)
    left = len(list(server.tasks(project.id)))
    done = push(workspace, server, title, round_id="r1")
    assert (done.tasks, done.known) == (6 - left, left)
    check(server, title, versions={done.model_version})
    again = push(workspace, server, title, round_id="r1")
    assert (again.tasks, again.predictions, again.known) == (0, 0, 6)


def check(server: Server, title: str, versions: set[str]) -> None:
    """Six tasks, each of its own image, with one prediction of each version; the newest counts."""
    project = server.project(title)
    assert project is not None and project.model_version in versions
    said = server.get("tasks", project=project.id, fields="all", page_size=50)["tasks"]
    assert Counter(Counter(task["data"]["clinic_id"] for task in said).values()) == {1: 6}
    for task in said:
        assert sorted(one["model_version"] for one in task["predictions"]) == sorted(versions)


def test_a_killed_change_of_champion_is_completed(
    workspace: Workspace, label_studio: LabelStudioServer, server: Server, title: str
) -> None:
    first = push(workspace, server, title, round_id="r1")
    with workspace.catalog() as catalog:
        catalog.detectors.add(DetectorVersion(id="d2", name="second doctor", checkpoint="1" * 64))
        catalog.detectors.promote("d2", "test", "better")
        catalog.predictions.add_many(
            Prediction(
                image_id=one.image_id, detector_id="d2", max=one.max, mean=one.mean, uncertainty=0.5,
                map_ref=one.map_ref,
            )
            for one in catalog.predictions.of("d1")
        )  # fmt: skip
        catalog.commit()
    killed(label_studio, workspace, title, "push:after add_predictions:2")
    done = push(workspace, server, title, round_id="r1")
    assert (done.tasks, done.predictions) == (0, 2)
    check(server, title, versions={first.model_version, done.model_version})
    project = server.project(title)
    assert project is not None and project.model_version == done.model_version


@pytest.mark.parametrize(
    "point",
    ["pull:before keep:1", "pull:after keep:2", "pull:after pack:3", "pull:before withdraw:1"],
)
def test_a_killed_pull_is_completed(
    workspace: Workspace, label_studio: LabelStudioServer, server: Server, title: str, point: str
) -> None:
    pushed = push(workspace, server, title, round_id="r1")
    tasks = {task["data"]["clinic_id"]: task["id"] for task in server.tasks(pushed.project)}
    made = {}
    for number, (image_id, task) in enumerate(sorted(tasks.items())):
        label_map = np.zeros((SIDE, SIDE), dtype=np.uint8)
        label_map[number : number + 9, 3:20] = 1 + number % 3
        result = brush_results(label_map, CLASSES)
        made[image_id] = server.client.annotations.create(id=task, result=result)
    killed(label_studio, workspace, title, point)
    left = revisions(workspace)
    assert set(left.values()) <= {1} and pull(workspace, server, title).labels == 6 - len(left)
    assert revisions(workspace) == dict.fromkeys(tasks, 1)

    # What is deleted there while nobody pulls is followed after another kill too.
    server.client.annotations.delete(id=made[min(made)].id)
    killed(label_studio, workspace, title, "pull:before withdraw:1")
    assert pull(workspace, server, title).withdrawn == 1
    assert pull(workspace, server, title).withdrawn == 0
    assert revisions(workspace) == dict.fromkeys(tasks, 1)


def revisions(workspace: Workspace) -> dict[str, int]:
    """The newest revision of every label that came from there; its pixels are whole."""
    with workspace.catalog(read_only=True) as catalog:
        labels = list(catalog.labels.by(f"label-studio:{EMAIL}"))
    assert all(label.label_map and workspace.blobs.get(label.label_map) for label in labels)
    return {label.image_id: label.revision for label in labels}
