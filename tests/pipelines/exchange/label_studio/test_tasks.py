"""Label Studio's JSON from files: what is taken, what is refused by name, and never a URL fetched."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.errors import InputRefused, MaskRefused
from pipelines.exchange.formats import import_dataset
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Ingest
from pipelines.exchange.label_studio.brush_rle import decode_mask
from pipelines.exchange.label_studio.tasks import (
    brush_prediction,
    brush_results,
    label_config,
    label_map_of,
    read_annotation,
)
from pipelines.exchange.readers.folders import import_folder
from storage.workspace import Workspace
from tests.pipelines.exchange import layouts

CLASSES = ("shape distortion", "unreasonable content", "watermark")
NUMBER = ImportOptions(path=Path()).class_value
SIZE = (layouts.HEIGHT, layouts.WIDTH)


def annotation(**changes: Any) -> dict[str, Any]:
    said = {"id": 5, "completed_by": {"email": "a@b.c"}, "lead_time": 2.5}
    said |= {"result": brush_results(layouts.ring(), CLASSES), "updated_at": "2026-01-02T03:04:05.000006Z"}
    return said | changes


def test_regions_are_a_label_map_again() -> None:
    results = brush_results(layouts.ring(), CLASSES)
    assert [one["value"]["brushlabels"] for one in results] == [["shape distortion"], ["watermark"]]
    assert np.array_equal(label_map_of(results, *SIZE, NUMBER), layouts.ring())
    assert label_map_of([], *SIZE, NUMBER) is None
    assert brush_results(layouts.ring(), CLASSES, "k") == brush_results(layouts.ring(), CLASSES, "k")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"type": "rectanglelabels"}, "only brush strokes"),
        ({"original_width": 12}, "was drawn on"),
        ({"image_rotation": 90}, "was drawn on"),
        ({"value": None}, "no value"),
        ({"value": {"format": "rle", "rle": [1, 2], "brushlabels": ["watermark"]}}, "header"),
        ({"value": {"format": "rle", "rle": "abc", "brushlabels": ["watermark"]}}, "no rle"),
        ({"value": {"format": "rle", "rle": [], "brushlabels": ["a", "b"]}}, "exactly one label"),
    ],
)
def test_regions_that_cannot_be_used(change: dict[str, Any], says: str) -> None:
    region = brush_results(layouts.ring(), CLASSES)[0] | change
    with pytest.raises(MaskRefused, match=says):
        label_map_of([region], *SIZE, NUMBER)


def test_annotations() -> None:
    found = read_annotation(annotation(), lambda said: said["email"])
    assert found is not None and (found.author, found.lead_seconds) == ("a@b.c", 2.5)
    assert found.updated == pytest.approx(1767323045.000006)
    assert read_annotation(annotation(was_cancelled=True), str) is None
    for wrong in (None, {"result": "x"}, annotation(updated_at="yesterday"), annotation(lead_time="long")):
        with pytest.raises(InputRefused):
            read_annotation(wrong, str)


def test_predictions_are_brought_to_the_pictures_size() -> None:
    small = np.zeros((4, 4), dtype=np.uint8)
    small[1, 2] = 128
    small[3, 3] = 127
    said = brush_prediction(small, (8, 12), 0.75, "m", CLASSES, 0.5)
    mask = decode_mask(said["result"][0]["value"]["rle"], 8, 12)
    assert mask[2:4, 6:9].all() and mask.sum() == 6 and said["score"] == 0.75
    assert brush_prediction(small // 2, (8, 12), 0.2, "m", CLASSES, 0.5)["result"] == []


def test_names_cannot_break_the_interface() -> None:
    config = label_config(['a "quoted" <class> & more'])
    import xml.etree.ElementTree as tree

    label = tree.fromstring(config).find(".//Label")
    assert label is not None and label.get("value") == 'a "quoted" <class> & more'


def test_an_export_of_label_studios(fresh: Workspace, tmp_path: Path) -> None:
    layouts.picture(tmp_path / "p", "a.png", 1)
    layouts.picture(tmp_path / "p", "b.png", 2)
    import_folder(fresh, tmp_path / "p" / "b.png")
    with fresh.catalog(read_only=True) as catalog:
        known = catalog.images.find()[0].id
    tasks: list[Any] = [
        {"id": 1, "data": {"image": "/data/upload/3/a.png", "prompt": "x"}, "annotations": [annotation()]},
        {
            "id": 2,
            "data": {"image": "http://evil/x", "clinic_id": known},
            "annotations": [annotation(result=[])],
        },
        {"id": 2, "data": {"clinic_id": known}, "annotations": []},
        {"id": 3, "data": {"image": "../../etc/passwd"}, "annotations": [annotation()]},
        {"id": 4, "data": {"clinic_id": "never heard of"}, "annotations": [annotation()]},
        {"id": 5, "data": {"image": "http://127.0.0.1:9/x.png"}, "annotations": [annotation()]},
        "nonsense",
    ]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    wanted = ImportOptions(path=path, images=tmp_path / "p")
    result = import_dataset(fresh, "label-studio", wanted, Ingest())
    assert (result.added, result.labels) == (1, 2)
    names = sorted(one.name for one in result.refused)
    assert names == ["task 3", "task 4", "task 5", "task 6"]
    with fresh.catalog(read_only=True) as catalog:
        label = catalog.labels.latest(known, "label-studio:a@b.c")
    assert label is not None and label.clean
    assert json.loads(label.note)["label_studio"]["annotation"] == "5"
