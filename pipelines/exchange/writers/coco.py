"""Write COCO instances: one annotation for each class and connected region, RLE with holes, constant memory.

Regions, boxes and codes are computed from the run lengths that labels are stored as, for many label maps at
once: no mask is decoded, and the overhead of NumPy calls is shared by all of them.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataengine.bounds import MAX_PIXELS
from dataengine.defects import region_payload
from dataengine.masks import LabelRuns, StoredMap, read_label_runs
from dataengine.records import Image, Region

Integers = NDArray[np.int64]

WAITING = 256
DIGIT_LIMITS = [16 << 5 * digits for digits in range(6)]
"""COCO writes numbers in digits of 5 bits, two's complement: below 16 one digit, below 512 two, …"""


def annotations_of(packed: Sequence[bytes], height: int, width: int) -> list[list[dict[str, Any]]]:
    """`category_id`, `segmentation`, `bbox`, `area` of every 8-connected region of every packed label map of
    one size, by class, in scan order. Raises `MaskRefused` as `unpack_label_map`.
    """
    found: list[list[dict[str, Any]]] = [[] for _ in packed]
    runs = _row_runs(read_label_runs(packed, height, width), height, width)
    if not runs.row.size:
        return found
    region = _regions(runs, width)
    order = np.argsort(region, kind="stable")
    region = region[order]
    of, row, left, right = (each[order] for each in runs[:4])
    first = np.flatnonzero(np.diff(region, prepend=-1))
    last = np.append(first[1:], region.size) - 1
    x, y = np.minimum.reduceat(left, first), row[first]
    columns = np.stack(
        [
            of[first],
            runs.values[order[first]],
            x,
            y - of[first] * (height + 1),
            np.maximum.reduceat(right, first) - x,
            row[last] + 1 - y,
            np.add.reduceat(right - left, first),
        ]
    )
    codes = _codes(region, row - of * (height + 1), left, right, height, width)
    for (which, number, *box, area), counts in zip(columns.T.tolist(), codes, strict=True):
        found[which].append(
            {
                "category_id": number,
                "segmentation": {"size": [height, width], "counts": counts},
                "bbox": box,
                "area": area,
                "iscrowd": 0,
            }
        )
    return found


class _Runs(NamedTuple):
    """Drawn runs within rows, in scan order: map, row (maps below each other, an empty row between), columns
    [left, right), class.
    """

    of: Integers
    row: Integers
    left: Integers
    right: Integers
    values: NDArray[np.uint8]


def _row_runs(runs: LabelRuns, height: int, width: int) -> _Runs:
    ends = np.cumsum(runs.lengths)
    drawn = np.flatnonzero(runs.values)
    start, end, values = ends[drawn] - runs.lengths[drawn], ends[drawn], runs.values[drawn]
    first = start // width
    pieces = (end - 1) // width + 1 - first
    row = np.repeat(first, pieces) + _count_up(pieces)
    left = np.maximum(np.repeat(start, pieces) - row * width, 0)
    right = np.minimum(np.repeat(end, pieces) - row * width, width)
    of = row // height
    return _Runs(of, row + of, left, right, np.repeat(values, pieces))


def _count_up(counts: Integers) -> Integers:
    """0, 1, … below each count, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _regions(runs: _Runs, width: int) -> Integers:
    """The 8-connected region of one class that each run belongs to, numbered by map, class, scan order."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    stride = width + 1
    starts, ends = runs.row * stride + runs.left, runs.row * stride + runs.right
    # The runs of the next row that touch this one, corners included, stand beside each other.
    low, high = np.searchsorted(ends, starts + stride), np.searchsorted(starts, ends + stride, "right")
    counts = high - low
    upper = np.repeat(np.arange(starts.size), counts)
    lower = np.repeat(low, counts) + _count_up(counts)
    same = np.flatnonzero(runs.values[upper] == runs.values[lower])
    links = (np.ones(same.size, dtype=bool), (upper[same], lower[same]))
    count, region = connected_components(coo_array(links, shape=(starts.size,) * 2), directed=False)
    first = np.empty(count, dtype=np.int64)
    first[region[::-1]] = np.arange(starts.size)[::-1]
    number = np.empty(count, dtype=np.int64)
    number[np.lexsort((first, runs.values[first], runs.of[first]))] = np.arange(count)
    return number[region]


def _codes(
    region: Integers, row: Integers, left: Integers, right: Integers, height: int, width: int
) -> list[str]:
    """The code of each region, whose runs within rows stand together."""
    at, first = _column_edges(region, row, left, right, height, width)
    counts = np.diff(at, prepend=0)
    counts[first] = at[first]
    # From the fourth on, a count is encoded as its difference from the count two before.
    encoded = counts.copy()
    encoded[2:] -= counts[:-2]
    sizes = np.diff(np.append(first, at.size))
    for place in range(3):
        plain = first[sizes > place] + place
        encoded[plain] = counts[plain]
    digits = 1 + np.searchsorted(DIGIT_LIMITS, encoded ^ encoded >> 63, "right")
    ends = np.cumsum(digits)
    text = np.empty(int(ends[-1]), dtype=np.uint8)
    for digit in range(int(digits.max())):
        long_enough = np.flatnonzero(digits > digit)
        more = (digits[long_enough] > digit + 1) << 5
        text[ends[long_enough] - digits[long_enough] + digit] = (
            encoded[long_enough] >> 5 * digit & 31 | more
        ) + 48
    whole = text.tobytes().decode("ascii")
    cuts = [0, *ends[np.append(first[1:], at.size) - 1].tolist()]
    return [whole[start:end] for start, end in pairwise(cuts)]


def _column_edges(
    region: Integers, row: Integers, left: Integers, right: Integers, height: int, width: int
) -> tuple[Integers, Integers]:
    """Where each region begins and ends in column-major order, followed by the end of its image; and where
    each region's positions begin.

    Going down, a mask changes exactly where a row differs from the row above: the exclusive or of two sets
    of intervals, which is what lies between every other one of their sorted ends.
    """
    stride, pixels = width + 1, height * width
    above = (region * (height + 1) + row) * stride
    ends = np.concatenate([above + left, above + right, above + stride + left, above + stride + right])
    ends.sort()
    spans = ends[1::2] - ends[::2]
    kept = np.flatnonzero(spans)
    spans = spans[kept]
    line, x = np.divmod(ends[::2][kept], stride)
    of, y = np.divmod(line, height + 1)
    at = np.repeat(of * (pixels + 1) + x * height + y, spans) + _count_up(spans) * height
    at = np.append(at, np.arange(region[-1] + 1) * (pixels + 1) + pixels)
    at.sort()
    # A run that ends at a column's end and restarts at the next column's start continues; at the image's end
    # one end is enough.
    of, at = np.divmod(at, pixels + 1)
    twice = np.flatnonzero((at[1:] == at[:-1]) & (of[1:] == of[:-1]))
    goes_on = twice[at[twice] < pixels]
    kept_at = np.ones(at.size, dtype=bool)
    kept_at[twice] = kept_at[goes_on + 1] = False
    at, of = at[kept_at], of[kept_at]
    return at, np.flatnonzero(np.diff(of, prepend=-1))


class _Waiting(NamedTuple):
    image: int
    author: str
    drawn: StoredMap


class CocoFile:
    """A COCO file that is written image by image; it is complete after `close`."""

    def __init__(self, path: Path, classes: tuple[str, ...]) -> None:
        self.images = self.annotations = 0
        self._waiting: list[_Waiting] = []
        self._pixels = 0
        self._file = path.open("w", encoding="utf-8")
        # COCO lists images before annotations, so annotations are written to a temporary file first.
        self._rest = path.with_suffix(".annotations")
        self._later = self._rest.open("w+", encoding="utf-8")
        categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
        info = {"description": "Artifact Clinic", "version": "1"}
        self._file.write(
            f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories)},\n"images": ['
        )

    def add(
        self,
        image: Image,
        name: str,
        drawn: Mapping[str, StoredMap],
        clean_by: list[str],
        regions: Mapping[str, Sequence[Region]] = MappingProxyType({}),
    ) -> None:
        """Add one image, its label maps by author, the authors who found nothing, and by author what is said
        of regions."""
        entry: dict[str, Any] = {
            "id": self.images + 1,
            "file_name": name,
            "height": image.height,
            "width": image.width,
        }
        if clean_by:
            entry["clean_by"] = clean_by
        if said := {author: list(map(region_payload, each)) for author, each in regions.items() if each}:
            entry["regions"] = said
        _append(self._file, entry, first=self.images == 0)
        self.images += 1
        for author, packed in drawn.items():
            # A batch has at most as many pixels as the largest allowed image.
            pixels = packed.height * packed.width
            if len(self._waiting) == WAITING or self._pixels + pixels > MAX_PIXELS:
                self._annotate()
            self._waiting.append(_Waiting(self.images, author, packed))
            self._pixels += pixels

    def _annotate(self) -> None:
        by_size: dict[tuple[int, int], list[int]] = {}
        for position, (_, _, drawn) in enumerate(self._waiting):
            by_size.setdefault((drawn.height, drawn.width), []).append(position)
        found: dict[int, list[dict[str, Any]]] = {}
        for size, positions in by_size.items():
            packed = [self._waiting[position].drawn.data for position in positions]
            found |= zip(positions, annotations_of(packed, *size), strict=True)
        for position, (image, author, _) in enumerate(self._waiting):
            for one in found[position]:
                whole = {"id": self.annotations + 1, "image_id": image, **one, "author": author}
                _append(self._later, whole, first=self.annotations == 0)
                self.annotations += 1
        self._waiting, self._pixels = [], 0

    def close(self) -> None:
        """Append the annotations after the images, and close the file."""
        self._annotate()
        self._file.write('],\n"annotations": [')
        self._later.seek(0)
        shutil.copyfileobj(self._later, self._file)
        self._file.write("]}\n")
        self._file.close()
        self._later.close()
        self._rest.unlink()


def _append(file: IO[str], entry: dict[str, Any], first: bool) -> None:
    file.write(("\n" if first else ",\n") + json.dumps(entry))
