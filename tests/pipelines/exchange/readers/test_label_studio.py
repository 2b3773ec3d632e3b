"""Label Studio's JSON as people have it: pictures under other names and keys, several annotators, skipped
ones, exports of other kinds."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.errors import InputRefused
from pipelines.exchange.label_studio.tasks import brush_results
from storage.workspace import Workspace
from tests.pipelines.exchange.labelled import (
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    boxed,
    coco,
    mark,
    marked,
    picture,
    said,
    take,
    verdicts,
)

CLASS = ("shape distortion",)


def strokes(*squares: list[int], key: str = "") -> list[dict[str, Any]]:
    return brush_results(boxed(*squares).astype(np.uint8), CLASS, key)


def polygon(points: list[int] = RIGHT, label: str = CLASS[0], **more: Any) -> dict[str, Any]:
    scaled = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in zip(points[::2], points[1::2], strict=True)]
    value = {"points": scaled, "closed": True, "polygonlabels": [label]}
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return (
        {"id": "p", "type": "polygonlabels", "from_name": "p", "to_name": "image", "value": value}
        | size
        | more
    )


CHOICE = {"id": "c", "type": "choices", "from_name": "q", "to_name": "image", "value": {"choices": ["bad"]}}


def annotation(*results: Any, by: Any = 1, **more: Any) -> dict[str, Any]:
    known = {
        "id": 11,
        "completed_by": by,
        "was_cancelled": False,
        "created_at": "2025-03-01T10:00:00.000000Z",
    }
    return known | {"result": list(results), "lead_time": 12.5} | more


def task(image: Any, *annotations: Any, key: str = "image", **data: Any) -> dict[str, Any]:
    return {"id": 1, "data": {key: image} | data, "annotations": list(annotations), "predictions": []}


def export(folder: Path, *tasks: Any, names: tuple[str, ...] = ("photo.png",)) -> Path:
    """An export with its pictures in `images/`; tasks are numbered from 1."""
    for number, name in enumerate(names):
        picture(folder / "images" / name, number)
    for number, one in enumerate(tasks, 1):
        if isinstance(one, dict) and "id" in one:
            one["id"] = number
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "export.json"
    path.write_text(json.dumps(tasks))
    return path


STROKE = strokes(LEFT)[0]


@pytest.mark.parametrize(
    ("results", "area"),
    [
        ([STROKE], 400),
        ([STROKE, polygon()], 800),
        ([polygon(), polygon(LEFT, id="q")], 800),
        ([CHOICE, STROKE, CHOICE], 400),
        ([STROKE, {"type": "relation", "from_id": "a", "to_id": "b"}], 400),
        ([STROKE, {"id": "k", "type": "keypointlabels", "value": {"x": 1, "y": 1, "width": 1}}], 400),
        ([STROKE, polygon(label="no such class")], "none"),
        ([STROKE, polygon(original_width=7)], "none"),
        ([CHOICE], "none"),
        ([], "clean"),
    ],
)
@pytest.mark.parametrize("clean", [False, True])
def test_what_an_annotation_is(
    results: list[Any], area: Any, clean: bool, fresh: Workspace, tmp_path: Path
) -> None:
    path = export(tmp_path, task("/data/upload/3/ab12cd34-photo.png", annotation(*results)))
    found = take(fresh, "label-studio", path, clean=clean)
    assert found.added == 1 and verdicts(fresh) == {"task 1": area}
    assert [one.name for one in found.refused] == ["task 1"] * (
        area == "none" or any(one.get("type") == "keypointlabels" for one in results)
    )
    again = take(fresh, "label-studio", path, clean=clean)
    assert (again.added, again.labels) == (0, 0)


def test_a_refused_region_costs_the_label_unless_the_rest_is_asked_for(
    fresh: Workspace, tmp_path: Path
) -> None:
    path = export(tmp_path, task("photo.png", annotation(STROKE, polygon(label="no such class"))))
    found = take(fresh, "label-studio", path)
    assert verdicts(fresh) == {"task 1": "none"}
    assert "no such class" in found.refused[0].reason and "--partial" in found.refused[0].reason
    assert take(fresh, "label-studio", path, partial=True).labels == 1
    assert verdicts(fresh) == {"task 1": 400}
    mapped = take(fresh, "label-studio", path, mapping={"no such class": "watermark"})
    assert mapped.labels == 1 and verdicts(fresh) == {"task 1": 800}


def test_what_is_left_aside_is_noted_once_for_each_kind(fresh: Workspace, tmp_path: Path) -> None:
    rating = {"type": "rating", "value": {"rating": 3}}
    one = annotation(STROKE, CHOICE, rating)
    path = export(
        tmp_path, task("a.png", one), task("b.png", one, annotation(CHOICE, by=2)), names=("a.png", "b.png")
    )
    notes = take(fresh, "label-studio", path).losses
    assert notes[1:] == (
        "results of type choices mark no area and are left aside (3 of them)",
        "results of type rating mark no area and are left aside (2 of them)",
    )


@pytest.mark.parametrize("key", ["image", "img", "photo_url", "$undefined$"])
def test_any_key_may_hold_the_picture(key: str, fresh: Workspace, tmp_path: Path) -> None:
    one = task("/data/upload/3/ab12cd34-photo.png", annotation(STROKE), key=key, prompt="a hand / a photo.")
    take(fresh, "label-studio", export(tmp_path, one))
    ((image, (label,)),) = said(fresh).values()
    assert image.prompt == "a hand / a photo." and marked(fresh, label).sum() == 400


def test_a_task_of_several_pictures(fresh: Workspace, tmp_path: Path) -> None:
    """By convention an Image tag has the name of the field that it shows; without that nothing says which."""
    names = ("a.png", "b.png")
    other = STROKE | {"to_name": "second"}
    pair: dict[str, Any] = {"key": "first", "second": "b.png"}
    path = export(
        tmp_path,
        task("a.png", annotation(other), **pair),
        task("a.png", annotation(STROKE | {"to_name": "view"}), **pair),
        task("a.png", annotation(STROKE | {"to_name": "first"}, other), **pair),
        task("a.png", annotation(), **pair),
        names=names,
    )
    found = take(fresh, "label-studio", path)
    assert (found.added, found.labels) == (1, 1)
    assert [one.name for one in found.refused] == ["task 2", "task 3", "task 4"]
    assert all("several pictures (first, second)" in one.reason for one in found.refused)
    path.write_text(json.dumps([task("a.png", annotation(), preview="b.png")]))
    assert take(fresh, "label-studio", path).labels == 1


def test_two_addresses_that_fit_one_file_are_neither(fresh: Workspace, tmp_path: Path) -> None:
    path = export(
        tmp_path,
        task("s3://bucket/x/photo.png", annotation(STROKE)),
        task("s3://bucket/y/photo.png", annotation()),
        task("s3://bucket/x/other.png?signed=1", annotation(STROKE)),
        task("s3://bucket/x/other.png?signed=2", annotation(*strokes(RIGHT))),
        names=("photo.png", "other.png"),
    )
    found = take(fresh, "label-studio", path)
    assert [one.name for one in found.refused] == ["task 1", "task 2"]
    assert "photo.png" in found.refused[0].reason and found.added == 1
    assert list(verdicts(fresh).values()) == [800]


def test_pictures_that_are_not_there(fresh: Workspace, tmp_path: Path) -> None:
    names = ("a/photo.png", "b/photo.png")
    one, two = task("/data/upload/1/ab12cd34-photo.png", annotation(STROKE)), task("none.png", annotation())
    path = export(tmp_path, one, two, names=names)
    found = take(fresh, "label-studio", path)
    assert found.added == 0 and len(found.refused) == 2
    assert all("no file" in one.reason and "or several" in one.reason for one in found.refused)
    lonely = tmp_path / "lonely" / "export.json"
    lonely.parent.mkdir()
    shutil.copy(path, lonely)
    found = take(fresh, "label-studio", lonely)
    assert len(found.refused) == 2 and all("--images" in one.reason for one in found.refused)


def test_links_out_of_the_folder_are_not_followed(fresh: Workspace, tmp_path: Path) -> None:
    path = export(tmp_path / "x", task("photo.png", annotation(STROKE)), names=())
    (tmp_path / "x" / "images").mkdir()
    (tmp_path / "x" / "images" / "photo.png").symlink_to(picture(tmp_path / "secret.png"))
    found = take(fresh, "label-studio", path)
    assert found.added == 0 and "link" in found.refused[0].reason


def test_annotators(fresh: Workspace, tmp_path: Path) -> None:
    late = {"updated_at": "2025-03-02T10:00:00.000000Z"}
    early = {"updated_at": "2025-03-01T10:00:00.000000Z"}
    path = export(
        tmp_path,
        task(
            "photo.png",
            annotation(by=1, **late),
            annotation(STROKE, by=1, **early),
            annotation(*strokes(LEFT, RIGHT), by={"id": 2, "email": "b@c.d"}),
            annotation(STROKE, by=3, was_cancelled=True),
            annotation(STROKE, by=None, **early),
            annotation(by=None, **late),
        ),
    )
    take(fresh, "label-studio", path)
    ((_, labels),) = said(fresh).values()
    areas = {label.author: int(marked(fresh, label).sum()) for label in labels}
    # Of unknown people nobody's empty annotation replaces another's marks.
    assert areas == {"label-studio:1": 0, "label-studio:b@c.d": 800, "label-studio:unknown": 400}


def test_the_author_of_annotations_that_name_none(fresh: Workspace, tmp_path: Path) -> None:
    path = export(tmp_path, task("photo.png", annotation(STROKE, by=None), annotation(by=7)))
    take(fresh, "label-studio", path, author="ada")
    ((_, labels),) = said(fresh).values()
    assert sorted(label.author for label in labels) == ["ada", "label-studio:7"]


def test_predictions_drafts_and_skipped_annotations_are_no_labels(fresh: Workspace, tmp_path: Path) -> None:
    one = task("a.png", annotation(STROKE, was_cancelled=True))
    two = task("b.png") | {"drafts": [{"result": [STROKE]}]}
    three = task("c.png") | {"predictions": [{"result": [STROKE], "score": 0.9}]}
    path = export(tmp_path, one, two, three, names=("a.png", "b.png", "c.png"))
    found = take(fresh, "label-studio", path)
    assert set(verdicts(fresh).values()) == {"none"} and (found.added, found.labels) == (3, 0)
    assert "predictions, drafts and skipped annotations" in found.losses[0]


def test_an_export_of_versions_before_1(fresh: Workspace, tmp_path: Path) -> None:
    """Completions instead of annotations, seconds instead of dates, strokes without the picture's size."""
    old = {name: value for name, value in STROKE.items() if not name.startswith("original")}
    done = {"id": 1001, "created_at": 1598000000, "lead_time": 3.5, "result": [old]}
    skipped = {"id": 1002, "created_at": 1598000001, "skipped": True, "result": []}
    tasks = [{"id": 1, "data": {"image": "/data/upload/photo.png"}, "completions": [done, skipped]}]
    take(fresh, "label-studio", export(tmp_path, *tasks))
    ((_, (label,)),) = said(fresh).values()
    assert marked(fresh, label).sum() == 400 and label.created == 1598000000
    wrong = old | {"value": strokes(LEFT)[0]["value"] | {"rle": strokes(LEFT)[0]["value"]["rle"][:40]}}
    tasks[0]["completions"] = [done | {"result": [wrong]}]
    tasks[0]["data"] = {"image": "b.png"}
    found = take(fresh, "label-studio", export(tmp_path, *tasks, names=("a.png", "b.png")))
    assert found.labels == 0 and "ends" in found.refused[0].reason


JSON_MIN = {"image": "/data/upload/1/x-photo.png", "id": 1, "artifact": [], "annotator": 1, "lead_time": 1.5}
JSON_MIN |= {"annotation_id": 2, "created_at": "2025-03-01T10:00:00Z", "updated_at": "2025-03-01T10:00:00Z"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (json.dumps([JSON_MIN]), "export.json is Label Studio's JSON-MIN export.*export JSON"),
        (json.dumps([{"image": "a.png", "id": 3, "annotator": ""}, JSON_MIN]), "JSON-MIN"),
        (json.dumps({"images": [], "annotations": [], "categories": []}), "COCO file.*--format coco"),
        ("image,id,artifact\na.png,1,[]\n", "not valid JSON.*export JSON from Label Studio"),
        ("{}", "list of tasks.*export JSON from Label Studio"),
        ("3", "list of tasks"),
    ],
)
def test_exports_of_other_kinds_are_named(text: str, says: str, fresh: Workspace, tmp_path: Path) -> None:
    path = export(tmp_path)
    path.write_text(text)
    with pytest.raises(InputRefused, match=says):
        take(fresh, "label-studio", path)


def test_a_folder_or_a_single_task(fresh: Workspace, tmp_path: Path) -> None:
    path = export(tmp_path)
    path.write_text(json.dumps(task("photo.png", annotation(STROKE))))
    assert take(fresh, "label-studio", tmp_path).labels == 1
    flat = tmp_path / "flat"
    picture(flat / "photo.png", 5)
    shutil.copy(path, flat / "project-1-at-2026.json")
    assert take(fresh, "label-studio", flat).labels == 1
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", flat))
    assert take(fresh, "label-studio", packed).duplicates == 1
    (tmp_path / "more.json").write_text("[]")
    with pytest.raises(InputRefused, match="2 JSON files"):
        take(fresh, "label-studio", tmp_path)


def test_its_coco_exports(fresh: Workspace, tmp_path: Path) -> None:
    """They leave out strokes and ellipses, so an image without annotation may be marked."""
    folder = coco(tmp_path / "a", [mark(1)], 2, info={"contributor": "Label Studio"})
    with pytest.raises(InputRefused, match=r"leaves out brush strokes and ellipses.*export JSON"):
        take(fresh, "coco", folder, clean=True)
    assert take(fresh, "coco", folder).labels == 1 and verdicts(fresh) == {"1.png": 400, "2.png": "none"}
    strokes_as_outlines = coco(tmp_path / "b", [mark(1)], info={"contributor": "Label Studio Converter"})
    for clean in (False, True):
        with pytest.raises(InputRefused, match=r"outlines lose holes.*export JSON"):
            take(fresh, "coco", strokes_as_outlines, clean=clean)
