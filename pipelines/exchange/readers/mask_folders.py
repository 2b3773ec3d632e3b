"""Read folders of images with folders of masks: our own export, any such pair, PAL4VST's layout."""

import csv
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from dataengine.bounds import check_drawn
from dataengine.errors import ImageRefused, InputRefused, MaskRefused
from dataengine.images import decode_values
from dataengine.masks import MAX_CLASS, LabelMap
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import ImportedAnnotation, Reading, Row
from pipelines.exchange.metadata import Refusal, displayable_name, read_rows
from pipelines.exchange.readers.folders import ImagePath, find_image_files, read_folder
from pipelines.exchange.safe_files import path_inside, read_inside

TABLE = "labels.csv"
MASK_FOLDERS = ("masks", "labels", "mask", "label", "annotations", "gt")
MASK_FORMATS = ("PNG", "BMP", "WEBP", "GIF")
MASK_SUFFIXES = ("", "_mask", "_label", "_labels", "_gt", "_pal")


def read_masks(options: ImportOptions) -> Reading:
    """`images/` and `masks/`: matched by `labels.csv` as our export writes it, else by equal names.

    A mask of 0 and 255 (or of 0 and 1) marks one class; other values are the workspace's classes.
    """
    root = options.path
    if not (root / "images").is_dir() and options.images is None:
        raise InputRefused(f"{root} has no folder images/ next to its masks; name it with --images")
    reading = read_folder(options.images or root / "images")
    refused = list(reading.refused)
    if (root / TABLE).is_file():
        answers = _by_table(root, options, refused)
        return _joined(reading, answers, refused, ("leases, rounds and older revisions are not kept",))
    folder = next((root / name for name in MASK_FOLDERS if (root / name).is_dir()), None)
    if folder is None:
        raise InputRefused(f"{root} has no {TABLE} and no folder {', '.join(MASK_FOLDERS)}")
    return _joined(reading, _by_name(folder, options, "import:masks"), refused, ())


def read_pal4vst(options: ImportOptions) -> Reading:
    """Every `TASK/images/` below the folder, with binary masks of the same names in a folder next to it."""
    rows: list[Row] = []
    refused: list[Refusal] = []
    homes = sorted(path for path in options.path.rglob("images") if path.is_dir() and not path.is_symlink())
    for home in homes:
        task = displayable_name(home.parent.relative_to(options.path).as_posix())
        folder = next((home.parent / name for name in MASK_FOLDERS if (home.parent / name).is_dir()), None)
        if folder is None:
            refused.append(Refusal(f"{task}/images", "there is no folder of masks next to it"))
            continue
        inner: list[Refusal] = []
        found = _joined(read_folder(home), _by_name(folder, options, "import:pal4vst"), inner, ())
        refused += [Refusal(f"{task}/{one.name}", one.reason) for one in [*inner, *found.refused]]
        rows += [
            Row(name=f"{task}/{row.name}", load=row.load, answers=row.answers, size=row.size)
            for row in found.rows
        ]
    if not homes:
        raise InputRefused(
            f"{options.path} contains no folder named images; PAL4VST has TASK/images and masks"
        )
    return Reading(rows=rows, total=len(rows), refused=refused)


MaskReaders = dict[str, list[partial[list[ImportedAnnotation]]]]
"""By image name (with or without its extension): functions that read its annotations."""


def _joined(
    reading: Reading, mask_readers: MaskReaders, refused: list[Refusal], losses: tuple[str, ...]
) -> Reading:
    rows, used = [], set()
    for row in reading.rows:
        key = row.name if row.name in mask_readers else row.name.rpartition(".")[0]
        used.add(key)
        readers = mask_readers.get(key)
        answers = partial(_all_of, readers) if readers else None
        rows.append(Row(name=row.name, load=row.load, answers=answers, size=row.size))
    refused += [Refusal(name, "a label without an image") for name in sorted(mask_readers.keys() - used)]
    return Reading(rows=rows, total=len(rows), refused=refused, losses=losses)


def _all_of(
    readers: list[partial[list[ImportedAnnotation]]], height: int, width: int
) -> Iterator[ImportedAnnotation]:
    check_drawn(len(readers), height, width)
    for reader in readers:
        yield from reader(height, width)


def _by_name(folder: Path, options: ImportOptions, author: str) -> MaskReaders:
    mask_readers: MaskReaders = {}
    for found in _pictures(folder):
        stem = found.name.rpartition(".")[0]
        suffix = next((s for s in reversed(MASK_SUFFIXES) if s and stem.endswith(s)), "")
        reader = partial(_from_file, folder, found.name, options.one_class_value, options.author or author)
        mask_readers.setdefault(stem.removesuffix(suffix), []).append(reader)
    return mask_readers


def _pictures(folder: Path) -> Iterator[ImagePath]:
    found, _ = find_image_files(folder)
    yield from found


def _by_table(root: Path, options: ImportOptions, refused: list[Refusal]) -> MaskReaders:
    mask_readers: MaskReaders = {}
    try:
        for _, row in read_rows(root / TABLE):
            name = displayable_name(row.get("image") or "")
            try:
                reader = _row_reader(root, row, options)
            except InputRefused as error:
                refused.append(Refusal(name or TABLE, str(error)))
            else:
                mask_readers.setdefault(name, []).append(reader)
    except (OSError, UnicodeError, csv.Error) as error:
        raise InputRefused(f"the table {root / TABLE} cannot be read: {error}; save it as UTF-8") from None
    return mask_readers


def _row_reader(root: Path, row: dict[str, str], options: ImportOptions) -> partial[list[ImportedAnnotation]]:
    author = row.get("author") or options.author or "import:masks"
    try:
        seconds, created = float(row.get("lead_seconds") or 0), float(row.get("created") or 0)
    except ValueError:
        raise InputRefused("lead_seconds and created must be numbers") from None
    more: dict[str, Any] = {"lead_seconds": seconds, "created": created or None}
    if row.get("clean") == "1":
        return partial(_clean, author, more)
    name = row.get("mask") or ""
    path_inside(root / "masks", name)
    return partial(_from_file, root / "masks", name, None, author, more=more)


def _clean(author: str, more: dict[str, Any], height: int, width: int) -> list[ImportedAnnotation]:
    return [ImportedAnnotation(author=author, label_map=None, **more)]


def _from_file(
    folder: Path,
    name: str,
    one_class: int | None,
    author: str,
    height: int,
    width: int,
    *,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> list[ImportedAnnotation]:
    data, _ = read_inside(folder, name)
    label_map = read_mask(data, one_class, (height, width))
    return [ImportedAnnotation(author=author, label_map=label_map if label_map.any() else None, **more)]


def read_mask(data: bytes, one_class: int | None, size: tuple[int, int]) -> LabelMap:
    """The label map of a PNG, BMP or WebP mask of `size` (height, width). Raises `MaskRefused`.

    Values 0 and 255, or 0 and 1, become `one_class`; without it, all values are class numbers.
    """
    try:
        values = decode_values(data, MASK_FORMATS, size=size)
    except ImageRefused as error:
        raise MaskRefused(f"the mask cannot be read: {error}") from None
    if values.ndim == 3:
        if not (values[..., :3] == values[..., :1]).all():
            raise MaskRefused("the mask has colours; masks are grey or palette images of class numbers")
        values = values[..., 0]
    present = set(np.unique(values).tolist())
    if one_class is not None and (present <= {0, 255} or present <= {0, 1}):
        return np.where(values > 0, one_class, 0).astype(np.uint8)
    if max(present) > MAX_CLASS:
        raise MaskRefused(f"the mask contains the value {max(present)}; expected 0 and 255, or class numbers")
    return values.astype(np.uint8)
