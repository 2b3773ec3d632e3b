"""Work on the images of a filter and its export, asked for by the desk; models; the state of a job."""

import csv
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from dataengine.errors import NotFound
from dataengine.records import Endpoint, Image, Job, now
from pipelines.jobs.export_images import archive_of
from pipelines.runtime.context import Context
from pipelines.runtime.models import real_models
from pipelines.services.exchange import archives
from pipelines.worker.handlers import handler_of
from storage.maintenance.archives import KEPT_SECONDS
from storage.maintenance.collect_garbage import collect
from storage.maintenance.erase import erase_images
from storage.opening import create_workspace, open_workspace
from storage.workspace import Workspace
from tests.ui.conftest import ORIGIN, add_people, furnish, png, sign_in
from tests.ui.curate.test_routes import draw, ids_of
from ui.config import ServerConfig
from ui.server import create_app

Clients = Callable[..., TestClient]


@pytest.fixture
def curator(client_of: Clients) -> TestClient:
    return client_of("curator")


def ordered(client: TestClient, path: str, **body: object) -> str:
    answer = client.post(f"/api/curate/work/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["job"]


def run(workspace: Workspace, job_id: str) -> dict:
    """Do the job, as a worker does."""
    with workspace.catalog(read_only=True) as catalog:
        job = catalog.jobs.get(job_id)
    result = handler_of(job.kind)(Context(workspace, real_models("cpu")), job.args)
    with workspace.catalog() as catalog:
        catalog.jobs.finish(job_id, "succeeded", json.loads(json.dumps(result)))
        catalog.commit()
    return result


def add_injected(workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        sha256 = workspace.blobs.put(png(77))
        image = Image(id="injected", sha256=sha256, height=64, width=64, source="injected")
        catalog.images.add_many([image])
        catalog.commit()


def test_choices_say_what_is_left(curator: TestClient, workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        catalog.endpoints.add(Endpoint(id="v", kind="vqa", name="Qwen", location="owner/qwen"))
        catalog.commit()
    found = curator.get("/api/curate/work/choices?category=hands").json()
    assert found["count"] == 4 and found["uncategorised"] == 0
    first, shipped = found["detectors"]
    assert (first["id"], first["champion"], first["left"]) == ("d1", True, 0)
    assert shipped["id"] == "clinic" and shipped["left"] == 4
    assert [one["id"] for one in found["vqa"]] == ["owner/qwen", "clinic"]
    assert {one["name"] for one in found["formats"]} == set(archives.FORMATS)
    assert curator.get("/api/curate/work/choices?odd=1").status_code == 422


def test_each_kind_of_work_becomes_its_job(curator: TestClient, workspace: Workspace) -> None:
    """desks 1.3: with any detector and VQA model, for any filter, without generator or round."""
    hands = {"category": "hands", "class": 2, "low": 0.1}
    for path, kind, body in (
        ("diagnose", "diagnose", {"detector": "d1"}),
        ("diagnose", "diagnose", {"detector": "clinic"}),
        ("categorize", "categorize", {"model": "clinic", "categories": ["hand", "mug"]}),
        ("send", "mine", {"budget": 3}),
        ("export", "export", {"format": "coco"}),
    ):
        job_id = ordered(curator, path, images={"category": "hands"}, **body)
        with workspace.catalog(read_only=True) as catalog:
            job = catalog.jobs.get(job_id)
        assert (job.kind, job.requested_by) == (kind, "curator")
        assert job.args["settings"]["images"]["category"] == "hands"
    assert curator.post("/api/curate/work/diagnose", json={"images": hands}).status_code == 404  # none match
    refused: tuple[tuple[str, dict[str, Any], int], ...] = (
        ("diagnose", {"detector": "gone"}, 404),
        ("diagnose", {"images": {"odd": 1}}, 422),
        ("categorize", {"model": "http://169.254.169.254/v1#x"}, 422),
        ("categorize", {"model": "/etc"}, 422),
        ("categorize", {"model": "clinic", "categories": ["hand", "hand"]}, 422),
        ("categorize", {}, 422),
        ("send", {"budget": 0}, 422),
        ("repair", {"generator": "gone"}, 404),
        ("export", {"format": "exe"}, 422),
        ("export", {"format": "hf"}, 422),
        ("export", {"format": "hf", "snapshot": "gone"}, 404),
        ("export", {"snapshot": "x", "images": {"category": "hands"}}, 422),
    )
    for path, wrong, status in refused:
        answer = curator.post(f"/api/curate/work/{path}", json=wrong)
        assert answer.status_code == status and answer.json()["error"], (path, wrong, answer.text)


@pytest.mark.parametrize("format", [name for name in archives.FORMATS if name != "hf"])
def test_a_filter_is_exported_in_every_format(curator: TestClient, workspace: Workspace, format: str) -> None:
    add_injected(workspace)
    draw(workspace, ids_of(workspace)[0], "annotator", 10)
    with workspace.catalog(read_only=True) as catalog:
        hands = {one.id for one in catalog.images.find(category="hands")}
        labelled = hands & {label.image_id for label in catalog.labels.of_images(sorted(hands))}
    job = ordered(curator, "export", images={"category": "hands"}, format=format)
    assert curator.get(f"/api/curate/work/export/{job}.zip").status_code == 409
    result = run(workspace, job)
    answer = curator.get(f"/api/curate/work/export/{job}.zip")
    assert answer.headers["content-type"] == "application/zip" and len(answer.content) == result["bytes"]
    names = zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    images = {name.rpartition("/")[2].partition(".")[0] for name in names if name.endswith(".png")}
    expected = {"yolo": labelled, "predictions": set()}.get(format, hands)
    assert {name for name in images if name in hands or name == "injected"} == expected
    assert not archive_of(workspace, result_run(workspace, job)).with_suffix("").exists()


def result_run(workspace: Workspace, job_id: str) -> str:
    with workspace.catalog(read_only=True) as catalog:
        return str(catalog.jobs.get(job_id).args["run"])


def test_an_export_keeps_licences_and_goes_after_a_day(curator: TestClient, workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        image = catalog.images.find()[0]
        catalog.images.describe(image.id, licence="CC-BY-4.0")
        catalog.commit()
    job = ordered(curator, "export", format="masks", pictures=False)
    result = run(workspace, job)
    archive = archive_of(workspace, result_run(workspace, job))
    with zipfile.ZipFile(archive) as packed:
        rows = csv.DictReader(io.StringIO(packed.read("images/metadata.csv").decode()))
        licences = {row["file_name"].partition(".")[0]: row["licence"] for row in rows}
        assert licences[image.id] == "CC-BY-4.0" and len(licences) == 8 == result["images"]
        assert not [name for name in packed.namelist() if name.endswith(".png")]
    past = now() - KEPT_SECONDS - 1
    os.utime(archive, (past, past))
    gone = curator.get(f"/api/curate/work/export/{job}.zip")
    assert gone.status_code == 404 and "after a day" in gone.json()["error"] and not archive.exists()


def test_an_erasure_takes_the_archives_with_it(curator: TestClient, workspace: Workspace) -> None:
    job = ordered(curator, "export")
    run(workspace, job)
    erase_images(workspace, ids_of(workspace)[:1], "admin")
    with pytest.raises(NotFound):
        archives.exported_archive(workspace, job)


@pytest.fixture(params=["folder", "store"])
def team(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Workspace, Workspace]]:
    """One workspace as the server's machine and as the worker's see it: folders of their own, one catalog,
    and blobs in a shared folder or in an object store."""
    blobs = str(tmp_path / "shared") if request.param == "folder" else f"memory://{tmp_path.name}-team"
    url = f"sqlite:///{tmp_path}/catalog.sqlite"
    server = create_workspace(tmp_path / "server", database_url=url, blob_url=blobs)
    furnish(server)
    add_people(server)
    worker = open_workspace(tmp_path / "worker", database_url=url, blob_url=blobs)
    yield server, worker
    server.close()
    worker.close()


def test_an_export_is_downloaded_from_another_machine(team: tuple[Workspace, Workspace]) -> None:
    """It goes through the blob store, is kept by garbage collection for a day, and then deleted."""
    server, worker = team
    app = create_app(server, ServerConfig(desks=False))
    client = TestClient(app, base_url=ORIGIN, follow_redirects=False)
    sign_in(client, "curator")
    job = ordered(client, "export", format="masks")
    result = run(worker, job)
    assert not list(worker.path.glob("exports/*")) and not list(server.path.glob("exports/*"))
    collect(server, grace_seconds=0.0, most_share=1.0)
    assert server.blobs.has(result["blob"])
    answer = client.get(f"/api/curate/work/export/{job}.zip")
    assert answer.headers["content-type"] == "application/zip"
    assert "attachment" in answer.headers["content-disposition"]
    assert int(answer.headers["content-length"]) == len(answer.content) == result["bytes"]
    assert zipfile.ZipFile(io.BytesIO(answer.content)).testzip() is None
    with server.catalog() as catalog:
        catalog.connection.exec_driver_sql(f"UPDATE jobs SET finished = finished - {KEPT_SECONDS + 1}")
        catalog.commit()
    collect(server, most_share=1.0)
    assert not server.blobs.has(result["blob"])
    gone = client.get(f"/api/curate/work/export/{job}.zip")
    assert gone.status_code == 404 and "after a day" in gone.json()["error"]

    second = ordered(client, "export", format="masks")
    blob = run(worker, second)["blob"]
    erase_images(server, ids_of(server)[:1], "admin")
    assert not server.blobs.has(blob), "an erasure takes it along"
    assert client.get(f"/api/curate/work/export/{second}.zip").status_code == 404


def test_a_job_that_is_no_export_is_not_downloaded(curator: TestClient, workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        catalog.jobs.add(Job(id="j1", kind="backup", state="succeeded", result={"path": "/etc/passwd"}))
        catalog.commit()
    for id in ("j1", "none", "..%2F..%2Fcatalog"):
        assert curator.get(f"/api/curate/work/export/{id}.zip").status_code == 404


def test_a_pages_job_is_followed_and_cancelled(curator: TestClient, client_of: Clients) -> None:
    job = ordered(curator, "diagnose", detector="d1")
    seen = curator.get(f"/api/jobs/{job}").json()
    assert (seen["kind"], seen["state"], seen["worker"], seen["result"]) == ("diagnose", "queued", False, {})
    assert curator.post(f"/api/jobs/{job}/cancel").json() == {"state": "cancelled"}
    assert client_of("annotator").get(f"/api/jobs/{job}").status_code == 403
    assert curator.get("/api/jobs/none").status_code == 404


def test_engineers_register_what_admins_allowed(client_of: Clients, workspace: Workspace) -> None:
    """desks 1.8."""
    engineer = client_of("engineer")
    with workspace.catalog() as catalog:
        catalog.endpoints.add(Endpoint(id="g", kind="generator", name="ours", location="owner/flux"))
        catalog.commit()
    offered = engineer.get("/api/models/generator").json()
    assert [one["location"] for one in offered["models"]] == ["owner/flux", "clinic-flux", "clinic-sd"]
    assert not offered["may_allow"] and client_of("admin").get("/api/models/detector").json()["may_allow"]
    body = {"kind": "generator", "location": "owner/flux", "name": "Ours", "licence": "MIT"}
    job = engineer.post("/api/models/register", json=body).json()["job"]
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.jobs.get(job).args == {**body, "actor": "engineer"}
    for wrong in (
        {"kind": "generator", "location": "/etc"},
        {"kind": "detector", "location": "owner/flux"},
        {"kind": "scorer", "location": "owner/flux"},
        {"kind": "generator", "location": "owner/flux", "name": "x" * 101},
    ):
        assert engineer.post("/api/models/register", json=wrong).status_code == 422, wrong
    assert client_of("curator").get("/api/models/generator").status_code == 403
