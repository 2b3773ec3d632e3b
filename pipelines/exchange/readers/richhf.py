"""Read RichHF-18K's TFRecords."""

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.bounds import IMAGE_BYTES
from dataengine.errors import InputRefused, MaskRefused
from dataengine.images import decode
from dataengine.masks import components
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Reading, Row
from pipelines.exchange.labels import ImportedAnnotation
from pipelines.exchange.metadata import Refusal, displayable_name
from pipelines.exchange.readers.folders import find_image_files
from pipelines.exchange.readers.tfrecord import Example, parse_example, read_records
from pipelines.exchange.safe_files import read_inside

HEAT_THRESHOLD = 128
"""Of 255: the value where at least half of the raters' circles overlap."""
SIDE = 512
MAX_POINTS = 1000
MISALIGNMENT = "misalignment"
"""The dataset's name, in a mapping of classes, for its misalignment maps."""
SCORES = ("aesthetics_score", "artifact_score", "misalignment_score", "overall_score")


def read_richhf(options: ImportOptions) -> Reading:
    """The rows of its TFRecord files whose images are in `options.images`, by path or else by file name.

    The heat map (mean of fixed-radius circles around the points that raters marked) becomes a mask where it
    is at least one half; the points, as the centres of its regions, and the scores go into the label's note.
    Its misalignment maps, of what the prompt does not say, become a class only where `options.mapping` gives
    `MISALIGNMENT` one; artifacts lie above it. Raises `InputRefused` for files that are missing, and for a
    class that the workspace does not have.
    """
    files = [options.path] if options.path.is_file() else sorted(options.path.glob("*.tfrecord"))
    if not files:
        raise InputRefused(f"{options.path} contains no .tfrecord file; RichHF-18K has train, dev and test")
    if options.images is None or not options.images.is_dir():
        raise InputRefused("RichHF-18K contains no images; give your Pick-a-Pic folder with --images")
    refused: list[Refusal] = []
    by_name: dict[str, str] = {}
    for found in find_image_files(options.images)[0]:
        by_name.setdefault(found.path.name, found.name)
        by_name[found.name] = found.name
    asked = MISALIGNMENT in options.mapping
    if asked:
        options.class_value(MISALIGNMENT)  # refused once for all rows
    lost = (
        "token labels are" if asked else f"misalignment maps (--class {MISALIGNMENT}=…) and token labels are"
    )
    losses = (f"{lost} not kept",)
    return Reading(rows=_rows(files, by_name, options, refused), total=0, refused=refused, losses=losses)


def _rows(
    files: list[Path], by_name: dict[str, str], options: ImportOptions, refused: list[Refusal]
) -> Iterator[Row]:
    assert options.images
    for file in files:
        try:
            for number, record in enumerate(read_records(file)):
                where = f"{file.name}#{number}"
                try:
                    payload = parse_example(record)
                    name = _text(payload, "filename")
                    file_name = by_name.get(name) or by_name.get(name.rpartition("/")[2])
                    if file_name is None:
                        raise InputRefused(
                            f"there is no image {displayable_name(name)!r} in {options.images.name}/"
                        )
                    yield Row(
                        name=where,
                        load=partial(read_inside, options.images, file_name),
                        answers=partial(_heat_answer, payload, options),
                    )
                except InputRefused as error:
                    refused.append(Refusal(where, str(error)))
        except InputRefused as error:
            refused.append(Refusal(file.name, f"{error}; the rest of this file was not read"))


def _text(payload: Example, name: str) -> str:
    values = payload.get(name)
    if not values or not isinstance(values[0], bytes):
        raise InputRefused(f"the record has no {name}")
    try:
        return values[0].decode()
    except UnicodeDecodeError:
        raise InputRefused(f"its {name} is not UTF-8 text") from None


def _heat_answer(
    payload: Example, options: ImportOptions, height: int, width: int
) -> list[ImportedAnnotation]:
    heat = _heat(payload, "artifact_map")
    regions, count = components(heat >= HEAT_THRESHOLD)
    if count > MAX_POINTS:
        raise MaskRefused(f"its artifact_map has {count} separate regions; at most {MAX_POINTS} are read")
    points = _centres(regions, count, height, width)
    scores = {name: round(float(payload[name][0]), 6) for name in SCORES if payload.get(name)}
    note = {"dataset": "richhf-18k", "points": points, **scores}
    broken = _marked(heat, height, width)
    if count and not broken.any():
        raise MaskRefused("its marks are smaller than a pixel of its image")
    label_map = np.where(broken, options.one_class_value, 0).astype(np.uint8)
    if MISALIGNMENT in options.mapping:
        unlike = _marked(_heat(payload, "misalignment_map"), height, width)
        label_map[unlike & ~broken] = options.class_value(MISALIGNMENT)
    return [
        ImportedAnnotation(
            author=options.author or "import:richhf",
            label_map=label_map if label_map.any() else None,
            note=json.dumps(note, sort_keys=True),
        )
    ]


def _marked(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where a heat map is at least one half, at an image's size, bool HW."""
    rows = np.arange(height) * heat.shape[0] // height
    columns = np.arange(width) * heat.shape[1] // width
    return (heat >= HEAT_THRESHOLD)[np.ix_(rows, columns)]


def _heat(payload: Example, name: str) -> np.ndarray:
    values = payload.get(name)
    if not values or not isinstance(values[0], bytes) or len(values[0]) > IMAGE_BYTES:
        raise MaskRefused(f"the record has no {name}")
    try:
        return decode(values[0], max_pixels=16 * SIDE * SIDE)[..., 0]
    except InputRefused as error:
        raise MaskRefused(f"its {name} is {error}") from None


def _centres(regions: np.ndarray, count: int, height: int, width: int) -> list[tuple[float, float]]:
    """The centre of each region as (x, y) in the image's pixels."""
    rows, columns = np.nonzero(regions)
    number = regions[rows, columns]
    sizes = np.bincount(number, minlength=count + 1)[1:]
    x, y = (np.bincount(number, at, count + 1)[1:] / sizes + 0.5 for at in (columns, rows))
    x, y = x * width / regions.shape[1], y * height / regions.shape[0]
    return [(round(float(a), 1), round(float(b), 1)) for a, b in zip(x, y, strict=True)]


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
