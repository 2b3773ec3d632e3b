"""COCO as other tools lay it out: where files and images are found, and what their places say."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as pycoco

from dataengine.errors import InputRefused
from pipelines.exchange.metadata import split_named
from pipelines.exchange.readers.coco_files import find_files
from storage.workspace import Workspace
from tests.pipelines.exchange.labelled import (
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    boxed,
    mark,
    picture,
    said,
    take,
    verdicts,
)


def coco(path: Path, names: list[str], annotations: list[Any] | None = None, **more: Any) -> Path:
    """A COCO file of images of these names, the first of which has a mark."""
    images = [
        {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH}
        for number, name in enumerate(names)
    ]
    whole = {
        "images": images,
        "annotations": [mark(0)] if annotations is None else annotations,
        "categories": [{"id": 1, "name": "shape distortion"}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole | more))
    return path


def splits(workspace: Workspace) -> dict[str, str]:
    return {name: image.split for name, (image, _) in said(workspace).items()}


LAYOUTS = {
    "CVAT": ("annotations/instances_Train.json", "images/Train/a.png"),
    "CVAT without subsets": ("annotations/instances_default.json", "images/a.png"),
    "datumaro": ("annotations/instances_default.json", "images/default/a.png"),
    "cocodataset.org": ("annotations/instances_train2017.json", "train2017/a.png"),
    "Roboflow": ("train/_annotations.coco.json", "train/a.png"),
    "Label Studio": ("result.json", "images/a.png"),
    "FiftyOne": ("labels.json", "data/a.png"),
    "FiftyOne by splits": ("train/labels.json", "train/data/a.png"),
    "beside each other": ("my.json", "a.png"),
    "a folder for each split": ("val/val.json", "val/a.png"),
    "another name": ("annotations/train.json", "images/a.png"),
}


@pytest.mark.parametrize("zipped", [False, "/", "\\"], ids=["folder", "zip", "zip from Windows"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_other_tools(layout: str, zipped: str | bool, fresh: Workspace, tmp_path: Path) -> None:
    file, image = LAYOUTS[layout]
    root = tmp_path / "set"
    coco(root / file, ["a.png"])
    picture(root / image)
    result = take(fresh, "coco", packed(root, str(zipped)) if zipped else root)
    assert (result.added, result.labels, result.refused) == (1, 1, ())
    assert verdicts(fresh) == {"a.png": 400}


def packed(root: Path, separator: str) -> Path:
    """A zip whose members' names start with the folder's, folders too as Windows writes them."""
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for member in sorted(root.rglob("*")):
            name = member.relative_to(root.parent).as_posix() + "/" * member.is_dir()
            about = zipfile.ZipInfo("x")
            about.filename = name.replace("/", separator)
            archive.writestr(about, b"" if member.is_dir() else member.read_bytes())
    return path


@pytest.mark.parametrize(
    ("first", "second"),
    [(r"a\b.txt", "a/b.txt"), (r"..\b.txt", None), (r"a\..\..\b.txt", None), (r"\b.txt", None)],
)
def test_backslashes_lead_no_further_than_slashes(
    first: str, second: str | None, fresh: Workspace, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in filter(None, (first, second)):
            archive.writestr(name, b"x")
    with pytest.raises(InputRefused, match="twice" if second else "leads out"):
        take(fresh, "coco", tmp_path / "set.zip")
    assert not (tmp_path / "b.txt").exists()


NAMES = {
    "images/a.png": "images/a.png",
    "a.png": "images/a.png",
    "./a.png": "images/a.png",
    "images\\a.png": "images/a.png",
    "/home/someone/data/images/a.png": "images/a.png",
    "C:\\data\\images\\a.png": "images/a.png",
    "../../label-studio/media/upload/4/a.png": "images/a.png",
    "..\\..\\media\\upload\\4\\a.png": "images/a.png",
    "images/../images/a.png": "images/a.png",
    "https://example.org/set/images/a.png": "images/a.png",
    "sub/a.png": "images/sub/a.png",
    "A.PNG": "images/a.png",
    "old\\a.JPEG": "images/A.jpeg",
    "sub\\deeper\\a.png": "images/sub/deeper/a.png",
    "my%20hand.png": "images/my hand.png",
    "100%25.png": "images/100%25.png",
    "Ha\u0308nde.png": "images/H\u00e4nde.png",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_as_they_were_elsewhere(name: str, fresh: Workspace, tmp_path: Path) -> None:
    coco(tmp_path / "coco.json", [name])
    picture(tmp_path / NAMES[name])
    assert take(fresh, "coco", tmp_path).refused == ()
    [(_, labels)] = said(fresh).values()
    assert len(labels) == 1


@pytest.mark.parametrize(
    "name",
    ["../../secret.png", "/etc/secret.png", "..", "/", "", ".", "x" * 5000, "a/" * 4000, "\0", "\ud800.png"],
)
def test_names_lead_nowhere_else(name: str, fresh: Workspace, tmp_path: Path) -> None:
    picture(tmp_path / "secret.png", 3)
    root = tmp_path / "deep" / "set"
    coco(root / "coco.json", [name, "a.png"])
    picture(root / "images" / "a.png", 1)
    result = take(fresh, "coco", root)
    assert result.added == 1 and len(result.refused) == 1 and list(said(fresh)) == ["a.png"]


def test_two_names_of_one_file_are_refused(fresh: Workspace, tmp_path: Path) -> None:
    """Otherwise marks of two images would meet on one."""
    coco(
        tmp_path / "coco.json",
        ["x/1.png", "y/1.png", "/old/2.png", "2.png", "2.PNG"],
        [mark(0), mark(1, RIGHT), mark(2)],
    )
    for name in ("1.png", "2.png"):
        picture(tmp_path / "images" / name, int(name[0]))
    result = take(fresh, "coco", tmp_path, clean=True)
    assert [one.name for one in result.refused] == ["x/1.png", "y/1.png", "/old/2.png", "2.PNG"]
    assert "another name" in result.refused[0].reason and list(said(fresh)) == ["2.png"]


def test_letters_of_two_cases_leave_a_choice(fresh: Workspace, tmp_path: Path) -> None:
    coco(tmp_path / "coco.json", ["A.png", "A.PNG"])
    for number, name in enumerate(("A.png", "a.PNG")):
        picture(tmp_path / "images" / name, number)
    result = take(fresh, "coco", tmp_path)
    assert list(said(fresh)) == ["A.png"] and [one.name for one in result.refused] == ["A.PNG"]


def roboflow(root: Path) -> Path:
    for number, split in enumerate(("train", "valid", "test")):
        coco(root / split / "_annotations.coco.json", ["a.png", "b.png"])
        picture(root / split / "a.png", 2 * number)
        picture(root / split / "b.png", 2 * number + 1)
    (root / "README.roboflow.txt").write_text("made elsewhere")
    return root


def test_splits_of_roboflow(fresh: Workspace, tmp_path: Path) -> None:
    result = take(fresh, "coco", roboflow(tmp_path / "set"), clean=True)
    assert (result.added, result.labels, result.refused) == (6, 6, ())
    with fresh.catalog(read_only=True) as catalog:
        found = sorted((image.split, image.origin) for image in catalog.images.find())
    assert [split for split, _ in found] == ["benchmark"] * 2 + ["train"] * 2 + ["validation"] * 2
    assert any("test/_annotations.coco.json as benchmark" in loss for loss in result.losses)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_one_split_of_roboflow(split: str, fresh: Workspace, tmp_path: Path) -> None:
    take(fresh, "coco", roboflow(tmp_path / "set") / split)
    assert set(splits(fresh).values()) == {split_named(split)}


def test_a_test_image_that_is_in_train_too_stays_one(fresh: Workspace, tmp_path: Path) -> None:
    for split in ("train", "test"):
        coco(tmp_path / split / "_annotations.coco.json", ["a.png"])
        picture(tmp_path / split / "a.png", 7)
    take(fresh, "coco", tmp_path)
    assert splits(fresh) == {"a.png": "benchmark"} and verdicts(fresh) == {"a.png": 400}


def test_ids_of_each_file_are_its_own(fresh: Workspace, tmp_path: Path) -> None:
    home = tmp_path / "annotations"
    coco(
        home / "instances_Train.json",
        ["a.png"],
        [mark(0, category_id=5)],
        categories=[{"id": 5, "name": "watermark"}],
    )
    coco(home / "instances_Validation.json", ["b.png"], [mark(0, RIGHT)])
    picture(tmp_path / "images" / "Train" / "a.png", 1)
    picture(tmp_path / "images" / "Validation" / "b.png", 2)
    assert take(fresh, "coco", tmp_path).refused == ()
    assert verdicts(fresh) == {"a.png": 400, "b.png": 400}
    assert splits(fresh) == {"a.png": "train", "b.png": "validation"}


def test_refusals_name_the_file_where_there_are_several(fresh: Workspace, tmp_path: Path) -> None:
    for name in ("train", "val"):
        coco(tmp_path / "annotations" / f"{name}.json", [f"{name}.png"], [mark(99)])
        picture(tmp_path / "images" / f"{name}.png", len(name))
    names = {one.name for one in take(fresh, "coco", tmp_path).refused}
    assert names == {"annotations/train.json: annotation 1", "annotations/val.json: annotation 1"}


OURS = {
    "train": ["train", "Train", "train2017", "training", "TRAIN_1"],
    "validation": ["val2014", "valid", "Validation", "val_1"],
    "benchmark": ["test", "test2017", "test-dev2017", "benchmark", "Testing"],
    None: ["default", "trainval", "minival2014", "latest", "contest", "2017", ""],
}


@pytest.mark.parametrize(
    ("name", "split"), [(name, split) for split, names in OURS.items() for name in names]
)
def test_names_of_splits(name: str, split: str | None) -> None:
    assert split_named(name) == split


def test_a_folder_that_is_called_test_by_chance_says_nothing(fresh: Workspace, tmp_path: Path) -> None:
    root = tmp_path / "test"
    coco(root / "coco.json", ["a.png"])
    picture(root / "images" / "a.png")
    take(fresh, "coco", root)
    assert splits(fresh) == {"a.png": "train"}


def test_files_of_other_tasks_are_passed_over_by_name(fresh: Workspace, tmp_path: Path) -> None:
    home = tmp_path / "annotations"
    coco(home / "instances_val2017.json", ["a.png"])
    for name in (
        "captions_val2017",
        "person_keypoints_val2017",
        "panoptic_val2017",
        "image_info_test2017",
        "odd",
    ):
        (home / f"{name}.json").write_text("not even JSON")
    picture(tmp_path / "val2017" / "a.png")
    result = take(fresh, "coco", tmp_path)
    assert (result.labels, result.refused) == (1, ())
    [loss] = [one for one in result.losses if "passed over" in one]
    assert "captions_val2017.json, image_info_test2017.json, odd.json" in loss


def test_only_files_of_other_tasks(fresh: Workspace, tmp_path: Path) -> None:
    coco(tmp_path / "annotations" / "captions_val2017.json", ["a.png"])
    with pytest.raises(InputRefused, match=r"only captions_val2017\.json"):
        take(fresh, "coco", tmp_path)


def test_two_files_and_no_way_to_tell(fresh: Workspace, tmp_path: Path) -> None:
    for name in ("one", "two"):
        coco(tmp_path / f"{name}.json", ["a.png"])
    with pytest.raises(InputRefused, match=r"2 JSON files: one\.json, two\.json; name the COCO file itself"):
        take(fresh, "coco", tmp_path)
    picture(tmp_path / "a.png")
    assert take(fresh, "coco", tmp_path / "two.json").labels == 1


@pytest.mark.parametrize("file", ["annotations/instances_val2017.json", "annotations/captions_odd.json"])
def test_a_file_by_its_own_name(file: str, fresh: Workspace, tmp_path: Path) -> None:
    coco(tmp_path / file, ["a.png"])
    picture(tmp_path / "images" / "a.png")
    assert take(fresh, "coco", tmp_path / file).labels == 1


def test_images_elsewhere(fresh: Workspace, tmp_path: Path) -> None:
    path = coco(tmp_path / "annotations" / "instances_train2017.json", ["a.png", "b.png"], [mark(0), mark(1)])
    picture(tmp_path / "disk" / "train2017" / "a.png", 1)
    picture(tmp_path / "disk" / "b.png", 2)
    picture(tmp_path / "images" / "a.png", 3)
    assert take(fresh, "coco", path, images=tmp_path / "disk").refused == ()
    assert said(fresh)["a.png"][0].sha256 == sha256(tmp_path / "disk" / "train2017" / "a.png")


def sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


NO_COCO: dict[str, Any] = {
    "a list of tasks": [{"id": 1, "data": {}, "annotations": []}],
    "labelme": {"version": "5", "shapes": [], "imagePath": "a.png", "imageData": "x" * 5000},
    "VIA": {"a.png123": {"filename": "a.png", "regions": []}},
    "datumaro": {"info": {}, "categories": {}, "items": []},
    "images as names": {"images": ["a.png", "b.png"], "annotations": [], "categories": []},
    "images without names": {"images": [{"id": 1}], "annotations": [], "categories": []},
    "a text": "coco",
    "nothing": None,
    "a number": 5,
    "an empty object": {},
}


@pytest.mark.parametrize("name", NO_COCO)
@pytest.mark.parametrize("clean", [False, True])
def test_what_is_no_coco_says_so(name: str, clean: bool, fresh: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text(json.dumps(NO_COCO[name]))
    picture(tmp_path / "a.png")
    for given in (path, tmp_path):
        with pytest.raises(InputRefused, match=r"some\.json is not a COCO file") as refusal:
            take(fresh, "coco", given, clean=clean)
        assert len(str(refusal.value)) < 500
    assert not said(fresh)


def test_boxes_without_a_segmentation_are_told(fresh: Workspace, tmp_path: Path) -> None:
    boxes = [mark(0, segmentation=[], bbox=[10, 10, 20, 20]), mark(1, bbox=[1, 1, 5, 5])]
    del boxes[1]["segmentation"]
    boxes += [mark(2, segmentation=[[]], bbox=[1, 1, 5, 5]), mark(3, segmentation=[], bbox=[5, 5, 0, 0])]
    coco(tmp_path / "coco.json", [f"{n}.png" for n in range(4)], boxes)
    for number in range(4):
        picture(tmp_path / "images" / f"{number}.png", number)
    result = take(fresh, "coco", tmp_path, clean=True)
    assert verdicts(fresh) == {"0.png": 400, "1.png": 25, "2.png": "none", "3.png": "none"}
    [said_of_boxes] = [one for one in result.losses if "whole box" in one]
    assert "2 of them, first 0.png" in said_of_boxes
    assert [one.name for one in result.refused] == ["2.png", "3.png"]


def rle(drawn: np.ndarray, compressed: bool) -> dict[str, Any]:
    code = pycoco.encode(np.asfortranarray(drawn, dtype=np.uint8))
    if compressed:
        return {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode()}
    flat = np.concatenate([[0], drawn.astype(np.int8).ravel(order="F"), [1 - drawn[-1, -1]]])
    edges = np.flatnonzero(np.diff(flat, prepend=flat[0]))
    return {"size": [HEIGHT, WIDTH], "counts": np.diff(edges - 1, prepend=0).tolist()}


@pytest.mark.parametrize("iscrowd", [0, 1])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("corner", [False, True])
def test_rle_as_pycocotools_decodes_it(
    corner: bool, compressed: bool, iscrowd: int, fresh: Workspace, tmp_path: Path
) -> None:
    drawn = boxed(LEFT, RIGHT)
    drawn[15:20, 15:20] = False
    drawn[0, 0] = drawn[-1, -1] = corner
    code = rle(drawn, compressed)
    known = pycoco.frPyObjects(code, HEIGHT, WIDTH) if not compressed else code
    assert np.array_equal(pycoco.decode(known), drawn)
    coco(tmp_path / "coco.json", ["a.png"], [mark(0, segmentation=code, iscrowd=iscrowd)])
    picture(tmp_path / "images" / "a.png")
    assert take(fresh, "coco", tmp_path).refused == ()
    assert verdicts(fresh) == {"a.png": int(drawn.sum())}


@pytest.mark.parametrize("broken", [False, True])
def test_rle_in_a_list(broken: bool, fresh: Workspace, tmp_path: Path) -> None:
    parts: list[Any] = [rle(boxed(LEFT), True), rle(boxed(RIGHT), False)]
    if broken:
        parts.append({"size": [5, 5], "counts": [25]})
    coco(tmp_path / "coco.json", ["a.png"], [mark(0, segmentation=parts)])
    picture(tmp_path / "images" / "a.png")
    assert len(take(fresh, "coco", tmp_path).refused) == broken
    assert verdicts(fresh) == {"a.png": "none" if broken else 800}


def test_a_size_that_is_not_known(fresh: Workspace, tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{n}.png", "height": n and None, "width": n and None} for n in (0, 1)]
    coco(tmp_path / "coco.json", [], [mark(0), mark(1)], images=images)
    for number in (0, 1):
        picture(tmp_path / "images" / f"{number}.png", number)
    assert take(fresh, "coco", tmp_path).refused == ()
    assert verdicts(fresh) == {"0.png": 400, "1.png": 400}


def test_licences_are_kept(fresh: Workspace, tmp_path: Path) -> None:
    licences = [
        {"id": 1, "name": "CC BY 4.0"},
        {"id": "2", "name": "CC0"},
        {"id": None, "name": "x"},
        5,
        {"id": 3},
    ]
    images = [
        {"id": n, "file_name": f"{n}.png", "license": given} for n, given in enumerate((1, 2.0, None, 3))
    ]
    coco(tmp_path / "coco.json", [], [], images=images, licenses=licences)
    for number in range(4):
        picture(tmp_path / "images" / f"{number}.png", number)
    assert take(fresh, "coco", tmp_path).refused == ()
    found = {name: image.licence for name, (image, _) in said(fresh).items()}
    assert found == {"0.png": "CC BY 4.0", "1.png": "CC0", "2.png": "", "3.png": ""}


def test_what_systems_leave_is_no_dataset(tmp_path: Path) -> None:
    root = tmp_path / "set"
    coco(root / "train" / "_annotations.coco.json", ["a.png"])
    for name in ("__MACOSX", ".cache"):
        coco(root / name / "_annotations.coco.json", ["a.png"])
    (root / "train" / "._annotations.coco.json").write_text("x")
    files, passed_over = find_files(root, None)
    assert [file.name for file in files] == ["train/_annotations.coco.json"] and not passed_over
