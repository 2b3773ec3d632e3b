"""Detectors of the hub through the HTTP calls of huggingface_hub, against a hub of this test."""

from pathlib import Path

import pytest
import torch

from dataengine.diagnosis.config import DetectorConfig
from dataengine.diagnosis.detector import NetworkDetector, save_detector
from dataengine.diagnosis.point_files import write_point
from dataengine.errors import ModelRefused
from dataengine.records import OperatingPoint
from pipelines.services.standalone.models import detector_files, display_name, find_detector
from storage.opening import create_workspace
from tests.local_hub import REVISION, Hub

SMALL = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}


def publish(hub: Hub, name: str) -> Path:
    folder = hub.folder / name
    save_detector(NetworkDetector.fresh(DetectorConfig(name="mine", segformer=SMALL, size=32)), folder)
    return folder


def test_a_detector_folder_is_fetched_once_with_its_operating_point(hub: Hub, tmp_path: Path) -> None:
    folder = publish(hub, "ada/eyes")
    write_point(folder, OperatingPoint(flagged=0.7, component=0.4, rule="test"))
    (folder / "run.py").write_text("open('ran', 'w')")
    (folder / "training.ckpt").write_bytes(b"large")
    workspace = create_workspace(tmp_path / "w")
    version = find_detector(workspace, f"ada/eyes@{REVISION}")
    assert version.name == "ada/eyes" == display_name("ada/eyes@main")
    assert version.operating_point is not None and version.operating_point.flagged == 0.7
    fetched = list(hub.downloads)
    assert not {"run.py", "training.ckpt"} & set(fetched) and "model.safetensors" in fetched
    assert find_detector(workspace, f"ada/eyes@{REVISION}").id == version.id and hub.downloads == fetched
    workspace.close()


def test_a_single_file_of_weights_and_pickled_ones_only_where_there_are_no_others(
    hub: Hub, tmp_path: Path
) -> None:
    folder = publish(hub, "ada/both")
    (folder / "old.bin").write_bytes(b"pickle")
    assert detector_files("ada/both", tmp_path).is_dir() and "old.bin" not in hub.downloads
    (hub.folder / "ada/one").mkdir()
    torch.save({}, hub.folder / "ada/one/ad_pytorch_model.bin")
    assert detector_files("ada/one", tmp_path).name == "ad_pytorch_model.bin"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "nor a repository that can be fetched"),
        (("README.md",), "neither detector.json nor config.json, and 0 files"),
        (("a.pt", "b.pth"), "and 2 files of weights"),
    ],
)
def test_what_is_no_detector_is_one_sentence(
    files: tuple[str, ...], said: str, hub: Hub, tmp_path: Path
) -> None:
    (hub.folder / "ada/none").mkdir(parents=True)
    for name in files:
        (hub.folder / "ada/none" / name).write_text("x")
    with pytest.raises(ModelRefused, match=said):
        detector_files("ada/none", tmp_path)


def test_a_gated_repository_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    publish(hub, "ada/gated")
    hub.gated["ada/gated"] = "secret"
    with pytest.raises(ModelRefused, match="can be fetched"):
        detector_files("ada/gated", tmp_path)
