"""Two servers on one workspace, and one whose clock was set back: people are served, nothing is lost."""

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from pipelines.config import HumanErrorConfig
from pipelines.demo.simulated_annotators import SimulatedAnnotator
from storage.accounts import create_user
from storage.opening import create_workspace, open_workspace
from tests.ui.conftest import ORIGIN, PASSWORD, furnish, sign_in
from ui.config import ServerConfig
from ui.server import background, create_app

PEOPLE = ("ann", "ben", "cy", "dee")
EXACT = HumanErrorConfig(jitter=0, missed=0, false_strokes=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    workspace = create_workspace(tmp_path / "w")
    furnish(workspace, images=24)
    with workspace.catalog() as catalog:
        for name in PEOPLE:
            create_user(catalog, name, PASSWORD, ["annotator"], "test")
        catalog.commit()
    workspace.close()
    return tmp_path / "w"


def server(path: Path) -> TestClient:
    app = create_app(open_workspace(path), ServerConfig(desks=False))
    return TestClient(app, base_url=ORIGIN, follow_redirects=False)


def answer_to(task: dict[str, Any]) -> dict[str, Any]:
    return {
        "lease": task["lease"],
        "image": task["image"]["id"],
        "revision": 0,
        "clean": True,
        "seconds": 1.0,
    }


def test_two_servers_on_one_workspace_serve_everyone_once(path: Path) -> None:
    labelled: dict[str, int] = {}

    def work(name: str, url: str) -> None:
        client = httpx.Client(base_url=url, headers={"Origin": url}, follow_redirects=True, timeout=60)
        person = SimulatedAnnotator(
            client=client, name=name, password=PASSWORD, oracle=lambda image: image[..., 0] / 255, error=EXACT
        )
        person.sign_in()
        labelled[name] = person.label_all()

    quiet = ServerConfig(port=0, desks=False)
    with background(open_workspace(path), quiet) as first, background(open_workspace(path), quiet) as second:
        urls = (first.url, second.url)
        threads = [
            threading.Thread(target=work, args=(name, urls[number % 2])) for number, name in enumerate(PEOPLE)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    with open_workspace(path).catalog(read_only=True) as catalog:
        labels = [label for image in catalog.images.find() for label in catalog.labels.history(image.id)]
    assert len(labels) == sum(labelled.values()) == 22 and len(labelled) == len(PEOPLE)
    assert set(Counter(label.image_id for label in labels).values()) == {1}, "nobody labelled it twice"


def test_one_servers_session_and_lease_count_on_the_other(path: Path) -> None:
    first, second = server(path), server(path)
    sign_in(first, "ann")
    second.cookies, second.headers = first.cookies, first.headers
    task = first.get("/api/annotate/next").json()
    assert second.post("/api/annotate/submit", json=answer_to(task)).status_code == 200
    with open_workspace(path).catalog(read_only=True) as catalog:
        assert [label.author for label in catalog.labels.history(task["image"]["id"])] == ["ann"]


@pytest.mark.parametrize("skew", [-3600.0, -30.0])
def test_a_clock_that_was_set_back_loses_no_session_lease_or_answer(
    path: Path, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    client = sign_in(server(path), "ann")
    task = client.get("/api/annotate/next").json()
    true_time = time.time
    monkeypatch.setattr("time.time", lambda: true_time() + skew)
    assert client.post("/api/annotate/submit", json=answer_to(task)).status_code == 200
    following = client.get("/api/annotate/next").json()
    assert following["image"]["id"] != task["image"]["id"]
    assert client.post("/api/annotate/submit", json=answer_to(following)).status_code == 200
    with open_workspace(path).catalog(read_only=True) as catalog:
        for one in (task, following):
            assert [label.author for label in catalog.labels.history(one["image"]["id"])] == ["ann"]
