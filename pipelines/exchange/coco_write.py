"""COCO instances out: one annotation for each class and connected region, RLE with holes, memory flat."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dataengine.masks import LabelMap
from dataengine.records import Image


def annotations_of(label_map: LabelMap) -> list[dict[str, Any]]:
    """`category_id`, `segmentation`, `bbox`, `area` of every 8-connected region, by class, in scan order.

    Works on the runs of its rows, of which there are hundreds where there are a hundred thousand pixels.
    """
    height, width = label_map.shape
    starts, ends, values = _row_runs(label_map)
    if not starts.size:
        return []
    region = _regions(starts, ends, values, width)
    order = np.argsort(region, kind="stable")
    bounds = np.flatnonzero(np.diff(region[order], prepend=-1, append=-1))
    found = []
    for first, last in pairwise(bounds.tolist()):
        mine = order[first:last]
        begin, end = starts[mine], ends[mine]
        top, bottom = int(begin[0]) // width, int(begin[-1]) // width + 1
        left, right = int((begin % width).min()), int(((end - 1) % width).max()) + 1
        mask = np.zeros((bottom - top, right - left), dtype=bool)
        shift = begin // width * (width - mask.shape[1]) + top * mask.shape[1] + left
        flat = mask.ravel()
        for start, stop in zip((begin - shift).tolist(), (end - shift).tolist(), strict=True):
            flat[start:stop] = True
        found.append(
            {
                "category_id": int(values[mine[0]]),
                "segmentation": encode_at(mask, top, left, (height, width)),
                "bbox": [left, top, mask.shape[1], mask.shape[0]],
                "area": int((end - begin).sum()),
                "iscrowd": 0,
            }
        )
    return sorted(found, key=lambda one: one["category_id"])


Positions = NDArray[np.int64]


def _row_runs(label_map: LabelMap) -> tuple[Positions, Positions, NDArray[np.uint8]]:
    """Flat start, flat end and class of every run of one class within a row, in scan order; 0 left out."""
    flat, width = label_map.ravel(), label_map.shape[1]
    differs = np.empty(-(-flat.size // 8) * 8, dtype=bool)
    differs[0], differs[flat.size :] = True, False
    np.not_equal(flat[1:], flat[:-1], out=differs[1 : flat.size])
    # Most eights of pixels are all alike.
    at = (np.flatnonzero(differs.view(np.uint64))[:, None] * 8 + np.arange(8)).ravel()
    edges = at[differs[at]]
    over = np.flatnonzero(flat[np.arange(width, flat.size, width)]) * width + width
    starts = np.union1d(edges, over)
    ends = np.append(starts[1:], flat.size)
    drawn = flat[starts] > 0
    return starts[drawn], ends[drawn], flat[starts[drawn]]


def _regions(starts: Positions, ends: Positions, values: NDArray[np.uint8], width: int) -> Positions:
    """The first run of the 8-connected region of one class that each run belongs to."""
    below = (starts // width + 1) * width
    low = np.maximum(np.searchsorted(ends, starts + width - 1, "right"), np.searchsorted(starts, below))
    high = np.minimum(np.searchsorted(starts, ends + width, "right"), np.searchsorted(starts, below + width))
    counts = np.maximum(high - low, 0)
    upper = np.repeat(np.arange(len(starts)), counts)
    lower = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
    same = values[upper] == values[lower]
    parent = list(range(len(starts)))
    for one, other in zip(upper[same].tolist(), lower[same].tolist(), strict=True):
        while parent[one] != one:
            one = parent[one]
        while parent[other] != other:
            parent[other] = other = parent[parent[other]]
        parent[max(one, other)] = min(one, other)
    # A parent always comes first, so one pass leads every run to its region's first.
    for run, above in enumerate(parent):
        parent[run] = parent[above]
    return np.array(parent, dtype=np.int64)


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
