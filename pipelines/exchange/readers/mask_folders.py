"""Read folders of images with folders of masks: our own export, any such pair, PAL4VST's layout."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dataengine.bounds import check_drawn
from dataengine.errors import InputRefused
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Reading, Row
from pipelines.exchange.labels import ImportedAnnotation, with_regions
from pipelines.exchange.metadata import (
    SIDECARS,
    Refusal,
    displayable_name,
    read_rows,
    same_name,
)
from pipelines.exchange.readers.folders import find_image_files, read_folder
from pipelines.exchange.readers.mask_images import read_mask
from pipelines.exchange.safe_files import json_list, lies_in, name_below, path_inside, read_inside

TABLE = "labels.csv"
MASK_FOLDERS = ("masks", "labels", "mask", "label", "annotations", "gt")
MASK_SUFFIXES = ("_mask", "_label", "_labels", "_gt", "_pal")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
NO_MASK = "it is no mask image; give masks as PNG, or name another --format"

MaskReader = Callable[[int, int], list[ImportedAnnotation]]
MaskReaders = dict[str, list[MaskReader]]
"""By image name: functions that read its annotations."""


def read_masks(options: ImportOptions) -> Reading:
    """`images/` and `masks/`: matched by `labels.csv` as our export writes it, else by equal names.

    Mask images are read as `mask_images` says. With `clean`, an image without any mask is free of artifacts.
    """
    root = options.path
    if not (root / "images").is_dir() and options.images is None:
        raise InputRefused(f"{root} has no folder images/ next to its masks; name it with --images")
    reading = read_folder(options.images or root / "images")
    refused = list(reading.refused)
    if (root / TABLE).is_file():
        readers = _by_table(root, options)
        losses: tuple[str, ...] = ("leases, rounds and older revisions are not kept",)
        return _joined(reading, _matched(readers, reading), options, "import:masks", refused, losses)
    folder = _mask_folder(root)
    if folder is None:
        raise InputRefused(f"{root} has no {TABLE} and no folder {', '.join(MASK_FOLDERS)}")
    readers = _by_name(folder, options, "import:masks")
    return _joined(reading, _matched(readers, reading), options, "import:masks", refused, ())


def read_mask_folder(options: ImportOptions) -> Reading:
    """The images at or below `options.images` with the masks of equal names at or below `options.path`.

    Mask images are read as `mask_images` says. Either folder may lie in the other one. Raises `InputRefused`
    where one of them is missing or both are the same.
    """
    images, masks = options.images, options.path
    if images is None or images.resolve() == masks.resolve():
        raise InputRefused(f"{masks} is the folder of images and of masks; give each a folder of its own")
    if not masks.is_dir():
        raise InputRefused(f"there is no folder of masks at {masks}; give the path of one")
    reading = read_folder(images)
    inner_masks, inner_images = name_below(masks, images), name_below(images, masks)
    rows = [row for row in reading.rows if not lies_in(row.name, inner_masks)]
    refused = [one for one in reading.refused if not lies_in(one.name, inner_masks)]
    found = _by_name(masks, options, "import:masks")
    readers = {name: each for name, each in found.items() if not lies_in(name, inner_images)}
    kept = replace(reading, rows=rows, total=len(rows))
    return _joined(kept, _matched(readers, kept), options, "import:masks", refused, ())


def _mask_folder(root: Path) -> Path | None:
    return next((root / name for name in MASK_FOLDERS if (root / name).is_dir()), None)


def read_pal4vst(options: ImportOptions) -> Reading:
    """Every `TASK/images/` below the folder, with binary masks of the same names in a folder next to it."""
    rows: list[Row] = []
    refused: list[Refusal] = []
    homes = sorted(path for path in options.path.rglob("images") if path.is_dir() and not path.is_symlink())
    for home in homes:
        task = displayable_name(home.parent.relative_to(options.path).as_posix())
        folder = _mask_folder(home.parent)
        if folder is None:
            refused.append(Refusal(f"{task}/images", "there is no folder of masks next to it"))
            continue
        reading = read_folder(home)
        readers = _matched(_by_name(folder, options, "import:pal4vst"), reading)
        found = _joined(reading, readers, options, "import:pal4vst", list(reading.refused), ())
        refused += [Refusal(f"{task}/{one.name}", one.reason) for one in found.refused]
        rows += [
            Row(name=f"{task}/{row.name}", load=row.load, answers=row.answers, size=row.size)
            for row in found.rows
        ]
    if not homes:
        raise InputRefused(
            f"{options.path} contains no folder named images; PAL4VST has TASK/images and masks"
        )
    return Reading(rows=rows, total=len(rows), refused=refused)


def _joined(
    reading: Reading,
    matched: tuple[MaskReaders, list[Refusal]],
    options: ImportOptions,
    author: str,
    refused: list[Refusal],
    losses: tuple[str, ...],
) -> Reading:
    """The rows with the annotations of their masks; a mask that belongs to no image may be any image's."""
    readers, lost = matched
    refused += lost
    masks = sum(one.name.lower().endswith(PICTURES) for one in lost)
    clean = options.clean and not masks
    if options.clean and masks:
        reason = f"{masks} masks belong to no image, so no image was called free of artifacts"
        refused.append(Refusal("--clean", reason))
    implied = partial(_clean, options.author or author, {"implied": True})
    rows = []
    for row in reading.rows:
        mine = readers.get(row.name) or ([implied] if clean else [])
        answers = partial(_all_of, mine) if mine else None
        rows.append(Row(name=row.name, load=row.load, answers=answers, size=row.size))
    return Reading(rows=rows, total=len(rows), refused=refused, losses=losses)


def _all_of(readers: list[MaskReader], height: int, width: int) -> Iterator[ImportedAnnotation]:
    check_drawn(len(readers), height, width)
    for reader in readers:
        yield from reader(height, width)


def _matched(readers: MaskReaders, reading: Reading) -> tuple[MaskReaders, list[Refusal]]:
    """The readers by the name of their image, and the masks that belong to none or to several.

    The first of these that fits counts: the same name, the same without its extension, the same without a
    suffix such as _mask; each as it is written, then with accents composed, then in any case.
    """
    found: MaskReaders = {}
    lost: list[Refusal] = []
    names = [row.name for row in reading.rows]
    indices = [
        (of_mask, alike, _index(of_image, alike, names))
        for of_mask, of_image in ((str, str), (_stem, _stem), (_bare, _stem))
        for alike in (str, same_name, _in_any_case)
    ]
    for mask, its_readers in readers.items():
        images = next(
            (hits for of_mask, alike, index in indices if (hits := index.get(alike(of_mask(mask))))), []
        )
        if len(images) == 1:
            found.setdefault(images[0], []).extend(its_readers)
        elif images:
            lost.append(Refusal(mask, f"a label that may belong to {' or '.join(images[:3])}; rename it"))
        else:
            lost.append(Refusal(mask, "a label without an image"))
    return found, lost


def _index(
    part: Callable[[str], str], alike: Callable[[str], str], names: Sequence[str]
) -> dict[str, list[str]]:
    index: dict[str, list[str]] = {}
    for name in names:
        index.setdefault(alike(part(name)), []).append(name)
    return index


def _stem(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)


def _bare(name: str) -> str:
    stem = _stem(name)
    return next((stem[: -len(each)] for each in MASK_SUFFIXES if stem.lower().endswith(each)), stem)


def _in_any_case(name: str) -> str:
    return same_name(name).casefold()


def _by_name(folder: Path, options: ImportOptions, author: str) -> MaskReaders:
    author = options.author or author
    found, refused = find_image_files(folder)
    readers: MaskReaders = {
        each.name: [partial(_from_file, folder, each.name, options.one_class_value, author)] for each in found
    }
    for name, reason in refused:
        # Also a file that cannot be read says that somebody has looked at its image.
        reason = NO_MASK if name.lower().endswith(SIDECARS) else reason
        readers[name] = [partial(_unreadable, author, reason)]
    return readers


def _unreadable(author: str, reason: str, height: int, width: int) -> list[ImportedAnnotation]:
    return [ImportedAnnotation(author=author, label_map=None, refused=(reason,))]


def _by_table(root: Path, options: ImportOptions) -> MaskReaders:
    mask_readers: MaskReaders = {}
    try:
        for _, row in read_rows(root / TABLE):
            name = displayable_name(row.get("image") or "")
            try:
                reader: MaskReader = _row_reader(root, row, options)
            except InputRefused as error:
                reader = partial(_unreadable, row.get("author") or "", str(error))
            mask_readers.setdefault(name, []).append(reader)
    except (OSError, UnicodeError, csv.Error) as error:
        raise InputRefused(f"the table {root / TABLE} cannot be read: {error}; save it as UTF-8") from None
    return mask_readers


def _row_reader(root: Path, row: dict[str, str], options: ImportOptions) -> MaskReader:
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
    told = row.get("regions") or ""
    regions = json_list(told) if told else []
    if regions is None:
        raise InputRefused("its column regions is no JSON list")
    return partial(_from_file, root / "masks", name, None, author, more=more, regions=regions)


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
    regions: Sequence[Any] = (),
) -> list[ImportedAnnotation]:
    try:
        mask = read_mask(read_inside(folder, name)[0], one_class, (height, width))
    except InputRefused as error:
        return [ImportedAnnotation(author=author, label_map=None, refused=(str(error),), **more)]
    label_map = mask.label_map if mask.label_map.any() else None
    found = ImportedAnnotation(author=author, label_map=label_map, remark=mask.remark, **more)
    return [with_regions(found, list(regions))]
