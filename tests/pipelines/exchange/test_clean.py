"""Refused is not clean: what was refused, unmapped or unreadable never becomes "free of artifacts"."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataengine.errors import InputRefused
from pipelines.exchange.formats import FORMATS
from pipelines.exchange.label_studio.brush_rle import encode_mask
from pipelines.exchange.label_studio.tasks import brush_results
from pipelines.services.exchange.datasets import ImportRequest, import_data
from storage.workspace import Workspace
from tests.pipelines.exchange import layouts, pictures
from tests.pipelines.exchange.labelled import (
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    boxed,
    coco,
    mark,
    mask,
    picture,
    said,
    take,
    verdicts,
)
from tests.pipelines.exchange.test_roundtrips import workspaces

SOUND, UNMAPPED = mark(1), mark(1, RIGHT, category_id=2)
BROKEN: dict[str, dict[str, Any]] = {
    "a class that is not mapped": UNMAPPED,
    "a category that is not there": mark(1, RIGHT, category_id=77),
    "no category": mark(1, RIGHT, category_id=None),
    "RLE of another size": mark(1, segmentation={"size": [5, 5], "counts": [25]}),
    "RLE that does not end": mark(1, segmentation={"size": [HEIGHT, WIDTH], "counts": "0"}),
    "RLE without counts": mark(1, segmentation={"size": [HEIGHT, WIDTH]}),
    "RLE of a number": mark(1, segmentation={"size": [HEIGHT, WIDTH], "counts": 5}),
    "RLE of an endless size": mark(1, segmentation={"size": [float("inf"), WIDTH], "counts": "0"}),
    "RLE of lists": mark(1, segmentation={"size": [HEIGHT, WIDTH], "counts": [[1], None]}),
    "a number": mark(1, segmentation=5),
    "a text": mark(1, segmentation="polygon"),
    "no shape": mark(1, segmentation=None),
    "a box that is none": mark(1, segmentation=[], bbox=[1, 2, -3, 4]),
    "a caption": {"id": 1, "image_id": 1, "caption": "a hand"},
    "a keypoint set": {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [1, 2, 2], "num_keypoints": 1},
}
EMPTY: dict[str, Any] = {
    "no point": [],
    "one point": [5, 5],
    "two points": [5, 5, 8, 8],
    "an odd number": [5, 5, 8, 8, 9, 9, 1],
    "no number": ["a", 1, 2, 3, 4, 5],
    "not finite": [float("nan"), 1, 2, 3, 4, 5],
    "null": [None, 1, 2, 3, 4, 5],
    "outside of the image": [200, 200, 220, 200, 220, 220, 200, 220],
}
CLEAN = pytest.mark.parametrize("clean", [False, True])


@CLEAN
@pytest.mark.parametrize("name", BROKEN)
def test_a_refused_annotation_leaves_its_image_without_a_label(
    name: str, clean: bool, fresh: Workspace, tmp_path: Path
) -> None:
    result = take(fresh, "coco", coco(tmp_path, [BROKEN[name]], 2), clean=clean)
    assert verdicts(fresh) == {"1.png": "none", "2.png": "clean" if clean else "none"}
    assert [one.name for one in result.refused] == ["1.png"]


@CLEAN
@pytest.mark.parametrize("name", BROKEN)
def test_no_half_label_unless_asked_for(name: str, clean: bool, fresh: Workspace, tmp_path: Path) -> None:
    folder = coco(tmp_path, [SOUND, BROKEN[name]])
    result = take(fresh, "coco", folder, clean=clean)
    assert verdicts(fresh) == {"1.png": "none"} and result.labels == 0
    assert [one.name for one in result.refused] == ["1.png"] and "--partial" in result.refused[0].reason
    result = take(fresh, "coco", folder, clean=clean, partial=True)
    assert verdicts(fresh) == {"1.png": 400} and [one.name for one in result.refused] == ["1.png"]


@CLEAN
@pytest.mark.parametrize("name", EMPTY)
def test_a_shape_without_an_inside_costs_itself_and_is_named(
    name: str, clean: bool, fresh: Workspace, tmp_path: Path
) -> None:
    folder = coco(tmp_path, [SOUND, mark(1, RIGHT), mark(1, EMPTY[name], id=3)])
    result = take(fresh, "coco", folder, clean=clean)
    assert verdicts(fresh) == {"1.png": 800}
    assert [one.name for one in result.refused] == ["1.png"] and "annotation 3" in result.refused[0].reason


@pytest.mark.parametrize("name", EMPTY)
def test_a_shape_without_an_inside_alone_is_not_clean(name: str, fresh: Workspace, tmp_path: Path) -> None:
    for partial in (False, True):
        take(fresh, "coco", coco(tmp_path, [mark(1, EMPTY[name])]), clean=True, partial=partial)
        assert verdicts(fresh) == {"1.png": "none"}


@pytest.mark.parametrize("ids", [("1", 1), (1, "1"), (1.0, 1), (1, 1.0), ("1.0", 1), (1, "1.0"), (1, " 1")])
@pytest.mark.parametrize("where", ["image", "category"])
@CLEAN
def test_ids_of_other_types_are_the_same_ids(
    ids: tuple[Any, Any], where: str, clean: bool, fresh: Workspace, tmp_path: Path
) -> None:
    here, there = ids
    entry = {"id": here if where == "image" else 1, "file_name": "1.png", "height": HEIGHT, "width": WIDTH}
    category = {"id": here if where == "category" else 1, "name": "shape distortion"}
    annotation = mark(there if where == "image" else 1, category_id=there if where == "category" else 1)
    folder = rewritten(coco(tmp_path, [annotation]), images=[entry], categories=[category])
    assert take(fresh, "coco", folder, clean=clean).refused == ()
    assert verdicts(fresh) == {"1.png": 400}


@CLEAN
@pytest.mark.parametrize("ids", [[1, 1, 1], [1, 2, 1], [None, None, None], ["a", "a", "a"], [0, 0, 0]])
def test_ids_of_annotations_may_restart(
    ids: list[Any], clean: bool, fresh: Workspace, tmp_path: Path
) -> None:
    annotations = [mark(image, id=key) for image, key in zip((1, 2, 2), ids, strict=True)]
    annotations[2]["segmentation"] = [RIGHT]
    result = take(fresh, "coco", coco(tmp_path, annotations, 2), clean=clean)
    assert verdicts(fresh) == {"1.png": 400, "2.png": 800} and not result.refused


@CLEAN
def test_ids_of_images_that_restart_leave_these_images_without_labels(
    clean: bool, fresh: Workspace, tmp_path: Path
) -> None:
    images = [{"id": key, "file_name": name} for key, name in ((1, "1.png"), (1, "2.png"), (3, "3.png"))]
    folder = rewritten(coco(tmp_path, [SOUND, mark(3)], 3), images=images)
    result = take(fresh, "coco", folder, clean=clean)
    assert verdicts(fresh) == {"1.png": "none", "2.png": "none", "3.png": 400}
    assert sorted(one.name for one in result.refused) == ["1.png", "2.png"]


def test_ids_of_categories_that_restart_are_unmapped(fresh: Workspace, tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "shape distortion"}, {"id": 1, "name": "watermark"}]
    take(fresh, "coco", coco(tmp_path, [SOUND], 2, categories=categories), clean=True)
    assert verdicts(fresh) == {"1.png": "none", "2.png": "clean"}


@pytest.mark.parametrize("image", [None, 99, "1.jpg", True, 1.5, [1], {}])
def test_an_annotation_of_nobody_may_be_anybodys(image: Any, fresh: Workspace, tmp_path: Path) -> None:
    result = take(fresh, "coco", coco(tmp_path, [mark(image), mark(2)], 3), clean=True)
    assert verdicts(fresh) == {"1.png": "none", "2.png": 400, "3.png": "none"}
    assert "--clean" in [one.name for one in result.refused]


def rewritten(folder: Path, **told: Any) -> Path:
    """The same COCO folder with other lists in its file."""
    path = folder / "coco.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | told))
    return folder


@pytest.mark.parametrize(
    "told",
    [
        {
            "annotations": [
                {"image_id": 1, "segments_info": [{"id": 5, "category_id": 1}], "file_name": "1.png"}
            ]
        },
        {"annotations": {"1": []}},
        {"annotations": None},
        {"images": {"1": {}}},
        {"categories": "hand"},
    ],
)
def test_other_layouts_are_refused_as_a_whole(told: dict[str, Any], fresh: Workspace, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="COCO file"):
        take(fresh, "coco", rewritten(coco(tmp_path, []), **told), clean=True)
    assert not said(fresh)


def test_a_file_without_annotations_is_not_a_file_of_clean_images(fresh: Workspace, tmp_path: Path) -> None:
    folder = coco(tmp_path, [])
    told = json.loads((folder / "coco.json").read_text())
    del told["annotations"]
    (folder / "coco.json").write_text(json.dumps(told))
    with pytest.raises(InputRefused, match="lists of images"):
        take(fresh, "coco", folder, clean=True)
    assert take(fresh, "coco", folder).added == 1


@pytest.mark.parametrize("annotations", [[], [SOUND]])
def test_an_image_of_another_size_is_not_clean(
    annotations: list[Any], fresh: Workspace, tmp_path: Path
) -> None:
    images = [{"id": 1, "file_name": "1.png", "height": 5, "width": 5}]
    folder = rewritten(coco(tmp_path, annotations), images=images)
    assert take(fresh, "coco", folder, clean=True).labels == 0 and verdicts(fresh) == {"1.png": "none"}


def test_a_refused_author_takes_no_label_of_another(fresh: Workspace, tmp_path: Path) -> None:
    annotations = [mark(1, author="ada"), mark(1, RIGHT, category_id=2, author="ben"), mark(1, author="ben")]
    result = take(fresh, "coco", coco(tmp_path, annotations))
    [label] = said(fresh)["1.png"][1]
    assert label.author == "ada" and "half a label" in result.refused[0].reason


sound_or_broken = st.sampled_from(["sound", "unmapped", "empty"])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    marks=st.lists(st.tuples(st.integers(1, 4), sound_or_broken, st.sampled_from([LEFT, RIGHT])), max_size=8),
    partial=st.booleans(),
)
def test_any_mixture_against_the_rule_in_words(
    marks: list[tuple[int, str, list[int]]], partial: bool, _bare: Path
) -> None:
    with workspaces(_bare) as (workspace, _, folder):
        annotations = [
            mark(image, polygon if kind != "empty" else [1, 1], category_id=2 if kind == "unmapped" else 1)
            for image, kind, polygon in marks
        ]
        take(workspace, "coco", coco(folder / "d", annotations, 4), clean=True, partial=partial)
        for number in range(1, 5):
            mine = [(kind, polygon) for image, kind, polygon in marks if image == number]
            kinds = {kind for kind, _ in mine}
            drawn = boxed(*[polygon for kind, polygon in mine if kind == "sound"])
            if not mine:
                expected: str | int = "clean"
            elif not drawn.any() or ("unmapped" in kinds and not partial):
                expected = "none"
            else:
                expected = int(drawn.sum())
            assert verdicts(workspace)[f"{number}.png"] == expected


# ---- masks, PAL4VST ----


def masks(folder: Path, images: tuple[str, ...] = ("a.png", "b.png"), home: str = "masks") -> Path:
    for number, name in enumerate(images):
        picture(folder / "images" / name, number + 1)
    (folder / home).mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize(("format", "home"), [("masks", "masks"), ("pal4vst", "labels")])
@pytest.mark.parametrize("body", [b"no picture", b"", pictures.encoded(pictures.scene(4, HEIGHT, WIDTH))])
def test_a_mask_that_cannot_be_read_is_no_clean_image(
    body: bytes, format: str, home: str, fresh: Workspace, tmp_path: Path
) -> None:
    folder = masks(tmp_path / "d", home=home)
    (folder / home / "a.png").write_bytes(body)
    assert take(fresh, format, folder if format == "masks" else tmp_path, clean=True).labels == 1
    assert verdicts(fresh) == {"a.png": "none", "b.png": "clean"}


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.xml", "a.npy", "a.tif"])
def test_labels_of_other_tools_are_no_clean_images(name: str, fresh: Workspace, tmp_path: Path) -> None:
    folder = masks(tmp_path)
    (folder / "masks" / name).write_text("0 0.5 0.5 0.1 0.1")
    result = take(fresh, "masks", folder, clean=True)
    assert verdicts(fresh) == {"a.png": "none", "b.png": "clean"} and len(result.refused) == 1


def test_a_mask_that_is_a_link_is_no_clean_image(fresh: Workspace, tmp_path: Path) -> None:
    folder = masks(tmp_path)
    (folder / "masks" / "a.png").symlink_to(mask(tmp_path / "elsewhere.png", LEFT))
    take(fresh, "masks", folder, clean=True)
    assert verdicts(fresh) == {"a.png": "none", "b.png": "clean"}


def test_a_mask_of_no_image_may_be_any_images(fresh: Workspace, tmp_path: Path) -> None:
    folder = masks(tmp_path)
    mask(folder / "masks" / "a.png", LEFT)
    mask(folder / "masks" / "bee.png", LEFT)
    result = take(fresh, "masks", folder, clean=True)
    assert verdicts(fresh) == {"a.png": 400, "b.png": "none"}
    assert sorted(one.name for one in result.refused) == ["--clean", "bee.png"]


def test_what_systems_leave_in_folders_is_no_mask(fresh: Workspace, tmp_path: Path) -> None:
    folder = masks(tmp_path)
    mask(folder / "masks" / "a.png", LEFT)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "README.txt"):
        (folder / "masks" / name).write_bytes(b"x")
    take(fresh, "masks", folder, clean=True)
    assert verdicts(fresh) == {"a.png": 400, "b.png": "clean"}


def test_a_table_of_labels_with_bad_rows(fresh: Workspace, tmp_path: Path) -> None:
    folder = masks(tmp_path, ("a.png", "b.png", "c.png", "d.png"))
    mask(folder / "masks" / "a1.png", LEFT, value=1)
    (folder / "labels.csv").write_text(
        "image,mask,author,clean,lead_seconds\na.png,a1.png,ada,0,1\nb.png,../b.png,ada,0,1\n"
        "c.png,c1.png,ada,0,long\na.png,gone.png,ben,0,1\n"
    )
    result = take(fresh, "masks", folder, clean=True)
    assert verdicts(fresh) == {"a.png": 400, "b.png": "none", "c.png": "none", "d.png": "clean"}
    assert sorted(one.name for one in result.refused) == ["a.png", "b.png", "c.png"]


# ---- Hugging Face ----


def rows(path: Path, *given: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [
        {"image": {"bytes": pictures.encoded(pictures.scene(n + 1, HEIGHT, WIDTH)), "path": f"{n}.png"}}
        for n in range(len(given))
    ]
    parquet.write_table(pyarrow.Table.from_pylist([a | b for a, b in zip(images, given, strict=True)]), path)
    return path


def test_hugging_face(fresh: Workspace, tmp_path: Path) -> None:
    good = pictures.encoded(boxed(LEFT).astype("uint8"))
    struct = {"bytes": good, "path": "m.png"}
    bad = {"bytes": b"no picture", "path": "m.png"}
    pseudo = {"mask": None, "confidence_map": {"bytes": good, "path": "c.png"}}
    nothing = {"mask": None, "confidence_map": None}
    path = rows(
        tmp_path / "t.parquet", {"mask": struct} | {"confidence_map": None}, {"mask": bad}, pseudo, nothing
    )
    result = take(fresh, "hf", path, clean=True)
    assert verdicts(fresh) == {
        "t.parquet#0": 400, "t.parquet#1": "none", "t.parquet#2": "none", "t.parquet#3": "clean"
    }  # fmt: skip
    assert [one.name for one in result.refused] == ["t.parquet#1"]


def test_hugging_face_without_masks(fresh: Workspace, tmp_path: Path) -> None:
    path = rows(tmp_path / "t.parquet", {"prompt": "a"}, {"prompt": "b"})
    with pytest.raises(InputRefused, match="--column mask="):
        take(fresh, "hf", path, clean=True)
    assert take(fresh, "hf", path).added == 2


# ---- Label Studio, HADM, RichHF, folders ----


def task(number: int, *annotations: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "data": {"image": f"images/{number}.png"}, "annotations": list(annotations)} | more


def annotation(author: str = "a@b.c", **changes: Any) -> dict[str, Any]:
    strokes = brush_results(boxed(LEFT).astype("uint8"), ("shape distortion",))
    return {"id": 5, "completed_by": {"email": author}, "result": strokes} | changes


def label_studio(folder: Path, *tasks: Any) -> Path:
    for number in range(1, 9):
        picture(folder / "images" / f"{number}.png", number)
    (folder / "tasks.json").write_text(json.dumps(tasks))
    return folder


def test_label_studio(fresh: Workspace, tmp_path: Path) -> None:
    other = {"type": "choices", "value": {"choices": ["bad"]}}
    without = task(7)
    del without["annotations"]
    folder = label_studio(
        tmp_path,
        task(1, annotation()),
        task(2, annotation(result=[other])),
        task(3, annotation(was_cancelled=True)),
        task(4, drafts=[{"result": []}]),
        task(5, total_annotations=1),
        task(6),
        without,
        task(8, annotation(), annotation("b@b.c", result=[other])),
    )
    take(fresh, "label-studio", folder, clean=True)
    found = verdicts(fresh)
    assert [found[f"task {n}"] for n in range(1, 9)] == [
        400, "none", "none", "none", "none", "clean", "none", 400
    ]  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [
        {"result": "none"},
        {"result": None},
        annotation(updated_at="yesterday"),
        "text",
        annotation(result=[3]),
    ],
)
def test_an_annotation_that_cannot_be_read_is_no_clean_image(
    bad: Any, fresh: Workspace, tmp_path: Path
) -> None:
    tasks = [task(1, bad), task(2), task(3, bad, annotation("b@b.c"))]
    tasks[1]["data"] = tasks[0]["data"]
    result = take(fresh, "label-studio", label_studio(tmp_path, *tasks), clean=True)
    assert not [label for _, labels in said(fresh).values() for label in labels if label.clean]
    assert result.added == 2 and [one.name for one in result.refused] == ["task 1", "task 3"]


def test_strokes_that_mark_nothing_are_no_clean_image(fresh: Workspace, tmp_path: Path) -> None:
    empty = brush_results(boxed(LEFT).astype("uint8"), ("shape distortion",))
    empty[0]["value"]["rle"] = list(encode_mask(boxed()))
    take(fresh, "label-studio", label_studio(tmp_path, task(1, annotation(result=empty))), clean=True)
    assert verdicts(fresh) == {"task 1": "none"}


def test_label_studio_ids_that_restart(fresh: Workspace, tmp_path: Path) -> None:
    tasks = [task(1), task(1, annotation()), task(1, annotation())]
    tasks[1]["data"], tasks[2]["data"] = {"image": "images/2.png"}, {"image": "images/3.png"}
    take(fresh, "label-studio", label_studio(tmp_path, *tasks), clean=True)
    with fresh.catalog(read_only=True) as catalog:
        labels = catalog.labels.of_images([image.id for image in catalog.images.find()])
    assert sorted(label.clean for label in labels) == [False, False, True]


@pytest.mark.parametrize(
    "payload",
    [
        {"annotation": [{"bbox": [10, 10, 30, 30]}]},
        {"annotation": [{"body_parts": "hand", "bbox": "wide"}]},
        {"annotation": {"bbox": [10, 10, 30, 30]}},
        {"annotations": [{"body_parts": "hand", "bbox": [10, 10, 30, 30]}]},
        {"human": ["missing arm"]},
        {"annotation": [{"body_parts": "hand", "bbox": [900, 900, 950, 950]}]},
    ],
)
def test_hadm(payload: dict[str, Any], fresh: Workspace, tmp_path: Path) -> None:
    layouts.hadm(tmp_path)
    about = {"image": {"file_name": "s_1.jpg"}}
    (tmp_path / "annotations" / "val_sdxl" / "s_1.json").write_text(json.dumps(about | payload))
    take(fresh, "hadm", tmp_path, clean=True)
    found = {name: labels for name, (_, labels) in said(fresh).items()}
    assert not found["s_1.json"] and [label.clean for label in found["s_2.json"]] == [True]


def test_richhf_marks_that_vanish_in_a_small_image(fresh: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "pick" / "a.png"
    path.parent.mkdir()
    path.write_bytes(pictures.encoded(pictures.scene(1, 4, 4)))
    heat = np.zeros((512, 512), dtype=np.uint8)
    heat[60:100, 60:100] = 255
    layouts.tfrecord(
        tmp_path / "t.tfrecord", [{"filename": b"a.png", "artifact_map": pictures.encoded(heat)}]
    )
    take(fresh, "richhf", tmp_path, clean=True, images=tmp_path / "pick")
    assert [labels for _, labels in said(fresh).values()] == [[]]


def test_richhf(fresh: Workspace, tmp_path: Path) -> None:
    picture(tmp_path / "pick" / "a.png", 1)
    layouts.tfrecord(tmp_path / "t.tfrecord", [{"filename": b"a.png", "artifact_map": b"no picture"}])
    take(fresh, "richhf", tmp_path, clean=True, images=tmp_path / "pick")
    assert [labels for _, labels in said(fresh).values()] == [[]]


def test_boxes_with_reasons(fresh: Workspace, tmp_path: Path) -> None:
    """An image whose boxes are refused, or that no row describes, is not clean; one with an empty list is."""
    sound = {"bbox": [2, 2, 8, 8], "type": "artifact"}
    lists: dict[str, Any] = {"a.png": [sound | {"importance": 0}], "b.png": [], "c.png": None}
    with (tmp_path / "t.jsonl").open("w") as file:
        for number, (name, defects) in enumerate(lists.items(), start=1):
            picture(tmp_path / name, number)
            file.write(json.dumps({"file_name": name, "coordinates": "pixels", "defects": defects}) + "\n")
    take(fresh, "sdg", tmp_path / "t.jsonl", clean=True, mapping={"artifact": "shape distortion"})
    found = verdicts(fresh)
    assert found["b.png"] == "clean"
    assert {found.get(name, "none") for name in ("a.png", "c.png")} == {"none"}


def test_a_folder_of_images_refuses_the_option(fresh: Workspace, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(InputRefused, match="--clean"):
        take(fresh, "folder", tmp_path, clean=True)
    table = tmp_path / "t.csv"
    table.write_text("file_name,prompt\na.png,a hand\n")
    with pytest.raises(InputRefused, match="--clean"):
        import_data(fresh, ImportRequest(path=tmp_path, prompts=table, clean=True))


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_knows_the_option(format: str, fresh: Workspace, tmp_path: Path) -> None:
    """A format is tried above or refuses; a new one has to be added here."""
    tried = {"coco", "masks", "pal4vst", "hf", "label-studio", "hadm", "richhf", "sdg", "synthscars"}
    assert format in tried or not FORMATS[format].annotated


def test_the_request_passes_partial_on(fresh: Workspace, tmp_path: Path) -> None:
    folder = coco(tmp_path, [SOUND, UNMAPPED])
    import_data(fresh, ImportRequest(path=folder, format="coco", validation=0.0))
    assert verdicts(fresh) == {"1.png": "none"}
    import_data(fresh, ImportRequest(path=folder, format="coco", validation=0.0, partial=True))
    assert verdicts(fresh) == {"1.png": 400}
