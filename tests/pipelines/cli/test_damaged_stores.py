"""Damaged catalogs, older catalogs, emptied stores: one sentence from the commands and `/readyz`."""

import json
import shutil
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import app
from storage.opening import open_workspace
from storage.workspace import CATALOG_FILE, Workspace
from tests.storage.maintenance.test_salvage import IMAGES, cut, filled, magic, middle, nothing
from tests.storage.test_identity import filled as with_blobs
from tests.storage.test_identity import old
from ui.config import ServerConfig
from ui.server import NOT_READY, create_app

ORIGIN = "http://127.0.0.1"


def run(workspace: Workspace, *words: str) -> int:
    return app.main(["--workspace", str(workspace.path), *words])


@pytest.mark.parametrize("harm", [magic, middle, cut, nothing], ids=lambda harm: harm.__name__)
def test_every_command_says_that_the_catalog_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: object
) -> None:
    workspace = filled(tmp_path / "workspace")
    assert run(workspace, "status") == 0
    assert callable(harm)
    harm(workspace.catalog_file)
    commands = [("status",)] if harm is middle else [("status",), ("users",), ("gc",), ("backup",), ("app",)]
    for command in commands:
        capsys.readouterr()
        assert run(workspace, *command) == 1
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1 and "is damaged" in told[0] and "clinic salvage" in told[0]


def test_salvage_lists_what_was_lost_and_keeps_the_damaged_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = filled(tmp_path / "workspace")
    assert run(workspace, "salvage") == 1 and "is sound" in capsys.readouterr().err
    middle(workspace.catalog_file)
    assert run(workspace, "salvage") == 0
    told = capsys.readouterr().out
    assert "images: " in told and "an unknown number of rows may be lost" in told and "--replace" in told
    assert run(workspace, "salvage", "--replace") == 0
    assert len(list(workspace.path.glob("catalog.damaged-*.sqlite"))) == 1
    capsys.readouterr()
    assert run(workspace, "--json", "status") == 0
    kept = json.loads(capsys.readouterr().out)["overview"]["images"]
    assert 0 < sum(kept.values()) < IMAGES


def test_readyz_answers_for_catalog_and_blobs(tmp_path: Path) -> None:
    workspace = open_workspace(filled(tmp_path / "workspace").path)
    client = TestClient(create_app(workspace, ServerConfig(desks=False)), base_url=ORIGIN)
    assert (client.get("/readyz").status_code, client.get("/readyz").json()) == (200, {"status": "ready"})
    shutil.move(workspace.path / "blobs", tmp_path / "unmounted")
    refused = client.get("/readyz")
    assert (refused.status_code, refused.json()) == (503, {"error": NOT_READY})
    assert str(tmp_path) not in refused.text
    shutil.move(tmp_path / "unmounted", workspace.path / "blobs")
    assert client.get("/readyz").status_code == 200
    workspace.close()
    middle(workspace.catalog_file)
    again = TestClient(create_app(open_workspace(workspace.path), ServerConfig(desks=False)), base_url=ORIGIN)
    assert again.get("/readyz").json() == {"error": NOT_READY}
    workspace.close()


def test_an_older_catalog_beside_todays_blobs_says_what_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = with_blobs(tmp_path / "w")
    workspace.close()
    shutil.copy(workspace.catalog_file, tmp_path / "last-week.sqlite")
    workspace.blobs.put_many([f"this week {number}".encode() for number in range(10)])
    before = old(workspace)
    shutil.copy(tmp_path / "last-week.sqlite", workspace.path / CATALOG_FILE)
    assert run(workspace, "status") == 0
    assert "10 of 20 are not known to this catalog" in capsys.readouterr().out
    assert run(workspace, "gc") == 1
    assert "10 of 20 blobs would be cleared" in capsys.readouterr().err
    assert {blob.sha256 for blob in workspace.blobs.stored()} == before


def test_an_emptied_blob_store_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = with_blobs(tmp_path / "w")
    workspace.close()
    for blob in list(workspace.blobs.stored()):
        workspace.blobs.delete(blob.sha256)
    assert run(workspace, "status") == 0
    assert "10 of images and labels are missing; restore them" in capsys.readouterr().out
    assert run(workspace, "gc") == 0
    assert "10 blobs of images and labels are missing" in capsys.readouterr().out
    with open_workspace(workspace.path).catalog(read_only=True) as catalog:
        assert catalog.images.count() == 10, "nothing is replaced"


def test_a_trash_deleted_by_hand_is_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = with_blobs(tmp_path / "w")
    workspace.blobs.put(b"waste")
    workspace.close()
    old(workspace)
    assert run(workspace, "gc") == 0 and "1 blobs" in capsys.readouterr().out
    shutil.rmtree(workspace.path / "blobs" / "trash")
    assert run(workspace, "gc") == 0 and "cleared 0 maps and 0 blobs" in capsys.readouterr().out
    workspace.blobs.put(b"more waste")
    old(workspace)
    assert run(workspace, "gc") == 0 and "1 blobs" in capsys.readouterr().out
    assert len(list(workspace.blobs.trashed())) == 1
