"""Label Studio's JSON from files: what is taken, what is refused by name, and never a URL fetched."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.errors import InputRefused
from dataengine.records import LabelClass
from pipelines.exchange.formats import import_dataset
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Ingest
from pipelines.exchange.label_studio.brush_rle import decode_mask
from pipelines.exchange.label_studio.tasks import (
    brush_prediction,
    brush_results,
    label_config,
    read_annotation,
)
from pipelines.exchange.readers.folders import import_folder
from storage.workspace import Workspace
from tests.pipelines.exchange import layouts

CLASSES = ("shape distortion", "unreasonable content", "watermark")


def annotation(**changes: Any) -> dict[str, Any]:
    said = {"id": 5, "completed_by": {"email": "a@b.c"}, "lead_time": 2.5}
    said |= {"result": brush_results(layouts.ring(), CLASSES), "updated_at": "2026-01-02T03:04:05.000006Z"}
    return said | changes


def test_annotations() -> None:
    found = read_annotation(annotation(), lambda said: said["email"])
    assert found is not None and (found.author, found.lead_seconds) == ("a@b.c", 2.5)
    assert found.updated == pytest.approx(1767323045.000006)
    assert read_annotation(annotation(was_cancelled=True), str) is None
    assert read_annotation(annotation(skipped=True), str) is None
    old = read_annotation(annotation(updated_at=None, created_at=1598000000), str)
    assert old is not None and old.updated == 1598000000
    ours = read_annotation(annotation(author="ada", completed_by=None), str)
    assert ours is not None and (ours.author, ours.ours) == ("ada", True)
    for wrong in (None, {"result": "x"}, annotation(updated_at="yesterday"), annotation(lead_time="long")):
        with pytest.raises(InputRefused):
            read_annotation(wrong, str)


def test_predictions_are_brought_to_the_pictures_size() -> None:
    small = np.zeros((4, 4), dtype=np.uint8)
    small[1, 2] = 128
    small[3, 3] = 127
    said = brush_prediction(small, (8, 12), 0.75, "m", CLASSES[1], 0.5)
    assert said["result"][0]["value"]["brushlabels"] == [CLASSES[1]]
    mask = decode_mask(said["result"][0]["value"]["rle"], 8, 12)
    assert mask[2:4, 6:9].all() and mask.sum() == 6 and said["score"] == 0.75
    assert brush_prediction(small // 2, (8, 12), 0.2, "m", CLASSES[1], 0.5)["result"] == []


def test_names_cannot_break_the_interface() -> None:
    config = label_config([LabelClass(value=1, name='a "quoted" <class> & more', color="#123456")])
    import xml.etree.ElementTree as tree

    label = tree.fromstring(config).find(".//Label")
    assert label is not None and label.get("value") == 'a "quoted" <class> & more'
    assert label.get("background") == "#123456"


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
