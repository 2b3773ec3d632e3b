"""COCO out: regions, boxes and codes from runs are what painting every mask and asking COCO gives."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dataengine.errors import MaskRefused
from dataengine.masks import LabelMap, StoredMap, by_class, components, pack_label_map
from dataengine.records import Image
from pipelines.exchange.writers import coco
from pipelines.exchange.writers.coco import CocoFile, annotations_of
from tests.pipelines.exchange.layouts import coco_code

CLASSES = ("one", "two", "three")
SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))


def painted(label_map: LabelMap) -> list[dict[str, object]]:
    """The same annotations by painting each region, slowly."""
    found: list[dict[str, object]] = []
    for number, mask in by_class(label_map).items():
        numbers, count = components(mask)
        for region in (numbers == one for one in range(1, count + 1)):
            rows, columns = np.nonzero(region)
            corner = (int(columns.min()), int(rows.min()))
            found.append(
                {
                    "category_id": number,
                    "segmentation": coco_code(region),
                    "bbox": [*corner, int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1],
                    "area": len(rows),
                    "iscrowd": 0,
                }
            )
    return found


def batches() -> st.SearchStrategy[np.ndarray]:
    """One to four label maps of one size."""
    shapes = st.tuples(st.integers(1, 4), SIZES).map(lambda drawn: (drawn[0], *drawn[1]))
    sparse = st.sampled_from([0, 0, 0, 1, 1, 2, 127])
    return shapes.flatmap(lambda shape: arrays.arrays(np.uint8, shape, elements=sparse))


@given(batches())
def test_regions_and_codes_are_those_of_coco(label_maps: np.ndarray) -> None:
    packed = [pack_label_map(one) for one in label_maps]
    assert annotations_of(packed, *label_maps.shape[1:]) == [painted(one) for one in label_maps]


def shapes() -> dict[str, LabelMap]:
    """What the code of columns and the stack of maps could get wrong."""
    rng = np.random.default_rng(4)
    columns = np.zeros((6, 9), np.uint8)
    columns[:, 4:7] = 1
    corners = np.zeros((40, 30), np.uint8)
    corners[0, 0] = corners[0, -1] = corners[-1, 0] = corners[-1, -1] = 2
    rows, across = np.mgrid[:300, :400]
    distance = (rows - 150) ** 2 + (across - 200) ** 2
    rings = ((distance < 140**2) & (distance > 60**2)).astype(np.uint8)
    return {
        "whole columns": columns,
        "everything": np.ones((6, 9), np.uint8),
        "corners": corners,
        "rings": rings + 2 * (distance < 20**2).astype(np.uint8),
        "diagonal": np.eye(50, dtype=np.uint8),
        "noise": (rng.random((120, 90)) < 0.5).astype(np.uint8) * rng.integers(1, 4, (120, 90), np.uint8),
        "large": np.repeat(np.repeat(rng.integers(0, 3, (7, 5), np.uint8), 200, 0), 300, 1),
        "one row": rng.integers(0, 2, (1, 500), np.uint8),
        "one column": rng.integers(0, 2, (500, 1), np.uint8),
    }


@pytest.mark.parametrize("name", shapes())
def test_shapes(name: str) -> None:
    label_map = shapes()[name]
    twice = annotations_of([pack_label_map(label_map)] * 2, *label_map.shape)
    assert twice == [painted(label_map)] * 2


def test_nothing_drawn() -> None:
    assert annotations_of([pack_label_map(np.zeros((5, 4), np.uint8))], 5, 4) == [[]]


def test_one_map_that_lies_spoils_its_batch() -> None:
    good, short = pack_label_map(np.ones((4, 4), np.uint8)), pack_label_map(np.ones((4, 3), np.uint8))
    with pytest.raises(MaskRefused, match="covers 12 pixels"):
        annotations_of([good, short, good], 4, 4)


def test_the_file_is_the_one_that_plain_code_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte, whatever is worked on at once, with pictures of several sizes and several authors."""
    rng = np.random.default_rng(5)
    plain = {"images": [], "annotations": []}  # type: ignore[var-annotated]
    given_maps = []
    for number in range(1, 14):
        size = (20 + number % 3, 30)
        drawn = {f"ada-{k}": (rng.random(size) < 0.2).astype(np.uint8) * (1 + k) for k in range(number % 4)}
        clean_by = ["bea"] * (number % 2)
        entry = {"id": number, "file_name": f"{number}.png", "height": size[0], "width": size[1]}
        plain["images"].append(entry | ({"clean_by": clean_by} if clean_by else {}))
        for author, label_map in drawn.items():
            for one in painted(label_map):
                place = {"id": len(plain["annotations"]) + 1, "image_id": number}
                plain["annotations"].append(place | one | {"author": author})
        given_maps.append(
            (Image(id=str(number), sha256="0" * 64, height=size[0], width=size[1]), drawn, clean_by)
        )
    for waiting, pixels in ((1, 10**9), (3, 10**9), (256, 10**9), (256, 1300)):
        monkeypatch.setattr(coco, "WAITING", waiting)
        monkeypatch.setattr(coco, "MAX_PIXELS", pixels)
        path = tmp_path / "coco.json"
        file = CocoFile(path, CLASSES)
        for image, drawn, clean_by in given_maps:
            packed = {key: StoredMap(pack_label_map(one), *one.shape) for key, one in drawn.items()}
            file.add(image, f"{image.id}.png", packed, clean_by)
        file.close()
        lists = [
            f'"{name}": [' + ",".join("\n" + json.dumps(one) for one in plain[name]) + "]"
            for name in ("images", "annotations")
        ]
        head = json.dumps({"info": {"description": "Artifact Clinic", "version": "1"}})[:-1]
        categories = json.dumps([{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)])
        expected = f'{head},\n"categories": {categories},\n{lists[0]},\n{lists[1]}}}\n'
        assert path.read_text() == expected
        assert [one.name for one in tmp_path.iterdir()] == ["coco.json"]


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    label_map = shapes()["rings"]
    packed = {"ada": StoredMap(pack_label_map(label_map), *label_map.shape)}
    image = Image(id="i", sha256="0" * 64, height=300, width=400)

    def peak(count: int) -> int:
        file = CocoFile(tmp_path / f"{count}.json", CLASSES)
        tracemalloc.start()
        for _ in range(count):
            file.add(image, "i.png", packed, [])
        file.close()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    assert peak(3 * coco.WAITING) < 1.1 * peak(coco.WAITING)
