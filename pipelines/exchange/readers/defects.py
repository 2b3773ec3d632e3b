"""Read structured defects: boxes with type, reason and importance, as SDG-30K (arXiv:2606.06113) has them.

A file of JSON lines, a JSON list, or an object with such a list holds a row for each image. How the boxes'
numbers are meant is stated by the row, the file or `--coordinates`; it is never guessed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.bounds import IMAGE_BYTES, check_drawn
from dataengine.coordinates import COORDINATES, Coordinates, coordinates_named
from dataengine.defects import LIST_KEYS, MAX_DEFECTS, marked_regions, read_defect
from dataengine.errors import InputRefused, MaskRefused
from dataengine.records import Region
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Reading, Row
from pipelines.exchange.labels import ImportedAnnotation
from pipelines.exchange.metadata import (
    Note,
    Refusal,
    displayable_name,
    parse_note,
    parse_object,
    read_plain,
    read_text_lines,
    split_named,
    with_prompt,
)
from pipelines.exchange.safe_files import json_list, path_inside, read_json

KEPT = ("prompt", "seed", "category", "licence")
"""What a row says of an image and we record; a generator's name there is no id of ours."""
NAME_KEYS = ("file_name", "filepath", "filename", "image_path", "image")
ROW_KEYS = ("images", "rows", "data", "annotations")
ANNOTATED = "ann_translated_bboxes"
"""The boxes of SDG-30K that people drew, with importance; they come before the two lists of the next line."""
BY_KIND = {"artifact_bboxes": "artifact", "misalignment_bboxes": "misalignment"}
"""Lists of SDG-30K whose name is the type of their boxes."""
SUFFIXES = (".jsonl", ".json")
EXPECTED = (
    "a row is an object with file_name and defects, a list of objects with bbox, type, reason and importance"
)
UNSTATED = (
    "nothing states how the numbers of a box are meant; give --coordinates, or a field coordinates in the "
    f"file, as one of {', '.join(COORDINATES)}"
)
CLIPPED = "boxes that reach past their image are clipped to it"
UNWEIGHTED = "boxes without a reason or an importance: the label has none there"
LOSSES = ("a box marks all of its pixels", "fields besides the box, its type, reason and importance")


def read_defects(options: ImportOptions) -> Reading:
    """The images of a JSON file, or of all below a folder, with the boxes as marked regions.

    An image with an empty list was found free of defects. Raises `InputRefused` where no file holds rows, and
    where no row says how its numbers are meant and the options do not either.
    """
    files = [options.path] if options.path.is_file() else _files(options.path)
    if not files:
        raise InputRefused(f"{options.path} has no file .jsonl or .json with rows of images; {EXPECTED}")
    if options.coordinates:
        coordinates_named(options.coordinates)
    refused: list[Refusal] = []
    rows = [row for file in files for row in _rows(file, options, refused)]
    unstated = sum(one.reason == UNSTATED for one in refused)
    if unstated and not rows:
        raise InputRefused(UNSTATED)
    return Reading(rows=rows, total=len(rows), refused=refused, losses=LOSSES)


def _files(folder: Path) -> list[Path]:
    homes = (folder / "annotations", folder)
    found = ([one for one in sorted(home.glob("*")) if one.suffix in SUFFIXES] for home in homes)
    return next((files for files in found if files), [])


def _payloads(file: Path) -> tuple[str, Iterator[tuple[str, Any]]]:
    """What the file states of coordinates, and its rows by place."""
    name = displayable_name(file.name)
    if file.suffix == ".jsonl":
        return "", _lines(file, name)
    payload, stated = read_json(file), ""
    if isinstance(payload, dict):
        stated = payload.get("coordinates") or ""
        payload = next((payload[key] for key in ROW_KEYS if isinstance(payload.get(key), list)), None)
    if not isinstance(payload, list):
        raise InputRefused(f"{name} holds no list of rows; {EXPECTED}")
    return stated, ((f"{name} row {number}", row) for number, row in enumerate(payload, 1))


def _lines(file: Path, name: str) -> Iterator[tuple[str, Any]]:
    try:
        for number, line in read_text_lines(file):
            yield f"{name} line {number}", line
    except (OSError, UnicodeError) as error:
        raise InputRefused(f"{name} cannot be read: {error}; save it as UTF-8") from None


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The boxes of one image with their types, and how their numbers are meant."""

    defects: list[Any]
    coordinates: Coordinates


def _rows(file: Path, options: ImportOptions, refused: list[Refusal]) -> Iterator[Row]:
    stated, payloads = _payloads(file)
    root = options.images or _images(file)
    for where, given in payloads:
        try:
            payload = parse_object(given) if isinstance(given, str) else given
            if not isinstance(payload, dict):
                raise InputRefused(EXPECTED)
            name = next((payload[key] for key in NAME_KEYS if isinstance(payload.get(key), str)), "")
            if not name:
                raise InputRefused("it names no image: file_name is missing")
            path_inside(root, name)
            found = _found(payload, stated or options.coordinates)
            note = _note(payload, file)
        except InputRefused as error:
            refused.append(Refusal(where, str(error)))
            continue
        yield Row(
            name=displayable_name(name),
            load=partial(_load, root, name, note),
            answers=partial(_answers, found, options),
        )


def _images(file: Path) -> Path:
    """The folder that the names in a file start from: the dataset's, if the file lies in annotations/."""
    return file.parent.parent if file.parent.name == "annotations" else file.parent


def _note(payload: Mapping[str, Any], file: Path) -> Note:
    """What the row says of its image; its split is else the file's name, and test is our benchmark."""
    said = payload.get("split")
    split = split_named(said) if isinstance(said, str) and said else split_named(file.stem)
    row = with_prompt(payload)
    return parse_note({key: row.get(key) for key in KEPT} | {"split": split})


def _found(payload: Mapping[str, Any], stated: str) -> _Found:
    said = payload.get("coordinates") or stated
    if not said:
        raise InputRefused(UNSTATED)
    return _Found(defects=_defects(payload), coordinates=coordinates_named(str(said)))


def _defects(payload: Mapping[str, Any]) -> list[Any]:
    """The boxes of a row with their types. Raises `InputRefused` for a row without any of the lists."""
    for key in (*LIST_KEYS, ANNOTATED):
        if payload.get(key) is not None:
            return _list(payload, key)
    kinds = [key for key in BY_KIND if payload.get(key) is not None]
    if not kinds:
        raise InputRefused(f"it has no list of defects; {EXPECTED}")
    return [
        {"type": BY_KIND[key]} | (one if isinstance(one, dict) else {"bbox": one})
        for key in kinds
        for one in _list(payload, key)
    ]


def _list(payload: Mapping[str, Any], key: str) -> list[Any]:
    value = payload[key]
    if isinstance(value, str):  # as tables keep lists
        value = json_list(value)
    if not isinstance(value, list):
        raise InputRefused(f"{key} must be a list of objects")
    if len(value) > MAX_DEFECTS:
        raise InputRefused(f"{key} holds {len(value)} boxes, of which at most {MAX_DEFECTS} are read")
    return value


def _load(root: Path, name: str, note: Note) -> tuple[bytes, Note]:
    return read_plain(path_inside(root, name), IMAGE_BYTES), note


def _answers(found: _Found, options: ImportOptions, height: int, width: int) -> list[ImportedAnnotation]:
    author = options.author or "import:sdg"
    if not found.defects:
        return [ImportedAnnotation(author=author, label_map=None)]
    check_drawn(len(found.defects), height, width)
    regions, refused, remarks = [], [], set()
    for index, payload in enumerate(found.defects, 1):
        try:
            defect = read_defect(payload, found.coordinates, height, width)
            value = options.class_value(defect.type)
        except InputRefused as error:
            refused.append(f"defect {index}: {error}")
            continue
        regions.append(Region(value, defect.box, defect.reason, defect.importance))
        if defect.clipped:
            remarks.add(CLIPPED)
        if not defect.reason or defect.importance is None:
            remarks.add(UNWEIGHTED)
    # Where boxes of several classes overlap, the one that matters more is on top; a larger one is below.
    regions.sort(key=lambda one: (one.importance or 0, -_area(one)))
    label_map = np.zeros((height, width), dtype=np.uint8)
    for region in regions:
        x1, y1, x2, y2 = region.box
        label_map[y1:y2, x1:x2] = region.value
    kept = marked_regions(regions, label_map)
    covered = [f"a box of {one.box} lies below others and is not kept" for one in regions if one not in kept]
    if not regions:
        raise MaskRefused("; ".join(refused[:3]) + f"; and {len(refused) - 3} more" * (len(refused) > 3))
    return [
        ImportedAnnotation(
            author=author,
            label_map=label_map,
            regions=tuple(sorted(kept, key=lambda one: -(one.importance or 0))),
            refused=tuple(refused),
            left_out=tuple(covered),
            remark="; ".join(sorted(remarks)),
        )
    ]


def _area(region: Region) -> int:
    x1, y1, x2, y2 = region.box
    return (x2 - x1) * (y2 - y1)
