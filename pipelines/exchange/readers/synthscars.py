"""Read SynthScars (Kang et al. 2025): generated images with a polygon and a sentence for each artifact."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dataengine.bounds import IMAGE_BYTES, check_drawn
from dataengine.errors import InputRefused, MaskRefused
from dataengine.records import Split
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Reading, Row
from pipelines.exchange.labels import ImportedAnnotation
from pipelines.exchange.metadata import Note, Refusal, displayable_name, parse_note, read_plain
from pipelines.exchange.readers.coco import mask_of
from pipelines.exchange.safe_files import path_inside, read_json

SPLITS: Mapping[str, Split] = {"train": "train", "val": "validation", "test": "benchmark"}
"""The folders of the dataset, and the splits here: what its authors test on is never trained on."""
LICENCE = "Apache-2.0"
EXPECTED = "a record is an object with img_file_name and refs, each with a segmentation and a sentence"


def read_synthscars(options: ImportOptions) -> Reading:
    """`SPLIT/annotations/*.json` (or `SPLIT/*.json`) with `SPLIT/images/`, SPLIT being train, val or test.

    All polygons of an image get one class; records of one image are joined. The sentences go into the note.
    Raises `InputRefused` when no split holds a JSON file.
    """
    files = [
        (split, file)
        for split in SPLITS
        for file in (
            *sorted((options.path / split / "annotations").glob("*.json")),
            *sorted((options.path / split).glob("*.json")),
        )
    ]
    if not files:
        raise InputRefused(
            f"{options.path} has no JSON file in train/, val/ or test/, nor in their folders annotations/, "
            "as SynthScars has"
        )
    refused: list[Refusal] = []
    rows = [row for split, file in files for row in _rows(split, file, options, refused)]
    losses = ("sentences and phrases go into the note of a label",)
    return Reading(rows=rows, total=len(rows), refused=refused, losses=losses)


def _rows(split: str, file: Path, options: ImportOptions, refused: list[Refusal]) -> Iterator[Row]:
    payload = read_json(file)
    # The published file numbers its records in an object; copies of it are lists.
    records = list(payload.values()) if isinstance(payload, dict) else payload
    if not isinstance(records, list) or not any(_is_record(one) for one in records):
        raise InputRefused(f"{file.name} is not SynthScars: {EXPECTED}")
    root = options.images or _images(options.path / split)
    for index, record in enumerate(records):
        where = f"{split}/{displayable_name(file.name)} record {index + 1}"
        try:
            if not _is_record(record):
                raise InputRefused(EXPECTED)
            name = record["img_file_name"]
            path_inside(root, name)
            note = parse_note({"licence": LICENCE, "split": SPLITS[split]})
        except InputRefused as error:
            refused.append(Refusal(where, str(error)))
            continue
        yield Row(
            name=f"{split}/{displayable_name(name)}",
            load=partial(_load, root, name, note),
            answers=partial(_answers, record, options),
        )


def _is_record(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("img_file_name"), str)
        and isinstance(record.get("refs"), list)
    )


def _images(folder: Path) -> Path:
    return folder / "images" if (folder / "images").is_dir() else folder


def _load(root: Path, name: str, note: Note) -> tuple[bytes, Note]:
    return read_plain(path_inside(root, name), IMAGE_BYTES), note


def _answers(
    record: dict[str, Any], options: ImportOptions, height: int, width: int
) -> list[ImportedAnnotation]:
    import numpy as np

    refs, number = record["refs"], options.one_class_value
    author = options.author or "import:synthscars"
    if not refs:
        implied = ImportedAnnotation(author=author, label_map=None, implied=True)
        return [implied] if options.clean else []
    check_drawn(len(refs), height, width)
    label_map = np.zeros((height, width), dtype=np.uint8)
    sentences: list[str] = []
    refused: list[str] = []
    left_out: list[str] = []
    for index, ref in enumerate(refs):
        try:
            if not isinstance(ref, dict) or not ref.get("segmentation"):
                raise MaskRefused("it has no segmentation, a list of polygons")
            mask, odd = mask_of({"segmentation": _polygons(ref["segmentation"])}, height, width)
        except InputRefused as error:
            refused.append(f"ref {index + 1}: {error}")
            continue
        left_out += [f"ref {index + 1}: {reason}" for reason in odd]
        label_map[mask] = number
        sentences.append(str(ref.get("sentence") or ref.get("explanation") or ""))
    note = json.dumps({"dataset": "synthscars", "sentences": sentences}, sort_keys=True)
    if not label_map.any():
        return [ImportedAnnotation(author=author, label_map=None, refused=(*refused, *left_out))]
    return [
        ImportedAnnotation(
            author=author,
            label_map=label_map,
            note=note,
            refused=tuple(refused),
            left_out=tuple(left_out),
        )
    ]


def _polygons(segmentation: Any) -> Any:
    """A single polygon may stand without the list around it."""
    flat = isinstance(segmentation, list) and segmentation and isinstance(segmentation[0], int | float)
    return [segmentation] if flat else segmentation
