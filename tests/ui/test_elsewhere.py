"""A worker on another machine: PostgreSQL and an object store are all that it shares with the web server."""

import io
import shutil
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipelines.services.training.presets import treatment_presets
from storage.accounts import create_user
from storage.workspace import Workspace
from tests.object_store import URL, object_store
from tests.pipelines.rig import Crew, crew, until
from tests.services import postgres, postgres_url
from tests.ui.browsing import PASSWORD
from tests.ui.conftest import ORIGIN, sign_in
from tests.ui.world import REAL, settle
from ui.config import ServerConfig
from ui.server import create_app

__all__ = ["postgres", "postgres_url"]

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(600)]
UPDATES = 14


@pytest.fixture
def office(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Workspace, dict[str, str]]]:
    """The web server's workspace, without the folder of the generator that it registered, and what a worker
    elsewhere is given.
    """
    pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    with object_store() as addresses:
        given = {"CLINIC_DATABASE_URL": postgres_url, "CLINIC_BLOB_URL": URL}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        workspace = settle(tmp_path / "office")
        shutil.rmtree(workspace.path / "models")
        with workspace.catalog() as catalog:
            create_user(catalog, "eve", PASSWORD, ["engineer"], "test")
            catalog.commit()
        yield workspace, addresses | given
        workspace.close()


def wanted(workspace: Workspace) -> dict[str, Any]:
    """A small treatment that takes long enough to be paused."""
    with workspace.catalog(read_only=True) as catalog:
        (generator,) = catalog.generators.list()
    settings = treatment_presets(generator.id)["recipe cpu-smoke"]
    settings["prompts"] |= {"source": "category", "categories": ["hand", "face"], "per_category": 4}
    settings["judge"] |= {"source": "category", "categories": ["hand"], "per_category": 2}
    settings["tuning"] |= {"updates": UPDATES, "checkpoint_every": 100}
    return {"settings": settings | {"name": "steadier hands"}}


def test_a_treatment_is_done_elsewhere_paused_and_gone_on_with_on_a_third_machine(
    office: tuple[Workspace, dict[str, str]], tmp_path: Path
) -> None:
    workspace, given = office
    client = TestClient(create_app(workspace, ServerConfig(desks=False)), base_url=ORIGIN)
    sign_in(client, "eve")
    asked = wanted(workspace)
    checks = client.post("/api/treat/checks", json=asked).json()["checks"]
    assert "in the blob store" in next(one["text"] for one in checks if one["name"] == "weights")
    run = f"/api/treat/runs/{client.post('/api/treat/start', json=asked).json()['run']}"

    def seen() -> dict[str, Any]:
        found: dict[str, Any] = client.get(run).json()
        assert found["state"] in ("queued", "running", "paused", "succeeded"), found["error"]
        return found

    with crew(tmp_path / "second", given["CLINIC_DATABASE_URL"], **given) as team:
        first = team.start(REAL)
        until(lambda: (seen().get("step") or 0) >= 3, 180, "progress of another machine arrives")
        assert len(client.get(f"{run}/curves").json()["loss"][0]) >= 3
        assert client.post(f"{run}/pause").json() == {"state": "running"}
        until(lambda: seen()["state"] == "paused", 30, "the run pauses")
        done = seen_to(client, run)
        assert done < UPDATES
        first.send_signal(signal.SIGKILL)
        first.wait(10)
        assert client.post(f"{run}/resume").json()["state"] == "queued"
    with crew(tmp_path / "third", given["CLINIC_DATABASE_URL"], **given) as team:
        team.start(REAL)
        until(lambda: seen()["state"] == "succeeded", 240, "a third machine goes on to the end")
        goes_on_exactly(client, run, done, team)
    samples = client.get(f"{run}/samples").json()["samples"]
    assert client.get(f"{run}/pictures/{samples[0]['after']}").headers["content-type"].startswith("image/")
    assert client.get(f"{run}/maps/{samples[0]['map_after']}").status_code == 200
    made = seen()["result"]
    body = client.get(f"/api/treat/treatments/{made['treatment']}/lora.zip").content
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert {"README.md", "pytorch_lora_weights.safetensors"} <= set(archive.namelist())
    assert not list((workspace.path / "jobs").glob("*")), "nothing was done in the office's own folder"


def seen_to(client: TestClient, run: str) -> int:
    """The last update that the curves show."""
    steps: list[int] = client.get(f"{run}/curves").json()["loss"][0]
    assert steps == list(range(1, len(steps) + 1)), "no update is missing or shown twice"
    return steps[-1]


def goes_on_exactly(client: TestClient, run: str, done: int, team: Crew) -> None:
    """The third machine did what was left and no update again; its log is there as well."""
    assert seen_to(client, run) == UPDATES
    with team.workspace.catalog(read_only=True) as catalog:
        newest = catalog.jobs.list(kind="treat")[0]
    own = team.workspace.job_files.folder(newest.id) / "metrics.jsonl"
    trained = [line for line in own.read_text().splitlines() if '"grad_norm"' in line]
    assert len(trained) == UPDATES - done
    assert client.get(f"{run}/log").json()["log"].strip()
