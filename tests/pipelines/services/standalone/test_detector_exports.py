"""Exported detectors: which one is meant, what its card says, and the upload."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from dataengine.errors import ConfigRefused, InputRefused, NotFound
from dataengine.records import OperatingPoint, SnapshotItem
from pipelines.services.standalone import detector_exports
from pipelines.services.standalone.detector_exports import export_detector, tempered
from pipelines.services.standalone.models import find_detector
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.local_hub import Hub
from tests.pipelines.cli.test_commands import Console
from tests.pipelines.conftest import broken_picture

TOKEN = "hf_" + "x" * 34
METRICS = {
    "training": {"pretrained": "timm/of-imagenet"},
    "benchmark": {
        "images": 42,
        "pixel_ap": 0.6125,
        "miss": 0.9,
        "operating": {"miss": 0.125, "false_alarm": 0.25},
        "intervals": {"pixel_ap": [0.55, 0.67]},
    },
    "calibration": {"temperature": 2.0},
}


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """With a detector that was trained on a snapshot, measured and calibrated, called "trained"."""
    opened = create_workspace(tmp_path / "w")
    shipped = find_detector(opened, "clinic")
    image, label = broken_picture(opened, "a photo of a hand", 1)
    with opened.catalog() as catalog:
        catalog.images.add_many([replace(image, split="train")])
        catalog.labels.submit(label)
        catalog.commit()
    rows = [SnapshotItem(image_id=image.id, image_sha256=image.sha256, kind="true", target=label.label_map)]
    snapshot = opened.snapshots.publish(rows)
    point = OperatingPoint(flagged=0.2, component=0.1, rule="f2", flawed=30, clean=12)
    trained = replace(
        shipped,
        id="trained-1",
        name="trained | one",
        role="candidate",
        metrics=METRICS,
        operating_point=point,
        snapshot_id=snapshot.id,
        licence="CC-BY-NC-4.0",
        domain="",
    )
    with opened.catalog() as catalog:
        catalog.detectors.add(trained)
        catalog.commit()
    yield opened
    opened.close()


def test_the_card_states_data_figures_operating_point_and_licence(
    workspace: Workspace, tmp_path: Path
) -> None:
    done = export_detector("trained-1", tmp_path / "out", "transformers", workspace=workspace)
    assert done.files == ("README.md", "config.json", "model.safetensors", "preprocessor_config.json")
    assert done.difference <= 1e-5 and done.folder == tmp_path / "out"
    card = (tmp_path / "out" / "README.md").read_text()
    with workspace.catalog(read_only=True) as catalog:
        snapshot = catalog.detectors.get("trained-1").snapshot_id
    for words in (
        'license: "cc-by-nc-4.0"',
        "# trained \\| one",
        f"`{snapshot}`",
        "| train/true | 1 |",
        "timm/of-imagenet",
        "shape distortion, unreasonable content, watermark",
        "42 images",
        "| average precision of pixels | 0.6125 | 0.5500 – 0.6700 |",
        "| missed flawed images | 0.1250 | – |",
        "flags images from 0.2 and components from 0.1: f2 on 30 flawed",
        "confidence.max() >= 0.2)",
        "confidence >= 0.1 ",
        "**It forbids commercial use.**",
        "at most " + f"{done.difference:.1g}",
    ):
        assert words in card
    facts = json.loads((tmp_path / "out" / "config.json").read_text())["artifact_detector"]
    assert facts["flagged"] == 0.2 and facts["snapshot"] == snapshot and facts["licence"] == "CC-BY-NC-4.0"


def test_calibrated_logits_move_the_operating_point_with_them(workspace: Workspace, tmp_path: Path) -> None:
    export_detector("trained-1", tmp_path / "out", "transformers", workspace=workspace, calibrated=True)
    facts = json.loads((tmp_path / "out" / "config.json").read_text())["artifact_detector"]
    # logit(0.2) = −ln 4, so halving it gives σ(−ln 2) = 1/3; logit(0.1) = −ln 9 gives 1/4.
    assert facts["flagged"] == pytest.approx(1 / 3) and facts["component"] == pytest.approx(1 / 4)
    assert "calibrated by the temperature 2" in (tmp_path / "out" / "README.md").read_text()
    assert [tempered(end, 3.0) for end in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]


def test_what_cannot_be_exported_leaves_no_folder(workspace: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(NotFound, match="there is no detector 'trained'"):
        export_detector("trained", out, "transformers", workspace=workspace)
    shipped = find_detector(workspace, "clinic")
    with pytest.raises(ConfigRefused, match=r"never calibrated.*--calibrate"):
        export_detector(shipped.id, out, "transformers", workspace=workspace, calibrated=True)
    with pytest.raises(ConfigRefused, match="no export format"):
        export_detector("clinic", out, "tflite")
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(InputRefused, match="exists already"):
        export_detector("clinic", out, "transformers")
    assert [file.name for file in out.iterdir()] == ["mine.txt"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(tmp_path / "hub")
    server.writer = TOKEN
    for name, value in (
        ("ENDPOINT", server.url),
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_DISABLE_XET", True),
    ):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_folder_is_uploaded_as_it_is(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = export_detector("clinic", tmp_path / "out", "transformers", push_to="ada/flaws")
    assert done.url.startswith(hub.url)
    home = hub.folder / "ada" / "flaws"
    assert {file.name: file.read_bytes() for file in home.iterdir()} == {
        file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()
    }
    assert 'from_pretrained("ada/flaws")' in (home / "README.md").read_text()
    assert (hub.created[0]["name"], hub.created[0].get("type", "model")) == ("flaws", "model")
    assert hub.created[0].get("visibility") == "private" or hub.created[0].get("private") is True
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputRefused, match="the hub refused 'ada/other'"):
        export_detector("clinic", tmp_path / "again", "transformers", push_to="ada/other")
    assert (tmp_path / "again" / "config.json").is_file() and not (hub.folder / "ada" / "other").exists()


def test_the_command_takes_a_folder_without_a_workspace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import app

    monkeypatch.chdir(tmp_path)
    assert app.main(["detectors", "--export", "clinic", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "transformers"
    assert not (tmp_path / "workspace").exists()
    assert app.main(["detectors", "--export", "nothing", "other"]) == 1
    assert "workspace" in capsys.readouterr().err
    assert app.main(["detectors", "--export", "diffdoctor", "other"]) == 1
    assert "download its checkpoint" in capsys.readouterr().err and not (tmp_path / "other").exists()
    console = Console(tmp_path / "w", capsys)
    with_workspace = create_workspace(console.path)
    with_workspace.close()
    found = console.json("detectors", "--export", "clinic", str(tmp_path / "shipped"))
    assert found["licence"] == "Apache-2.0"
    status, _, error = console("detectors", "--half")
    assert status == 1 and "belong to --export" in error


def test_files_without_a_workspace_say_what_is_not_known(tmp_path: Path) -> None:
    shown = detector_exports.export_detector("clinic", tmp_path / "out", "transformers")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "training data are not recorded here" in card and "was not measured here" in card
    assert "knows nothing else" in card and shown.licence == "Apache-2.0"
