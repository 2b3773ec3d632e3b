"""SynthScars as published: records in an object or a list, polygons, splits."""

import json
from pathlib import Path
from typing import Any

import pytest

from dataengine.errors import InputRefused
from storage.workspace import Workspace
from tests.pipelines.exchange import layouts
from tests.pipelines.exchange.test_importer import drawn, kept, take


def test_records_of_one_image_make_one_label_and_its_test_split_a_benchmark(
    fresh: Workspace, tmp_path: Path
) -> None:
    layouts.synthscars(tmp_path)
    train = tmp_path / "train" / "annotations" / "train.json"
    records = json.loads(train.read_text())
    records["0"]["refs"].append({"segmentation": [[9, 9, 9, 10, 9, 11]], "sentence": "no area"})
    records |= {"2": "text", "3": {"img_file_name": "../x", "refs": []}}
    train.write_text(json.dumps(records))
    result = take(fresh, "synthscars", tmp_path)
    found = kept(fresh)
    image, labels = found["train/a.png"]
    mask = drawn(fresh, labels[0])
    assert result.labels == 2 and len(labels) == 1, "records of one image make one label"
    assert (mask[10:40, 10:30] == 1).all() and (mask[0:5, 0:5] == 1).all() and mask[62, 52] == 1
    # Both rectangles and the half of a square of 20 px below its diagonal, give or take the diagonal itself.
    assert abs(int((mask > 0).sum()) - (30 * 20 + 5 * 5 + 200)) <= 20
    assert image.split == "train" and image.licence == "Apache-2.0"
    assert found["test/t.png"][0].split == "benchmark"
    assert {row.name for row in result.refused} >= {"train/train.json record 3", "train/train.json record 4"}


def test_what_is_not_synthscars_says_so(fresh: Workspace, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="has no JSON file in train/"):
        take(fresh, "synthscars", tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "coco.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(InputRefused, match="is not SynthScars"):
        take(fresh, "synthscars", tmp_path)


@pytest.mark.parametrize(
    "refs",
    [
        [{"segmentation": "wide"}],
        [{"segmentation": [[1, 2, 3]]}],
        [{"sentence": "six fingers"}],
        [{"segmentation": [[5, 5, 5, 6, 5, 7]]}],
        [{"segmentation": [[900, 900, 950, 900, 950, 950]]}],
        ["hand"],
        [{"segmentation": [[10, 10, 30, 10, 30, 40]]}, {"segmentation": "wide"}],
    ],
)
def test_a_record_of_which_a_part_is_refused_is_neither_marked_nor_clean(
    refs: list[Any], fresh: Workspace, tmp_path: Path
) -> None:
    layouts.synthscars(tmp_path)
    records = [{"img_file_name": "a.png", "refs": refs}, {"img_file_name": "b.png", "refs": []}]
    layouts.picture(tmp_path / "train" / "images", "b.png", 9)
    (tmp_path / "train" / "annotations" / "train.json").write_text(json.dumps(records))
    take(fresh, "synthscars", tmp_path, clean=True)
    found = kept(fresh)
    assert not found["train/a.png"][1] and [one.clean for one in found["train/b.png"][1]] == [True]


@pytest.mark.parametrize(
    "outside",
    [
        [900, 900, 950, 900, 950, 950],
        [-50, -50, -10, -50, -10, -10],
        [-40, 10, -20, 10, -20, 30],
        [1e12, 1e12, 2e12, 1e12, 2e12, 2e12],
    ],
)
def test_a_polygon_outside_its_image_costs_itself_and_is_said_in_one_sentence(
    outside: list[float], fresh: Workspace, tmp_path: Path
) -> None:
    layouts.synthscars(tmp_path)
    square = [10, 10, 30, 10, 30, 40, 10, 40]
    layouts.picture(tmp_path / "train" / "images", "b.png", 9)
    records = [
        {"img_file_name": "a.png", "refs": [{"segmentation": [outside]}]},
        {"img_file_name": "b.png", "refs": [{"segmentation": [square]}, {"segmentation": [outside]}]},
    ]
    (tmp_path / "train" / "annotations" / "train.json").write_text(json.dumps(records))
    result = take(fresh, "synthscars", tmp_path)
    found = kept(fresh)
    assert not found["train/a.png"][1] and found["test/t.png"][1], "the rest goes on"
    said = [row for row in result.refused if row.name.startswith("train/a.png")]
    assert len(said) == 1 and "\n" not in said[0].reason and len(said[0].reason) < 200, said


def test_a_polygon_that_leaves_its_image_marks_what_lies_inside(fresh: Workspace, tmp_path: Path) -> None:
    layouts.synthscars(tmp_path)
    records = [{"img_file_name": "a.png", "refs": [{"segmentation": [[-20, 10, 30, 10, 30, 40, -20, 40]]}]}]
    (tmp_path / "train" / "annotations" / "train.json").write_text(json.dumps(records))
    take(fresh, "synthscars", tmp_path)
    mask = drawn(fresh, kept(fresh)["train/a.png"][1][0])
    assert (mask[10:40, 0:30] > 0).all() and abs(int((mask > 0).sum()) - 30 * 30) <= 60
