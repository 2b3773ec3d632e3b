"""`--format yolo`, read by a parser that knows the format's description alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from dataengine.images import decode
from dataengine.masks import pack_label_map
from dataengine.records import Label
from pipelines.exchange.readers.folders import import_folder
from pipelines.exchange.writers.snapshot_folder import export_folder
from storage.workspace import Workspace
from tests.pipelines.exchange import pictures
from tests.pipelines.exchange.labelled import CLASSES, labelled_images
from tests.pipelines.exchange.test_outlines import filled


def read(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Label maps by image id and split: for every image of `data.yaml` the label file of the same name, in
    whose lines a class from 0 is followed by x and y as shares of the image's sides."""
    described = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))
    assert "path" not in described
    found: dict[str, dict[str, np.ndarray]] = {}
    for split in ("train", "val", "test"):
        found[split] = {}
        images = folder / described[split]
        for image in sorted(images.iterdir()):
            height, width = decode(image.read_bytes()).shape[:2]
            label_map = np.zeros((height, width), np.uint8)
            lines = Path(str(image.parent).replace("images", "labels"), f"{image.stem}.txt").read_text()
            for line in lines.splitlines():
                number, *numbers = line.split()
                assert described["names"][int(number)] == CLASSES[int(number)]
                points = np.array(numbers, dtype=np.float64).reshape(-1, 2)
                assert points.min() >= 0 and points.max() <= 1 and len(points) >= 3
                label_map[filled(points * (width, height), height, width)] = int(number) + 1
            found[split][image.stem] = label_map
    return found


def test_every_label_map_comes_back_and_the_clean_image_has_an_empty_file(
    fresh: Workspace, tmp_path: Path
) -> None:
    expected = labelled_images(fresh, tmp_path / "images")
    done = export_folder(fresh, tmp_path / "out", format="yolo")
    found = read(done.folder)
    assert found["val"] == found["test"] == {} and found["train"].keys() == expected.keys()
    for name, label_map in expected.items():
        assert np.array_equal(found["train"][name], label_map)
    sizes = [file.stat().st_size for file in (done.folder / "labels" / "train").iterdir()]
    assert sizes.count(0) == 1 and done.images == len(expected)
    assert any("no image of split validation is labelled" in loss for loss in done.losses)
    assert not any("split train" in loss or "benchmark" in loss for loss in done.losses)


@pytest.fixture
def several(fresh: Workspace, tmp_path: Path) -> dict[str, str]:
    """One image of each split, a GIF and one without a label; their ids by name."""
    shares = {
        "train": {},
        "validation": {"validation": 0.9999},
        "benchmark": {"validation": 0.0, "benchmark": 0.9999},
    }
    for number, (split, share) in enumerate(shares.items()):
        folder = tmp_path / split
        folder.mkdir()
        (folder / f"{split}.png").write_bytes(pictures.encoded(pictures.scene(number, 40, 30)))
        if split == "train":
            (folder / "unlabelled.png").write_bytes(pictures.encoded(pictures.scene(8, 40, 30)))
            (folder / "moving.gif").write_bytes(pictures.encoded(pictures.scene(9, 40, 30), "GIF"))
        import_folder(fresh, folder, **({"validation": 0.0} | share))
    with fresh.catalog(read_only=True) as catalog:
        ids = {image.origin.rpartition(".")[0]: image.id for image in catalog.images.find()}
    assert len(ids) == 5
    return ids


def test_splits_several_people_and_kinds_of_files(
    fresh: Workspace, several: dict[str, str], tmp_path: Path
) -> None:
    def drawn(*rows: int) -> str:
        label_map = np.zeros((40, 30), np.uint8)
        for row in rows:
            label_map[row : row + 4, 5:20] = 2
        return fresh.blobs.put(pack_label_map(label_map))

    label = Label(image_id=several["train"], author="ada", height=40, width=30, label_map=drawn(2, 20))
    with fresh.catalog() as catalog:
        catalog.labels.submit(label)
        catalog.labels.submit(replace(label, author="ben", label_map=drawn(2)))
        catalog.labels.submit(replace(label, author="eve", label_map=None, clean=True))
        for name in ("validation", "benchmark", "moving"):
            catalog.labels.submit(replace(label, image_id=several[name], label_map=drawn(8)))
        catalog.commit()
    found = read(export_folder(fresh, tmp_path / "out", format="yolo").folder)
    assert {split: set(each) for split, each in found.items()} == {
        "train": {several["train"], several["moving"]},
        "val": {several["validation"]},
        "test": {several["benchmark"]},
    }
    # Two of three marked the first rows, one of three the others.
    rows = np.flatnonzero(found["train"][several["train"]].any(axis=1))
    assert rows.tolist() == [2, 3, 4, 5]
    assert (tmp_path / "out" / "images" / "train" / f"{several['moving']}.png").is_file()
    bare = export_folder(fresh, tmp_path / "bare", format="yolo", pictures=False).folder
    assert len(list((bare / "labels").rglob("*.txt"))) == 4 and not list((bare / "images").rglob("*.*"))
