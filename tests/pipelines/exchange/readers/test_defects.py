"""Boxes with type, reason and importance, as SDG-30K publishes them and as other tools may write them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.errors import InputRefused
from dataengine.records import Region
from pipelines.exchange.importer import ImportResult
from storage.workspace import Workspace
from tests.pipelines.exchange.layouts import HEIGHT, WIDTH, picture
from tests.pipelines.exchange.test_importer import drawn, kept, take

OURS = {"artifact": "shape distortion", "misalignment": "unreasonable content"}
HAND = {"bbox": [10, 20, 40, 50], "type": "artifact", "reason": "six fingers", "importance": 80}


def rows(folder: Path, *given: Any, name: str = "defects.jsonl") -> Path:
    """A file of rows, and the images that they name."""
    for number, row in enumerate(given):
        if isinstance(row, dict) and row.get("file_name"):
            picture(folder, row["file_name"], number)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in given))
    return path


def brought(workspace: Workspace, path: Path, **options: Any) -> ImportResult:
    return take(workspace, "sdg", path, mapping=OURS, **options)


def test_a_box_becomes_a_marked_region_with_reason_and_importance(fresh: Workspace, tmp_path: Path) -> None:
    row = {"file_name": "a.png", "prompt": "a hand", "coordinates": "pixels", "defects": [HAND]}
    clean = {"file_name": "b.png", "coordinates": "pixels", "defects": []}
    result = brought(fresh, rows(tmp_path, row, clean))
    assert result.labels == 2 and not result.refused
    image, labels = kept(fresh)["a.png"]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[20:50, 10:40] = 1
    assert (drawn(fresh, labels[0]) == expected).all() and image.prompt == "a hand"
    assert labels[0].regions == (Region(1, (10, 20, 40, 50), "six fingers", 80),)
    assert [one.clean for one in kept(fresh)["b.png"][1]] == [True]
    assert brought(fresh, tmp_path / "defects.jsonl").labels == 0, "repeating it adds nothing"


@pytest.mark.parametrize(
    ("coordinates", "box"),
    [
        ("pixels", [32, 24, 96, 48]),
        ("pixels-yx", [24, 32, 48, 96]),
        ("0-1", [0.25, 0.25, 0.75, 0.5]),
        ("0-1-yx", [0.25, 0.25, 0.5, 0.75]),
        ("0-1000", [250, 250, 750, 500]),
        ("0-1000-yx", [250, 250, 500, 750]),
        ("0-1000-yx", {"x1": 250, "y1": 250, "x2": 750, "y2": 500}),
    ],
)
def test_the_same_box_in_all_coordinates(
    coordinates: str, box: Any, fresh: Workspace, tmp_path: Path
) -> None:
    """An image of 128×96; x from a quarter to three quarters, y from a quarter to the half."""
    brought(fresh, rows(tmp_path, {"file_name": "a.png", "defects": [HAND | {"bbox": box}]}),
            coordinates=coordinates)  # fmt: skip
    assert kept(fresh)["a.png"][1][0].regions[0].box == (32, 24, 96, 48)


def test_sdg_30k_as_published(fresh: Workspace, tmp_path: Path) -> None:
    people = [
        {"box_2d": [250, 250, 500, 750], "label": "artifact", "desc": "fused fingers", "importance": 65}
    ]
    model = [{"box_2d": [0, 0, 10, 10], "description": "a model's own"}]
    first = {"filepath": "images/flux/test/1.png", "caption": "hands", "generator": "flux",
             "ann_translated_bboxes": people, "artifact_bboxes": model}  # fmt: skip
    second = {"filepath": "images/sana/test/1.png", "caption": "a red cup",
              "artifact_bboxes": json.dumps([[0, 0, 500, 500]]),
              "misalignment_bboxes": [{"box_2d": [500, 500, 1000, 1000], "desc": "a blue cup"}]}  # fmt: skip
    for number, row in enumerate((first, second)):
        picture(tmp_path, row["filepath"], number)
    (tmp_path / "annotations").mkdir()
    rows(tmp_path, first, second, name="annotations/test.jsonl")
    with pytest.raises(InputRefused, match="nothing states how the numbers of a box are meant"):
        brought(fresh, tmp_path)
    result = brought(fresh, tmp_path, coordinates="0-1000-yx")
    found = kept(fresh)
    image, labels = found["images/flux/test/1.png"]
    assert not result.refused and image.split == "benchmark" and image.prompt == "hands"
    assert labels[0].regions == (Region(1, (32, 24, 96, 48), "fused fingers", 65),)
    both = found["images/sana/test/1.png"][1][0]
    mask = drawn(fresh, both)
    assert (mask[:48, :64] == 1).all() and (mask[48:, 64:] == 2).all() and mask[0, 127] == 0
    assert [(one.value, one.importance) for one in both.regions] == [(1, None), (2, None)]


BAD = [
    ({"importance": 0}, "its importance is 0, but must be a number from 1 to 100"),
    ({"importance": 101}, "its importance is 101"),
    ({"importance": "severe"}, "its importance is 'severe'"),
    ({"bbox": [500, 20, 600, 50]}, "lies off the image of 128×96 pixels"),
    ({"bbox": [-50, -50, -10, -10]}, "lies off the image"),
    ({"bbox": [40, 20, 10, 50]}, "names its corners in another order"),
    ({"bbox": [10, 20, 40]}, "it has no box"),
    ({"bbox": [10, 20, 40, "wide"]}, "holds something else than four numbers"),
    ({"bbox": None}, "it has no box"),
    ({"type": None}, "it has no type"),
    ({"type": "haze"}, "class 'haze' is none of"),
    ({"reason": "x" * 1001}, "its reason has 1001 characters"),
    ({"reason": ["six"]}, "its reason is no text"),
]


@pytest.mark.parametrize(("bad", "says"), BAD)
def test_a_bad_box_is_one_clear_error_and_the_rest_goes_on(
    bad: dict[str, Any], says: str, fresh: Workspace, tmp_path: Path
) -> None:
    good = {"file_name": "good.png", "defects": [HAND]}
    path = rows(tmp_path, {"file_name": "a.png", "defects": [HAND, HAND | bad]}, good)
    result = brought(fresh, path, coordinates="pixels")
    assert [one.name for one in result.refused] == ["a.png"] and says in result.refused[0].reason
    assert "\n" not in result.refused[0].reason
    found = kept(fresh)
    assert not found["a.png"][1] and found["good.png"][1], "half a label is not kept"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{not json", "is not valid JSON"),
        ('["a.png"]', "must be a JSON object"),
        ({"defects": [HAND]}, "file_name is missing"),
        ({"file_name": "a.png"}, "it has no list of defects"),
        ({"file_name": "a.png", "defects": "many"}, "must be a list of objects"),
        ({"file_name": "a.png", "defects": [HAND] * 201}, "of which at most 200 are read"),
        ({"file_name": "a.png", "coordinates": "inches", "defects": []}, "coordinates 'inches' are unknown"),
    ],
)
def test_a_bad_row_is_named_and_the_rest_goes_on(
    row: Any, says: str, fresh: Workspace, tmp_path: Path
) -> None:
    path = rows(tmp_path, row, {"file_name": "good.png", "defects": [HAND]})
    result = brought(fresh, path, coordinates="pixels")
    assert [one.name for one in result.refused] == ["defects.jsonl line 1"]
    assert says in result.refused[0].reason and result.labels == 1


def test_a_box_that_reaches_past_its_image_is_clipped_and_said(fresh: Workspace, tmp_path: Path) -> None:
    path = rows(tmp_path, {"file_name": "a.png", "defects": [HAND | {"bbox": [100, -5, 160, 30]}]})
    result = brought(fresh, path, coordinates="pixels")
    label = kept(fresh)["a.png"][1][0]
    assert label.regions[0].box == (100, 0, 128, 30) and int((drawn(fresh, label) > 0).sum()) == 28 * 30
    assert any("clipped" in one and "a.png" in one for one in result.losses)


def test_overlapping_boxes_keep_what_matters_more_on_top(fresh: Workspace, tmp_path: Path) -> None:
    small = {"bbox": [20, 20, 30, 30], "type": "misalignment", "reason": "a ring", "importance": 10}
    path = rows(tmp_path, {"file_name": "a.png", "defects": [HAND, small]})
    result = brought(fresh, path, coordinates="pixels")
    label = kept(fresh)["a.png"][1][0]
    assert [one.reason for one in label.regions] == ["six fingers"]
    assert len(result.refused) == 1 and "lies below others" in result.refused[0].reason
