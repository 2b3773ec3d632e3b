"""What others read from our COCO and YOLO exports, pixel by pixel (`make test-peers`)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.exchange.writers.snapshot_folder import export_folder
from storage.workspace import Workspace
from tests.peers.read_with import PEERS
from tests.pipelines.exchange.conftest import _bare, fresh  # noqa: F401 (fixtures)
from tests.pipelines.exchange.labelled import CLASSES, labelled_images

pytestmark = [pytest.mark.peers, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / "build" / "peers-venv" / "bin" / "python"
ULTRALYTICS = ROOT / "build" / "ultralytics"
"""Without the libraries that it needs, which are among ours."""
FORMATS = {"supervision": "coco", "datumaro": "coco", "fiftyone": "fiftyone", "ultralytics": "yolo"}


@pytest.fixture
def labelled(fresh: Workspace, tmp_path: Path) -> tuple[Workspace, dict[str, np.ndarray]]:  # noqa: F811
    """A workspace of one image for each label map, and the maps by the images' ids."""
    return fresh, labelled_images(fresh, tmp_path / "images")


@pytest.mark.parametrize("peer", PEERS)
def test_label_maps_are_equal(
    peer: str, labelled: tuple[Workspace, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    workspace, expected = labelled
    folder = export_folder(workspace, tmp_path / "out", format=FORMATS[peer]).folder
    python = sys.executable if peer == "ultralytics" else str(PYTHON)
    program = [python, str(ROOT / "tests" / "peers" / "read_with.py")]
    done = subprocess.run(
        [*program, peer, str(folder), str(tmp_path / "read.npz"), *CLASSES],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ULTRALYTICS) if peer == "ultralytics" else "",
            "YOLO_CONFIG_DIR": str(tmp_path / "settings"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "read.npz") as read:
        found = {Path(name).stem: read[name] for name in read.files}
    assert found.keys() == expected.keys()
    for name, label_map in expected.items():
        assert np.array_equal(found[name], label_map), name
