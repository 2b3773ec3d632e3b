"""Published layouts, made on the spot: COCO, masks, PAL4VST, RichHF-18K's TFRecords, HADM."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as pycoco

from pipelines.exchange.readers.tfrecord import masked_crc32c
from tests.pipelines.exchange import pictures

HEIGHT, WIDTH = 96, 128


def ring() -> np.ndarray:
    """Class 1 with a hole, class 3 in a corner: what outlines alone would lose."""
    label_map = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    label_map[10:40, 10:40] = 1
    label_map[20:30, 20:30] = 0
    label_map[-5:, -5:] = 3
    return label_map


def coco_code(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed RLE of `mask > 0`, JSON-ready."""
    code = pycoco.encode(np.asfortranarray(mask > 0, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def picture(folder: Path, name: str, number: int) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pictures.encoded(pictures.scene(number), "JPEG" if name.endswith("jpg") else "PNG"))
    return path


def coco(folder: Path) -> Path:
    """Polygons, compressed and plain RLE, a box, one unlabelled picture, and rows that cannot be used."""
    for number in range(5):
        picture(folder / "images", f"{number}.png", number)
    mask = ring() == 1
    plain = {"size": [HEIGHT, WIDTH], "counts": [0, 5, HEIGHT * WIDTH - 5]}
    square = [10, 10, 30, 10, 30, 30, 10, 30]
    said: dict[str, Any] = {
        "categories": [{"id": 7, "name": "shape distortion"}, {"id": 9, "name": "odd hand"}],
        "images": [{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in range(5)],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 7, "segmentation": coco_code(mask)},
            {"id": 2, "image_id": 1, "category_id": 9, "segmentation": [square], "bbox": [0, 0, 1, 1]},
            {"id": 3, "image_id": 2, "category_id": 7, "segmentation": plain},
            {"id": 4, "image_id": 2, "category_id": 9, "bbox": [100, 80, 60, 60]},
        ],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(said))
    return path


def tfrecord(path: Path, examples: list[dict[str, bytes | float]]) -> Path:
    """A TFRecord file as TensorFlow writes it; checksums of data are left 0."""
    body = b""
    for said in examples:
        data = example(said)
        length = struct.pack("<Q", len(data))
        body += length + struct.pack("<I", masked_crc32c(length)) + data + bytes(4)
    path.write_bytes(body)
    return path


def example(said: dict[str, bytes | float]) -> bytes:
    entries = b""
    for name, value in said.items():
        if isinstance(value, bytes):
            feature = _field(1, _field(1, value))
        else:
            feature = _field(2, _field(1, struct.pack("<f", value)))
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def heat(points: list[tuple[int, int]]) -> bytes:
    """RichHF's artifact map: circles of one radius about (x, y), 512², as a PNG."""
    rows, columns = np.mgrid[:512, :512]
    drawn = np.zeros((512, 512), dtype=np.uint8)
    for x, y in points:
        drawn[(rows - y) ** 2 + (columns - x) ** 2 < 25**2] = 255
    return pictures.encoded(drawn)


def richhf(folder: Path) -> Path:
    """Two rows with pictures (one by path, one by bare name) and one without."""
    pick = folder / "pick-a-pic"
    picture(pick, "train/a.png", 1)
    picture(pick, "b.png", 2)
    rows: list[dict[str, bytes | float]] = [
        {"filename": b"train/a.png", "artifact_map": heat([(128, 256), (400, 100)]), "artifact_score": 0.25},
        {"filename": b"train/b.png", "artifact_map": heat([]), "artifact_score": 1.0},
        {"filename": b"train/gone.png", "artifact_map": heat([])},
    ]
    tfrecord(folder / "train.tfrecord", rows)
    return pick


def hadm(folder: Path) -> None:
    """One picture with a broken hand and a missing arm, one that is good."""
    home = folder / "annotations" / "val_sdxl"
    home.mkdir(parents=True)
    picture(folder / "images" / "val_sdxl", "s_1.jpg", 1)
    picture(folder / "images" / "val_sdxl", "s_2.jpg", 2)
    broken = {
        "image": {"file_name": "s_1.jpg", "tag": "bad", "prompt": "a man waving"},
        "annotation": [{"body_parts": "hand", "bbox": [10, 20, 30, 50], "level": "severe"}],
        "human": [
            {"bbox": [100, 90, 60, 0], "tag": ["human missing arm"]},
            {"bbox": [0, 0, 9, 9], "tag": []},
        ],
    }
    (home / "s_1.json").write_text(json.dumps(broken))
    good = {"image": {"file_name": "s_2.jpg", "tag": "good", "prompt": ""}, "annotation": [], "human": []}
    (home / "s_2.json").write_text(json.dumps(good))


def synthscars(folder: Path) -> None:
    """Two records of one picture, one with two polygons, and a picture of the test split."""
    for split, names in {"train": ("a.png",), "test": ("t.png",)}.items():
        (folder / split / "annotations").mkdir(parents=True)
        for name in names:
            picture(folder / split / "images", name, len(split))
    square, corner = [10, 10, 30, 10, 30, 40, 10, 40], [50, 60, 70, 60, 50, 80]
    train = {
        "0": {
            "img_file_name": "a.png",
            "caption": "the hand has six fingers and the sign cannot be read",
            "refs": [
                {"segmentation": [square], "sentence": "six fingers", "phrase": "hand"},
                {"segmentation": [corner], "sentence": "garbled letters"},
            ],
        },
        "1": {
            "img_file_name": "a.png",
            "caption": "",
            "refs": [{"segmentation": [[0, 0, 5, 0, 5, 5, 0, 5]]}],
        },
    }
    test = [
        {"img_file_name": "t.png", "caption": "", "refs": [{"segmentation": square, "sentence": "melted"}]}
    ]
    (folder / "train" / "annotations" / "train.json").write_text(json.dumps(train))
    (folder / "test" / "annotations" / "test.json").write_text(json.dumps(test))


def pal4vst(folder: Path) -> None:
    """Two tasks with images and binary masks, one without masks."""
    for task, value in (("inpainting", 255), ("ldm", 1)):
        picture(folder / task / "images", "x.jpg", len(task))
        mask = (ring() == 1).astype(np.uint8) * value
        (folder / task / "labels").mkdir()
        (folder / task / "labels" / "x.png").write_bytes(pictures.encoded(mask))
    picture(folder / "real" / "images", "y.jpg", 5)
