"""What the desks show and do, without a browser."""

import json

import numpy as np
import pytest
from gradio_client import Client

from dataengine.errors import ConfigRefused, InputRefused, NotFound
from dataengine.records import BenchmarkItem, DetectorVersion, Job, now
from pipelines import requests
from storage.workspace import Workspace
from tests.ui.conftest import PASSWORD
from ui import admin, train, treat
from ui.desk import ago, facts, short, size
from ui.pictures import TILE, decode, heat, strip


def items(panel: dict) -> list:
    return panel["items"]


def test_training_shows_champion_table_and_curve(workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        newer = DetectorVersion(
            id="d2",
            name="round 1",
            checkpoint="1" * 64,
            round_id="r9",
            metrics={"mse": 0.01, "hard": {"mse": 0.5}},
        )
        catalog.detectors.add(newer)
        catalog.jobs.add(Job(id="j", kind="stage", args={"round_id": "r9", "stage": "retrain"}))
        catalog.commit()
    folder = requests.job_folder(workspace, "j")
    folder.mkdir(parents=True)
    lines = [{"time": 1.0, "done": step, "total": 9, "loss": 1 / (1 + step), "mse": 0.1} for step in range(9)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures, table, choice = train.overview(workspace)
    assert items(figures)[0]["value"] == "first doctor" and choice["value"] == "d1"
    assert list(table["name"]) == ["round 1", "first doctor"] and list(table["hard.mse"]) == ["0.5", "–"]
    metrics, _, curves, plot = train.details(workspace, "d2")
    assert ["hard.mse", "0.5"] in items(metrics) and curves["choices"] == ["loss", "mse"] and plot["visible"]
    points = train.curve(train.lines_of(workspace, "d2"), "loss")
    assert list(points["step"]) == list(range(9)) and points["value"][1] == 0.5


def test_promoting_by_hand_needs_a_benchmark_and_is_kept_with_its_reason(workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        catalog.detectors.add(DetectorVersion(id="d2", name="round 1", checkpoint="1" * 64))
        catalog.commit()
    with pytest.raises(ConfigRefused, match="no frozen benchmark"):
        train.change_champion(workspace, "engineer", "d2", "fewer false alarms")
    with workspace.catalog() as catalog:
        item = BenchmarkItem(image_id=catalog.images.ids(limit=1)[0], stratum="hands", settled=True)
        draft = catalog.benchmarks.draft("first", [item], "curator")
        catalog.benchmarks.freeze(draft.id, "curator")
        catalog.commit()
    train.change_champion(workspace, "engineer", "d2", "fewer false alarms")
    with workspace.catalog(read_only=True) as catalog:
        champion, event = catalog.detectors.champion(), catalog.audit.list(actor="engineer")[0]
    assert champion is not None and champion.id == "d2" and event.details["reason"] == "fewer false alarms"
    with pytest.raises(NotFound, match="no detector is chosen"):
        train.change_champion(workspace, "engineer", None, "")


def test_treatments_pair_the_same_prompt_and_seed(workspace: Workspace) -> None:
    with workspace.catalog(read_only=True) as catalog:
        pairs = treat.before_and_after(catalog, catalog.treatments.get("t1"))
    assert len(pairs) == 4
    for before, after in pairs:
        assert (before.generator_id, after.generator_id) == ("base", "treated")
        assert (before.prompt, before.seed) == (after.prompt, after.seed)
    figures, gallery, results, _, plot = treat.details(workspace, "t1")
    assert [item["value"] for item in items(figures)] == ["0.41", "0.01", "30 / 40"]
    assert list(plot["value"]["value"]) == [0.5, 0.3] and plot["visible"]
    assert gallery[0][0].shape == (TILE, 4 * TILE + 12, 3) and ["kept", "30"] in items(results)
    assert treat.details(workspace, None)[1] == []


def test_the_first_account_must_be_admin_and_one_always_stays(bare: Workspace) -> None:
    def create(name: str, *roles: str) -> None:
        admin.change(bare, lambda catalog: admin.create_person(catalog, name, PASSWORD, roles, "local"))

    with pytest.raises(InputRefused, match="first account"):
        create("ann", "annotator")
    create("boss", "admin")
    create("ann", "annotator")
    with pytest.raises(InputRefused, match="no active admin"):
        admin.change(bare, lambda catalog: admin.set_roles_safely(catalog, "boss", ["rater"], "boss"))
    with pytest.raises(InputRefused, match="no active admin"):
        admin.change(bare, lambda catalog: admin.set_active_safely(catalog, "boss", False, "boss"))
    admin.change(bare, lambda catalog: admin.set_active_safely(catalog, "ann", False, "boss"))
    table, choice = admin.people_table(bare)
    assert list(table["state"]) == ["closed", "active"] and choice["choices"] == ["ann", "boss"]
    assert "user.close" in list(admin.audit_table(bare)["did"])


def test_system_panels_and_disk_use(workspace: Workspace) -> None:
    figures, _, backups = admin.system_panels(workspace)
    assert items(figures)[1] == {"value": "8", "label": "images"} and items(backups) == []
    names = [name for name, _ in items(admin.disk_use(workspace))]
    assert "blobs" in names and "catalog.sqlite" in names


def test_through_gradios_own_client(live: tuple[str, Workspace]) -> None:
    url, workspace = live
    import httpx

    def cookie(name: str) -> dict[str, str]:
        answer = httpx.post(f"{url}/api/login", json={"name": name, "password": PASSWORD})
        return {"Cookie": answer.headers["set-cookie"].split(";")[0]}

    client = Client(f"{url}/admin/", headers=cookie("admin"), download_files=False, verbose=False)
    client.predict("guest", PASSWORD, ["rater"], api_name="/add_person")
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.users.get("guest").roles == ("rater",)
        assert catalog.audit.list(action="user.create", actor="admin")
    with pytest.raises(Exception, match="already"):
        client.predict("guest", PASSWORD, ["rater"], api_name="/add_person")
    for name in ("rater", "engineer"):
        with pytest.raises(Exception):  # noqa: B017 the client has no error of its own for 403
            Client(f"{url}/admin/", headers=cookie(name), download_files=False, verbose=False)


def test_words_for_numbers() -> None:
    assert [short(value) for value in (True, None, 12345, 0.123456, "x")] == [
        "yes",
        "–",
        "12,345",
        "0.123",
        "x",
    ]
    assert [size(value) for value in (12, 1500, 2.5e9, 3e12)] == ["12 B", "1.5 kB", "2.5 GB", "3.0 TB"]
    assert [ago(now() - seconds) for seconds in (5, 120, 7300, 200_000)] == [
        "5 s ago",
        "2 min ago",
        "2 h ago",
        "2 d ago",
    ]
    assert [short(value) for value in ([1, 2.5], [], [[1]], list(range(9)))] == [
        "1, 2.5",
        "none",
        "1 values",
        "9 values",
    ]
    assert facts({"a_b": 1, "c": {"d": 0.5}}) == [["a b", "1"], ["c.d", "0.5"]]


def test_heat_glows_where_confidence_is_high() -> None:
    image = np.full((8, 8, 3), 200, np.uint8)
    confidence = np.zeros((4, 4), np.uint8)
    confidence[0, 0] = 255
    shown = heat(image, confidence)
    assert shown.shape == image.shape and shown[0, 0, 0] > 200 and tuple(shown[7, 7]) == (90, 90, 90)
    assert strip([image, image], 16).shape == (16, 36, 3)
    with pytest.raises(InputRefused):
        decode(b"no picture")
