"""One picture, several entries: every mark counts, and importing again adds nothing."""

import json
import shutil
import unicodedata
from hashlib import sha256
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataengine.masks import pack_label_map
from dataengine.records import Label
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
    marked,
    mask,
    picture,
    said,
    take,
    verdicts,
)
from tests.pipelines.exchange.test_clean import annotation, rewritten, rows, task
from tests.pipelines.exchange.test_roundtrips import workspaces


def entries(folder: Path, *names: str) -> Path:
    """A COCO file with an image entry of each name, ids from 1, over byte-identical pictures."""
    for name in names:
        picture(folder / "images" / name)
    images = [{"id": number, "file_name": name} for number, name in enumerate(names, start=1)]
    category = {"id": 1, "name": "shape distortion"}
    (folder / "coco.json").write_text(
        json.dumps({"images": images, "annotations": [], "categories": [category]})
    )
    return folder


def twice(workspace: Workspace, format: str, path: Path, **how: Any) -> None:
    """Imports, and then again, which adds nothing; a trial counts as much before as is stored then."""
    trial = take(workspace, format, path, trial=True, **how)
    first = take(workspace, format, path, **how)
    assert (trial.added, trial.labels) == (first.added, first.labels)
    before = said(workspace)
    again = take(workspace, format, path, **how)
    assert (again.added, again.labels) == (0, 0) and said(workspace) == before


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("names", [("a.png", "a.png"), ("a.png", "copy.png"), ("copy.png", "sub/a.png")])
def test_two_entries_of_one_picture(
    names: tuple[str, ...], clean: bool, fresh: Workspace, tmp_path: Path
) -> None:
    folder = rewritten(entries(tmp_path, *names), annotations=[mark(1), mark(2, RIGHT)])
    twice(fresh, "coco", folder, clean=clean)
    [(_, [label])] = said(fresh).values()
    assert np.array_equal(marked(fresh, label), boxed(LEFT, RIGHT)) and label.revision == 1


@pytest.mark.parametrize("order", list(permutations((1, 2, 3))))
def test_a_marked_picture_with_copies_never_ends_clean(
    order: tuple[int, ...], fresh: Workspace, tmp_path: Path
) -> None:
    folder = rewritten(entries(tmp_path, "a.png", "b.png", "c.png"), annotations=[mark(order[0])])
    twice(fresh, "coco", folder, clean=True)
    assert list(verdicts(fresh).values()) == [400]


def test_copies_far_apart(fresh: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.exchange.importer.BATCH_ROWS", 2)
    folder = entries(tmp_path, *[f"{number:02d}.png" for number in range(9)])
    for number in range(1, 8):
        picture(folder / "images" / f"{number:02d}.png", number)
    rewritten(folder, annotations=[mark(9, RIGHT), mark(1), mark(5)])
    twice(fresh, "coco", folder, clean=True)
    assert sorted(map(str, verdicts(fresh).values())) == ["400", "800", *["clean"] * 6]


def test_a_copy_that_was_refused(fresh: Workspace, tmp_path: Path) -> None:
    folder = entries(tmp_path, "a.png", "b.png")
    twice(fresh, "coco", rewritten(folder, annotations=[mark(2, category_id=9)]), clean=True)
    assert list(verdicts(fresh).values()) == ["none"]
    twice(fresh, "coco", rewritten(folder, annotations=[mark(1), mark(2, category_id=9)]), clean=True)
    assert list(verdicts(fresh).values()) == ["none"]
    take(fresh, "coco", folder, clean=True, partial=True)
    assert list(verdicts(fresh).values()) == [400]


def test_opinions_of_several_people_stay_opinions(fresh: Workspace, tmp_path: Path) -> None:
    annotations = [mark(1, author="ada"), mark(2, RIGHT, author="ben"), mark(2, RIGHT, author="ada")]
    twice(fresh, "coco", rewritten(entries(tmp_path, "a.png", "b.png"), annotations=annotations))
    [(_, labels)] = said(fresh).values()
    found = {label.author: int(marked(fresh, label).sum()) for label in labels}
    assert found == {"ada": 800, "ben": 400}


def test_what_a_person_marked_here_is_not_called_clean(fresh: Workspace, tmp_path: Path) -> None:
    folder = entries(tmp_path, "a.png")
    take(fresh, "coco", folder)
    [(image, _)] = said(fresh).values()
    with fresh.catalog() as catalog:
        blob = fresh.blobs.put(pack_label_map(boxed(LEFT).astype(np.uint8)))
        catalog.labels.submit(
            Label(image_id=image.id, author="ada", height=HEIGHT, width=WIDTH, label_map=blob, clean=False)
        )
        catalog.commit()
    take(fresh, "coco", folder, clean=True)
    assert list(verdicts(fresh).values()) == [400]


def test_a_corrected_file_is_a_new_revision(fresh: Workspace, tmp_path: Path) -> None:
    folder = rewritten(entries(tmp_path, "a.png", "b.png"), annotations=[mark(1), mark(2, RIGHT)])
    take(fresh, "coco", folder)
    twice(fresh, "coco", rewritten(folder, annotations=[mark(1)]))
    [(_, [label])] = said(fresh).values()
    assert label.revision == 2 and np.array_equal(marked(fresh, label), boxed(LEFT))
    clean = [{"id": 1, "file_name": "a.png", "clean_by": ["import:coco"]}]
    take(fresh, "coco", rewritten(folder, images=clean, annotations=[]))
    assert list(verdicts(fresh).values()) == ["clean"]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    copies=st.lists(st.integers(0, 2), min_size=1, max_size=6),
    marks=st.lists(st.tuples(st.integers(0, 5), st.sampled_from([LEFT, RIGHT])), max_size=6),
    clean=st.booleans(),
)
def test_any_entries_give_the_union_of_their_marks(
    copies: list[int], marks: list[tuple[int, list[int]]], clean: bool, _bare: Path
) -> None:
    with workspaces(_bare) as (workspace, _, folder):
        names = [f"{at}.png" for at in range(len(copies))]
        home = entries(folder / "d", *names)
        for name, number in zip(names, copies, strict=True):
            picture(home / "images" / name, number)
        known = [(at, polygon) for at, polygon in marks if at < len(copies)]
        rewritten(home, annotations=[mark(at + 1, polygon) for at, polygon in known])
        twice(workspace, "coco", home, clean=clean)
        found = {image.sha256: (image, labels) for image, labels in said(workspace).values()}
        assert len(found) == len(set(copies))
        for number in set(copies):
            polygons = [polygon for at, polygon in known if copies[at] == number]
            sha = sha256(pictures.encoded(pictures.scene(number, HEIGHT, WIDTH))).hexdigest()
            labels = found[sha][1]
            assert len(labels) == (1 if polygons or clean else 0)
            for label in labels:
                assert np.array_equal(marked(workspace, label), boxed(*polygons))


# ---- other formats ----


def test_two_mask_files(fresh: Workspace, tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    mask(tmp_path / "masks" / "a_mask.png", LEFT)
    mask(tmp_path / "masks" / "a_label.png", RIGHT)
    mask(tmp_path / "masks" / "a.png")
    twice(fresh, "masks", tmp_path, clean=True)
    assert verdicts(fresh) == {"a.png": 800}


def test_two_mask_files_of_which_one_is_damaged(fresh: Workspace, tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    mask(tmp_path / "masks" / "a_mask.png", LEFT)
    (tmp_path / "masks" / "a_label.png").write_bytes(b"no picture")
    twice(fresh, "masks", tmp_path, clean=True)
    assert verdicts(fresh) == {"a.png": "none"}
    assert take(fresh, "masks", tmp_path, partial=True).labels == 1 and verdicts(fresh) == {"a.png": 400}


def test_copies_beside_masks(fresh: Workspace, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / "images" / name)
    mask(tmp_path / "masks" / "b.png", LEFT)
    mask(tmp_path / "masks" / "c.png")
    twice(fresh, "masks", tmp_path, clean=True)
    assert list(verdicts(fresh).values()) == [400]


def test_tasks_of_pal4vst_that_share_a_picture(fresh: Workspace, tmp_path: Path) -> None:
    for home, polygon in (("one", LEFT), ("two", RIGHT)):
        picture(tmp_path / home / "images" / "a.png")
        mask(tmp_path / home / "labels" / "a.png", polygon)
    twice(fresh, "pal4vst", tmp_path)
    assert list(verdicts(fresh).values()) == [800]


def test_rows_of_hugging_face_that_share_a_picture(fresh: Workspace, tmp_path: Path) -> None:
    same = {"bytes": pictures.encoded(pictures.scene(7, HEIGHT, WIDTH)), "path": "a.png"}
    shapes = [boxed(LEFT), boxed(RIGHT), boxed()]
    masks = [{"bytes": pictures.encoded(one.astype(np.uint8)), "path": "m.png"} for one in shapes]
    path = rows(tmp_path / "t.parquet", *[{"image": same, "mask": one} for one in masks])
    twice(fresh, "hf", path)
    assert list(verdicts(fresh).values()) == [800]


def test_records_of_richhf_that_share_a_picture(fresh: Workspace, tmp_path: Path) -> None:
    picture(tmp_path / "pick" / "a.png")
    shutil.copy(tmp_path / "pick" / "a.png", tmp_path / "pick" / "b.png")
    names = (b"a.png", b"a.png", b"b.png")
    heats = (layouts.heat([(100, 100)]), layouts.heat([(300, 300)]), layouts.heat([]))
    layouts.tfrecord(
        tmp_path / "t.tfrecord",
        [{"filename": name, "artifact_map": heat} for name, heat in zip(names, heats, strict=True)],
    )
    twice(fresh, "richhf", tmp_path, images=tmp_path / "pick")
    [(_, [label])] = said(fresh).values()
    assert marked(fresh, label)[9, 12] and marked(fresh, label)[28, 37]


def test_tasks_of_label_studio_that_share_a_picture(fresh: Workspace, tmp_path: Path) -> None:
    picture(tmp_path / "images" / "1.png")
    tasks = [task(1, annotation(), annotation("b@b.c", result=[])), task(1), task(2, annotation(result=[]))]
    tasks[1]["data"] = tasks[2]["data"] = tasks[0]["data"]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    twice(fresh, "label-studio", tmp_path, clean=True)
    [(_, labels)] = said(fresh).values()
    found = {label.author: int(marked(fresh, label).sum()) for label in labels}
    assert found == {"label-studio:a@b.c": 400, "label-studio:b@b.c": 0}


def test_names_of_masks(fresh: Workspace, tmp_path: Path) -> None:
    for number, name in enumerate(("a.jpg", "a.png", "night_mask.png", "IMG_1.PNG", "é.png", "sub/b.png")):
        layouts.picture(tmp_path / "images", name, number)
    size = pictures.scene(0).shape[:2]
    for name in ("a.png", "night_mask.png", "img_1.png", "e\u0301_label.png", "sub/b_MASK.png"):
        path = tmp_path / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures.encoded(np.full(size, 255, dtype=np.uint8)))
    take(fresh, "masks", tmp_path)
    labelled = {image.origin for image, labels in said(fresh).values() if labels}
    assert labelled == {
        f"masks:{name}" for name in ("a.png", "night_mask.png", "IMG_1.PNG", "é.png", "sub/b.png")
    }


def test_a_mask_that_fits_two_pictures_is_neither_ones(fresh: Workspace, tmp_path: Path) -> None:
    for number, name in enumerate(("a.jpg", "a.png")):
        layouts.picture(tmp_path / "images", name, number)
    mask(tmp_path / "masks" / "a_mask.png", LEFT)
    result = take(fresh, "masks", tmp_path, clean=True)
    assert result.labels == 0 and "a.jpg or a.png" in "".join(one.reason for one in result.refused)


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_accents_however_they_are_composed(stored: str, fresh: Workspace, tmp_path: Path) -> None:

    name, other = (unicodedata.normalize(form, "Bildübung é.png") for form in (stored, "NFC"))
    other = unicodedata.normalize("NFD" if stored == "NFC" else "NFC", name)
    coco(tmp_path, [])
    picture(tmp_path / "images" / name)
    images = [{"id": 1, "file_name": other}]
    take(fresh, "coco", rewritten(tmp_path, images=images, annotations=[mark(1)]))
    assert list(verdicts(fresh).values()) == [400]
    (tmp_path / "images" / "metadata.csv").write_text(f"file_name,prompt\n{other},a hand\n", encoding="utf-8")
    picture(tmp_path / "images" / name, 5)
    take(fresh, "folder", tmp_path / "images")
    assert {image.prompt for image, _ in said(fresh).values()} == {"", "a hand"}
