"""Small datasets of one picture and a few marks, and what an import makes of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.masks import pack_label_map, unpack_label_map
from dataengine.records import Image, Label
from pipelines.exchange.formats import import_dataset
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import ImportResult, Ingest
from pipelines.exchange.readers.folders import import_folder
from storage.workspace import Workspace
from tests.pipelines.exchange import pictures

CLASSES = ("shape distortion", "unreasonable content", "watermark")
HEIGHT, WIDTH = 48, 64
LEFT, RIGHT = [10, 10, 30, 10, 30, 30, 10, 30], [40, 20, 60, 20, 60, 40, 40, 40]
"""Squares of 20 × 20 pixels as polygons."""


def boxed(*polygons: list[int]) -> np.ndarray:
    """Bool HW of squares that are given as polygons."""
    drawn = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for left, top, right, _, _, bottom, *_ in polygons:
        drawn[top:bottom, left:right] = True
    return drawn


def picture(path: Path, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pictures.encoded(pictures.scene(number, HEIGHT, WIDTH)))
    return path


def mask(path: Path, *polygons: list[int], value: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pictures.encoded(boxed(*polygons).astype(np.uint8) * np.uint8(value)))
    return path


def mark(image: Any, polygon: Any = LEFT, **more: Any) -> dict[str, Any]:
    """A COCO annotation of class 1."""
    return {"id": 1, "image_id": image, "category_id": 1, "segmentation": [polygon], "iscrowd": 0} | more


def coco(folder: Path, annotations: list[Any], images: int = 1, **more: Any) -> Path:
    """A COCO folder of `images` pictures with ids from 1, named by them, and one category of ours."""
    for number in range(1, images + 1):
        picture(folder / "images" / f"{number}.png", number)
    said = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH}
            for number in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "shape distortion"}, {"id": 2, "name": "bad hand"}],
    }
    (folder / "coco.json").write_text(json.dumps(said | more))
    return folder


def take(
    workspace: Workspace, format: str, path: Path, partial: bool = False, trial: bool = False, **wanted: Any
) -> ImportResult:
    options = ImportOptions(path=path, **wanted)
    return import_dataset(workspace, format, options, Ingest(validation=0.0, partial=partial), trial=trial)


def said(workspace: Workspace) -> dict[str, tuple[Image, list[Label]]]:
    """Every image with its newest labels, by the file's name."""
    with workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find()
        labels = catalog.labels.of_images([image.id for image in images])
    return {
        image.origin.partition(":")[2].rpartition("/")[2] or image.origin: (
            image,
            [label for label in labels if label.image_id == image.id],
        )
        for image in images
    }


def marked(workspace: Workspace, label: Label) -> np.ndarray:
    """Bool HW: where a label marks anything."""
    if label.label_map is None:
        return np.zeros((label.height, label.width), dtype=bool)
    return unpack_label_map(workspace.blobs.get(label.label_map), label.height, label.width) > 0


def verdicts(workspace: Workspace) -> dict[str, str | int]:
    """ "clean", "none", or how many pixels are marked, by the file's name."""
    found: dict[str, str | int] = {}
    for name, (_, labels) in said(workspace).items():
        areas = [int(marked(workspace, label).sum()) for label in labels]
        found[name] = "none" if not labels else "clean" if not any(areas) else max(areas)
        assert all(label.clean == (area == 0) for label, area in zip(labels, areas, strict=True))
        assert not (any(label.clean for label in labels) and any(areas)), "one picture, both clean and marked"
    return found


def label_maps() -> dict[str, np.ndarray]:
    """Holes, single pixels, borders, classes that touch, noise, everything, and nothing."""
    rng = np.random.default_rng(5)
    ring = np.zeros((48, 64), np.uint8)
    ring[5:40, 5:50] = 1
    ring[10:30, 10:30] = 0
    ring[15:20, 15:20] = 3
    ring[20:40, 50:64] = 2
    corners = np.zeros((33, 71), np.uint8)
    corners[0, 0] = corners[-1, -1] = 1
    corners[0, -1] = corners[-1, 0] = 2
    corners[16, 35] = 3
    return {
        "ring": ring,
        "corners": corners,
        "diagonal": np.eye(37, 53, dtype=np.uint8) * 2,
        "noise": (rng.random((61, 40)) < 0.4).astype(np.uint8) * rng.integers(1, 4, (61, 40), np.uint8),
        "whole": np.full((20, 90), 3, np.uint8),
        "rows": np.repeat(np.arange(30, dtype=np.uint8)[:, None] % 4, 25, axis=1),
        "odd": np.pad(rng.integers(1, 4, (7, 11), np.uint8), ((101, 90), (67, 79))),
        "clean": np.zeros((24, 24), np.uint8),
    }


def labelled_images(workspace: Workspace, folder: Path) -> dict[str, np.ndarray]:
    """Fill a workspace with one image for each of `label_maps`, and give the maps by the images' ids."""
    drawn = label_maps()
    folder.mkdir()
    for number, (name, label_map) in enumerate(drawn.items()):
        (folder / f"{name}.png").write_bytes(pictures.encoded(pictures.scene(number, *label_map.shape)))
    import_folder(workspace, folder, validation=0.0)
    by_id = {}
    with workspace.catalog() as catalog:
        for image in catalog.images.find():
            label_map = by_id[image.id] = drawn[image.origin.removesuffix(".png")]
            blob = workspace.blobs.put(pack_label_map(label_map)) if label_map.any() else None
            catalog.labels.submit(
                Label(
                    image_id=image.id, author="ada", height=image.height, width=image.width,
                    label_map=blob, clean=blob is None,
                )
            )  # fmt: skip
        catalog.commit()
    return by_id
