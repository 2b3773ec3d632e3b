"""Export: originals, masks, tables and COCO that pycocotools and our own import read back."""

import csv
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from pycocotools import mask as mask_codes
from pycocotools.coco import COCO

from dataengine.csv_files import unescape_row
from dataengine.errors import Cancelled, Corrupt, InputRefused
from dataengine.masks import components, pack_label_map
from dataengine.records import DetectorVersion, Image, Label, Prediction
from pipelines.exchange.readers.folders import import_folder
from pipelines.exchange.writers import snapshot_folder
from pipelines.exchange.writers.snapshot_folder import export_folder, find_pages, iter_labelled_images
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.pipelines.exchange import pictures


def ring(size: tuple[int, int]) -> np.ndarray:
    """Class 1 with a hole, class 3 in a corner: what outlines alone would lose."""
    label_map = np.zeros(size, dtype=np.uint8)
    label_map[10:40, 10:40] = 1
    label_map[20:30, 20:30] = 0
    label_map[-5:, -5:] = 3
    return label_map


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    workspace = create_workspace(tmp_path / "w", blob_url=f"memory://{uuid.uuid4().hex}")
    source = tmp_path / "source"
    source.mkdir()
    for number in range(5):
        kind = "JPEG" if number % 2 else "PNG"
        data = pictures.encoded(pictures.scene(number), kind)
        (source / f"{number}.{kind.lower()}").write_bytes(data)
    (source / "metadata.csv").write_text(
        'file_name,prompt,seed\n0.png,"a hand, ""open""\nwide",3\n2.png,=1+1,4\n'
    )
    import_folder(workspace, source, licence="CC0", source="generated")
    images = images_of(workspace)
    with workspace.catalog() as catalog:
        for author, label_map in (("ada", ring((96, 128))), ("Jürgen/../x", np.full((96, 128), 2, np.uint8))):
            packed = workspace.blobs.put(pack_label_map(label_map))
            catalog.labels.submit(
                Label(image_id=images[0].id, author=author, height=96, width=128, label_map=packed)
            )
        catalog.labels.submit(Label(image_id=images[1].id, author="ada", height=96, width=128, clean=True))
        catalog.commit()
    yield workspace
    workspace.close()


def images_of(workspace: Workspace) -> list[Image]:
    with workspace.catalog(read_only=True) as catalog:
        return catalog.images.find()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_everything_is_there_and_comes_back(workspace: Workspace, tmp_path: Path) -> None:
    result = export_folder(workspace, tmp_path / "out")
    assert (result.images, result.masks, result.annotations) == (5, 2, 3)
    assert sorted(p.name for p in result.folder.iterdir()) == ["coco.json", "images", "labels.csv", "masks"]
    raw = rows(result.folder / "images" / "metadata.csv")
    assert [row["prompt"] for row in raw if "1+1" in row["prompt"]] == ["'=1+1"], (
        "no formula for spreadsheets"
    )
    listed = {row["file_name"]: unescape_row(row) for row in raw}
    for image in images_of(workspace):
        name = next(name for name in listed if name.startswith(image.id))
        assert (result.folder / "images" / name).read_bytes() == workspace.blobs.get(image.sha256)
        assert listed[name]["prompt"] == image.prompt and listed[name]["sha256"] == image.sha256
        assert listed[name]["seed"] == ("" if image.seed is None else str(image.seed))

    other = create_workspace(tmp_path / "other")
    again = import_folder(other, result.folder / "images")
    assert again.added == 5 and not again.refused
    kept = {image.id: (image.prompt, image.seed, image.licence) for image in images_of(other)}
    assert kept == {image.id: (image.prompt, image.seed, "CC0") for image in images_of(workspace)}
    other.close()


def test_masks_and_coco_agree(workspace: Workspace, tmp_path: Path) -> None:
    folder = export_folder(workspace, tmp_path / "out").folder
    labels = {row["author"]: row for row in rows(folder / "labels.csv") if row["mask"]}
    with Picture.open(folder / "masks" / labels["ada"]["mask"]) as mask:
        assert mask.mode == "L" and np.array_equal(np.asarray(mask), ring((96, 128)))
    assert all("/" not in row["mask"] for row in labels.values())
    clean = [row for row in rows(folder / "labels.csv") if row["clean"] == "1"]
    assert len(clean) == 1 and clean[0]["mask"] == ""

    coco = COCO(str(folder / "coco.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == [
        "shape distortion",
        "unreasonable content",
        "watermark",
    ]
    mine = [one for one in coco.loadAnns(coco.getAnnIds()) if one["author"] == "ada"]
    assert len(mine) == components(ring((96, 128)))[1] == 2
    drawn = np.zeros((96, 128), dtype=np.uint8)
    for annotation in mine:
        drawn[coco.annToMask(annotation) == 1] = annotation["category_id"]
        assert annotation["area"] == coco.annToMask(annotation).sum()
        x, y, width, height = annotation["bbox"]
        assert coco.annToMask(annotation)[y : y + height, x : x + width].sum() == annotation["area"]
    assert np.array_equal(drawn, ring((96, 128)))
    names = {image["file_name"] for image in coco.loadImgs(coco.getImgIds())}
    assert names == {p.name for p in (folder / "images").iterdir()} - {"metadata.csv"}


def test_fiftyone_finds_what_its_coco_reader_needs(workspace: Workspace, tmp_path: Path) -> None:
    """FiftyOne is not installed here; this is what `fiftyone.utils.coco` reads of a COCODetectionDataset:
    pictures by name below data/, their sizes, classes by id, and the mask within each box.
    """
    folder = export_folder(workspace, tmp_path / "out", format="fiftyone").folder
    said = json.loads((folder / "labels.json").read_text())
    assert [one["id"] for one in said["categories"]] == [1, 2, 3]
    sizes = {one["id"]: (one["height"], one["width"]) for one in said["images"]}
    for one in said["images"]:
        with Picture.open(folder / "data" / one["file_name"]) as opened:
            assert opened.size == (one["width"], one["height"])
    drawn = np.zeros((96, 128), dtype=np.uint8)
    assert {one["author"] for one in said["annotations"]} == {"ada", "Jürgen/../x"}
    for one in said["annotations"]:
        assert isinstance(one["iscrowd"], int) and sizes[one["image_id"]] == (96, 128)
        left, top, width, height = one["bbox"]
        inside = mask_codes.decode(one["segmentation"])[top : top + height, left : left + width]
        assert inside.sum() == one["area"]
        if one["author"] == "ada":
            drawn[top : top + height, left : left + width][inside == 1] = one["category_id"]
    assert np.array_equal(drawn, ring((96, 128)))


def test_pages_filters_and_order(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(iter_labelled_images(workspace, find_pages(workspace)))
    for page in (1, 2, 5):
        monkeypatch.setattr(snapshot_folder, "PAGE", page)
        assert list(iter_labelled_images(workspace, find_pages(workspace))) == whole
    assert [image for image, labels in whole] == images_of(workspace)
    assert [image for image, labels in iter_labelled_images(workspace, find_pages(workspace), True)] == [
        image for image, labels in whole if labels
    ]
    assert [
        image.prompt for image, _ in iter_labelled_images(workspace, find_pages(workspace, has_prompt=True))
    ] == [image.prompt for image in images_of(workspace) if image.prompt]


def test_the_folder_appears_whole_or_not_at_all(workspace: Workspace, tmp_path: Path) -> None:
    def cancel(done: float, total: int, message: str = "", **figures: float) -> None:
        if done == 3:
            raise Cancelled("stop")

    out = tmp_path / "exports" / "out"
    with pytest.raises(Cancelled):
        export_folder(workspace, out, report=cancel)
    image = images_of(workspace)[4]
    data = workspace.blobs.get(image.sha256)
    key = f"{workspace.blobs.root}/{image.sha256[:2]}/{image.sha256}"
    workspace.blobs.fs.pipe_file(key, b"damage")
    with pytest.raises(Corrupt):
        export_folder(workspace, out)
    assert not list((tmp_path / "exports").iterdir())
    workspace.blobs.fs.pipe_file(key, data)
    assert export_folder(workspace, out).images == 5
    with pytest.raises(InputRefused, match="exists already"):
        export_folder(workspace, out)
    assert [p.name for p in (tmp_path / "exports").iterdir()] == ["out"]


def test_no_cell_of_any_table_is_a_formula(workspace: Workspace, tmp_path: Path) -> None:
    image = images_of(workspace)[0]
    with workspace.catalog() as catalog:
        author = "=HYPERLINK(1)"
        catalog.labels.submit(Label(image_id=image.id, author=author, height=96, width=128, clean=True))
        catalog.detectors.add(DetectorVersion(id="+d", name="d", checkpoint="x"))
        catalog.predictions.add_many(
            [Prediction(image_id=image.id, detector_id="+d", max=-1e-3, mean=0, uncertainty=0)]
        )
        catalog.commit()
    for format in ("folder", "masks", "predictions"):
        export_folder(workspace, tmp_path / format, format=format)
    tables = sorted(tmp_path.glob("*/**/*.csv"))
    cells = [
        cell for path in tables if "source" not in path.parts for row in rows(path) for cell in row.values()
    ]
    assert len(tables) >= 6 and {"'=1+1", "'=HYPERLINK(1)", "'+d", "-0.001"} <= set(cells)
    assert [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "\r"))] == []
