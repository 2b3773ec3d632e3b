"""What pycocotools and `datasets` read from our exports, pixel by pixel; others do in `make test-peers`."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image as Picture
from pycocotools.coco import COCO

from dataengine.records import SnapshotItem
from pipelines.exchange.writers.hub import export_snapshot
from pipelines.exchange.writers.snapshot_folder import export_folder
from storage.workspace import Workspace
from tests.pipelines.exchange.labelled import CLASSES, labelled_images


@pytest.mark.parametrize(
    ("format", "file", "home"), [("coco", "coco.json", "images"), ("fiftyone", "labels.json", "data")]
)
def test_pycocotools(format: str, file: str, home: str, fresh: Workspace, tmp_path: Path) -> None:
    expected = labelled_images(fresh, tmp_path / "from")
    folder = export_folder(fresh, tmp_path / "out", format=format).folder
    coco = COCO(str(folder / file))
    assert tuple(one["name"] for one in coco.loadCats(coco.getCatIds())) == CLASSES
    found = {}
    for image in coco.loadImgs(coco.getImgIds()):
        assert Picture.open(folder / home / image["file_name"]).size == (image["width"], image["height"])
        label_map = np.zeros((image["height"], image["width"]), np.uint8)
        for one in coco.loadAnns(coco.getAnnIds(image["id"])):
            mask = coco.annToMask(one).astype(bool)
            x, y, width, height = one["bbox"]
            assert mask.sum() == one["area"] == mask[y : y + height, x : x + width].sum()
            assert not label_map[mask].any()
            label_map[mask] = one["category_id"]
        found[Path(image["file_name"]).stem] = label_map
    assert_equal(found, expected)


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, label_map in expected.items():
        assert np.array_equal(found[name], label_map), name


def test_datasets_of_a_snapshot(fresh: Workspace, tmp_path: Path) -> None:
    expected = labelled_images(fresh, tmp_path / "from")
    with fresh.catalog(read_only=True) as catalog:
        images = {image.id: image for image in catalog.images.find()}
        labels = {label.image_id: label for label in catalog.labels.of_images(list(images))}
    snapshot = fresh.snapshots.publish(
        SnapshotItem(
            image_id=key, image_sha256=image.sha256, kind="true", author="ada", split=image.split,
            target=labels[key].label_map,
        )
        for key, image in images.items()
    )  # fmt: skip
    export_snapshot(fresh, snapshot.id, tmp_path / "out")
    cache = str(tmp_path / "cache")
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=cache)
    assert_equal({row["image_id"]: np.asarray(row["label_map"]) for row in rows}, expected)
    for row in rows:
        original = Picture.open(io.BytesIO(fresh.blobs.get(images[row["image_id"]].sha256)))
        assert np.array_equal(np.asarray(row["image"]), np.asarray(original))


def test_datasets_of_a_folder_of_images(fresh: Workspace, tmp_path: Path) -> None:
    """The table beside the images is one that `imagefolder` reads."""
    labelled_images(fresh, tmp_path / "from")
    folder = export_folder(fresh, tmp_path / "out", format="masks").folder / "images"
    rows = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    with fresh.catalog(read_only=True) as catalog:
        images = {image.group: image for image in catalog.images.find()}
    assert len(rows) == len(images)
    for row in rows:
        image = images[row["group"]]
        original = Picture.open(io.BytesIO(fresh.blobs.get(image.sha256)))
        assert np.array_equal(np.asarray(row["image"]), np.asarray(original))
        assert row["split"] == image.split
