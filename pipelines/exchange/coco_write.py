"""COCO instances out: one annotation for each class and connected region, RLE with holes, memory flat."""

import json
import shutil
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dataengine.masks import LabelMap, components
from dataengine.records import Image


def annotations_of(label_map: LabelMap) -> list[dict[str, Any]]:
    """`category_id`, `segmentation`, `bbox`, `area` of every region, by class and then in scan order.

    Only the part of the map that holds something is looked at, so that small regions cost little.
    """
    from scipy import ndimage

    rows = np.flatnonzero(label_map.any(axis=1))
    if not rows.size:
        return []
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(label_map[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    part = label_map[top:bottom, left:right]
    found = []
    for number in np.flatnonzero(np.bincount(part.ravel())[1:]) + 1:
        numbers, _ = components(part == number)
        for region, (down, across) in enumerate(ndimage.find_objects(numbers), start=1):
            mask = numbers[down, across] == region
            y, x = top + down.start, left + across.start
            found.append(
                {
                    "category_id": int(number),
                    "segmentation": encode_at(mask, y, x, label_map.shape),
                    "bbox": [x, y, mask.shape[1], mask.shape[0]],
                    "area": int(np.count_nonzero(mask)),
                    "iscrowd": 0,
                }
            )
    return found


def encode_at(mask: NDArray[np.bool_], y: int, x: int, size: tuple[int, ...]) -> dict[str, Any]:
    """COCO's compressed RLE of a small mask that lies at (y, x) in a picture of `size` (height, width)."""
    from pycocotools import mask as coco

    height, width = size
    padded = np.zeros((mask.shape[1], mask.shape[0] + 2), dtype=np.int8)
    padded[:, 1:-1] = mask.T
    step = np.diff(padded, axis=1)
    column, row = np.nonzero(step)
    at = (x + column) * height + y + row
    # A run that ends where the next begins goes on over the border of two columns.
    if mask.shape[0] == height:
        same = np.flatnonzero(at[1:] == at[:-1])
        at = np.delete(at, np.concatenate([same, same + 1]))
    counts = np.diff(at, prepend=0).tolist()
    if at[-1] < height * width:
        counts.append(height * width - int(at[-1]))
    encoded = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}


class CocoFile:
    """A COCO file that grows by a picture at a time; it is whole after `close`."""

    def __init__(self, path: Path, classes: tuple[str, ...]) -> None:
        self.images = self.annotations = 0
        self._file = path.open("w", encoding="utf-8")
        # COCO keeps images and annotations apart, so annotations wait in a file of their own.
        self._rest = path.with_suffix(".annotations")
        self._waiting = self._rest.open("w+", encoding="utf-8")
        categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
        info = {"description": "Artifact Clinic", "version": "1"}
        self._file.write(
            f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories)},\n"images": ['
        )

    def add(self, image: Image, name: str, drawn: dict[str, LabelMap], clean_by: list[str]) -> None:
        """One picture, who drew what on it, and who found nothing."""
        entry: dict[str, Any] = {
            "id": self.images + 1,
            "file_name": name,
            "height": image.height,
            "width": image.width,
        }
        if clean_by:
            entry["clean_by"] = clean_by
        _append(self._file, entry, first=self.images == 0)
        self.images += 1
        for author, label_map in drawn.items():
            for one in annotations_of(label_map):
                whole = {"id": self.annotations + 1, "image_id": self.images, **one, "author": author}
                _append(self._waiting, whole, first=self.annotations == 0)
                self.annotations += 1

    def close(self) -> None:
        """Write the annotations behind the images."""
        self._file.write('],\n"annotations": [')
        self._waiting.seek(0)
        shutil.copyfileobj(self._waiting, self._file)
        self._file.write("]}\n")
        self._file.close()
        self._waiting.close()
        self._rest.unlink()


def _append(file: IO[str], entry: dict[str, Any], first: bool) -> None:
    file.write(("\n" if first else ",\n") + json.dumps(entry))
