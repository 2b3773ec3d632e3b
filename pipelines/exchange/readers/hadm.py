"""Read the human artifact dataset (HADM): boxes per image."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.bounds import IMAGE_BYTES, JSON_BYTES, check_drawn
from dataengine.errors import InputRefused, MaskRefused
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Reading, Row
from pipelines.exchange.labels import ImportedAnnotation
from pipelines.exchange.metadata import Note, Refusal, displayable_name, parse_note, read_plain
from pipelines.exchange.readers.coco import box_mask
from pipelines.exchange.readers.richhf import is_finite
from pipelines.exchange.safe_files import path_inside, read_json


def read_hadm(options: ImportOptions) -> Reading:
    """`annotations/SPLIT/*.json` with `images/SPLIT/`: boxes around broken body parts become filled masks.

    A box around a person with missing or extra parts ("human missing arm") gets the class `unreasonable
    content` if the workspace has it. Images without boxes are labelled clean.
    """
    homes = sorted(path for path in (options.path / "annotations").glob("*") if path.is_dir())
    if not homes:
        raise InputRefused(f"{options.path} has no folders annotations/SPLIT and images/SPLIT, as in HADM")
    files = [file for home in homes for file in sorted(home.glob("*.json"))]
    refused: list[Refusal] = []
    losses = ("boxes become filled boxes; parts, levels and tags go into the note",)
    return Reading(rows=_had_rows(files, options, refused), total=len(files), refused=refused, losses=losses)


def _had_rows(files: list[Path], options: ImportOptions, refused: list[Refusal]) -> Iterator[Row]:
    for file in files:
        where = f"{file.parent.name}/{displayable_name(file.name)}"
        root = options.images or options.path / "images" / file.parent.name
        try:
            payload = read_json(file, JSON_BYTES // 1024)
            about = payload.get("image") if isinstance(payload, dict) else None
            if not isinstance(about, dict) or not isinstance(about.get("file_name"), str):
                raise InputRefused('has no {"image": {"file_name": …}}')
            path_inside(root, about["file_name"])
            note = parse_note({"prompt": about.get("prompt")})
        except InputRefused as error:
            refused.append(Refusal(where, str(error)))
            continue
        yield Row(
            name=where,
            load=partial(_had_load, root, about["file_name"], note),
            answers=partial(_boxes_answer, payload, options),
        )


def _had_load(root: Path, name: str, note: Note) -> tuple[bytes, Note]:
    return read_plain(path_inside(root, name), IMAGE_BYTES), note


def _boxes_answer(
    payload: dict[str, Any], options: ImportOptions, height: int, width: int
) -> list[ImportedAnnotation]:
    other = next(
        (n for n, c in enumerate(options.classes, 1) if c == "unreasonable content"), options.one_class_value
    )
    if not payload.keys() & {"annotation", "human"}:
        raise MaskRefused("it has neither annotation nor human, the lists of boxes of HADM")
    lists = [each for each in map(payload.get, ("human", "annotation")) if isinstance(each, list)]
    check_drawn(sum(map(len, lists)), height, width)
    label_map = np.zeros((height, width), dtype=np.uint8)
    noted, refused = [], []
    for kind, number in (("human", other), ("annotation", options.one_class_value)):
        boxes = payload.get(kind) or []
        if not isinstance(boxes, list):
            raise MaskRefused(f"{kind} must be a list of objects with a bbox")
        for one in boxes:
            try:
                words = _words(kind, one)
                if words:
                    box = _corners_mask(one.get("bbox"), height, width)
                    if not box.any():
                        raise MaskRefused(f"the box {one['bbox']} marks no pixel of its image")
                    label_map[box] = number
                    noted.append({"box": one["bbox"], "what": words, "level": one.get("level")})
            except InputRefused as error:
                refused.append(str(error))
    note = json.dumps({"dataset": "hadm", "boxes": noted}, sort_keys=True)
    author = options.author or "import:hadm"
    drawn = label_map if label_map.any() else None
    return [ImportedAnnotation(author=author, label_map=drawn, note=note, refused=tuple(refused))]


def _words(kind: str, one: Any) -> Any:
    """What is wrong within a box; nothing for a person who is whole. Raises `MaskRefused`."""
    if not isinstance(one, dict):
        raise MaskRefused(f"{kind} must be a list of objects with a bbox")
    if kind == "human":
        return one.get("tag") or one.get("tags")
    if not one.get("body_parts"):
        raise MaskRefused("a box of annotation names no body_parts")
    return one["body_parts"]


def _corners_mask(box: Any, height: int, width: int) -> np.ndarray:
    """Bool `HW` of a box `[x1, y1, x2, y2]`, corners in any order."""
    if not (isinstance(box, list) and len(box) == 4 and all(is_finite(value) for value in box)):
        raise MaskRefused("a box is [x1, y1, x2, y2]")
    (left, right), (top, bottom) = sorted((box[0], box[2])), sorted((box[1], box[3]))
    return box_mask([left, top, right - left, bottom - top], height, width)
