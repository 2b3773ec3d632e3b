"""Read COCO instances: polygons, RLE (compressed and plain, with holes) and boxes become label maps.

Where files and images lie is found by `coco_files`; several files are read one by one, each with ids of its
own. The optional `annotation["author"]` is the annotator, and `image["clean_by"]` lists annotators who found
nothing; our export writes both, and its `metadata.csv` beside the images is read too. Later annotations
overwrite earlier ones.

Ids need not be of one type: 1, "1" and 1.0 are one id. Ids of annotations are not used, since joined files
repeat them. An image that an annotation may belong to is not called clean: neither where the annotation could
not be used, nor, if it is unclear whose it is, any image of the file.
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.bounds import IMAGE_BYTES, MAX_PIXELS, check_drawn
from dataengine.errors import InputRefused, MaskRefused
from dataengine.masks import Mask, decode_coco
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Answers, Reading, Row
from pipelines.exchange.labels import ImportedAnnotation, with_regions
from pipelines.exchange.metadata import (
    MAX_WORD,
    TABLE,
    Note,
    Refusal,
    displayable_name,
    read_plain,
    read_table,
    same_name,
)
from pipelines.exchange.readers.coco_files import AnnotationFile, FoundImage, find_files, find_images, some
from pipelines.exchange.safe_files import read_json
from pipelines.exchange.shapes import fill_polygons

MAX_VERTICES = 100_000
WHOLE = re.compile(r"-?\d+\.0*")
EXPECTED = "a polygon is a list [x, y, x, y, x, y, …] of three points or more, in a list of polygons"
BOXES = "annotations with a box but no segmentation: the whole box is marked"
LABEL_STUDIO = "Label Studio"
LEFT_OUT = (
    "Label Studio's COCO export leaves out brush strokes and ellipses, and of turned rectangles it keeps the "
    "box around them; if there are any, export JSON there"
)
LOSSES = ("keypoints, captions, attributes and crowd flags are not kept",)


def read_coco(options: ImportOptions) -> Reading:
    """The images of COCO files with their annotations. Raises `InputRefused` for what is no COCO file."""
    files, passed_over = find_files(options.path, options.images)
    refused: list[Refusal] = []
    rows: list[Row] = []
    losses: list[str] = []
    for file in files:
        found, problems, remarks = _read_file(file, options)
        place = f"{file.name}: " if len(files) > 1 else ""
        rows += found
        refused += [Refusal(place + one.name, one.reason) for one in problems]
        losses += [place + one for one in remarks]
    losses = [*_remarks(files, passed_over), *losses]
    return Reading(rows=rows, total=len(rows), refused=refused, losses=tuple(losses))


def _remarks(files: list[AnnotationFile], passed_over: list[str]) -> tuple[str, ...]:
    remarks = list(LOSSES)
    if passed_over:
        remarks.append(f"passed over: {some(passed_over)}; name a file to read it instead")
    if split := [f"{file.name} as {file.split}" for file in files if file.split]:
        remarks.append(f"splits as the files are named: {some(split)}")
    return tuple(remarks)


def _read_file(
    file: AnnotationFile, options: ImportOptions
) -> tuple[list[Row], list[Refusal], tuple[str, ...]]:
    """The rows of one file, what of it cannot be used, and what its tool leaves out."""
    payload = read_json(file.path)
    images, annotations, categories = _lists(file.name, payload, options.clean)
    refused: list[Refusal] = []
    classes = _categories(categories, options, refused)
    known = _images(images, refused)
    if images and not known:
        raise InputRefused(f"{file.name} is not a COCO file: none of its images has an id and a file_name")
    by_image, lost = _by_image(annotations, classes, known.keys(), refused)
    if options.clean and lost:
        reason = f"{lost} annotations belong to no image of the file, so none was called free of artifacts"
        refused.append(Refusal("--clean", reason))
        options = replace(options, clean=False)
    found = find_images(file, [one["file_name"] for same in known.values() for one in same])
    notes = _Notes(file, payload, _tables(file.folders, refused))
    left_out = (LEFT_OUT,) * (_contributor(payload.get("info")) == LABEL_STUDIO)
    values = {int(key): one for key, one in classes.items() if isinstance(one, int) and key.isdecimal()}
    return list(_rows(known, by_image, options, found, notes, values)), refused, left_out


def _tables(folders: Iterable[Path], refused: list[Refusal]) -> dict[str, Note]:
    """What the tables beside the images say, by the path of the image; one of another make costs nothing but
    itself."""
    notes: dict[str, Note] = {}
    for folder in folders:
        try:
            table, unusable, _ = read_table(folder)
        except InputRefused as error:
            refused.append(Refusal(TABLE, str(error)))
            continue
        refused += unusable
        notes |= {same_name(str(folder / name)): note for name, note in table.items()}
    return notes


class _Notes:
    """What a file, its name and the tables beside its images say of an image; the tables come first."""

    def __init__(self, file: AnnotationFile, payload: dict[str, Any], tables: dict[str, Note]) -> None:
        self.split, self.tables = file.split, tables
        given = payload.get("licenses")
        self.licences = dict(filter(None, map(_licence, given if isinstance(given, list) else [])))

    def of(self, image: dict[str, Any], path: Path) -> Note:
        note = self.tables.get(same_name(str(path)), Note())
        licence = self.licences.get(_key(image.get("license")) or "")
        return replace(note, split=note.split or self.split, licence=note.licence or licence)


def _licence(payload: Any) -> tuple[str, str] | None:
    """Id and name of one of a file's licences."""
    key, name = (_key(payload.get("id")), payload.get("name")) if isinstance(payload, dict) else (None, None)
    if key is None or not isinstance(name, str) or not 0 < len(name) <= MAX_WORD or "\0" in name:
        return None
    return key, displayable_name(name)


def _lists(name: str, payload: Any, clean: bool) -> tuple[list[Any], list[Any], list[Any]]:
    """The lists of images, annotations and categories. Raises `InputRefused` for other layouts."""
    lists = payload if isinstance(payload, dict) else {}
    images, categories = lists.get("images"), lists.get("categories", [])
    annotations = lists.get("annotations", None if clean else [])
    if not (isinstance(images, list) and isinstance(annotations, list) and isinstance(categories, list)):
        has = f"an object with {some(sorted(lists))}" if lists else f"a {type(payload).__name__}"
        raise InputRefused(
            f"{name} is not a COCO file: it needs lists of images, annotations, categories, but is {has:.300}"
        )
    if any(isinstance(one, dict) and "segments_info" in one for one in annotations):
        raise InputRefused(f"{name} is a panoptic COCO file; only instances are read: give instances_*.json")
    _check_label_studios(name, lists.get("info"), clean)
    return images, annotations, categories


def _key(value: Any) -> str | None:
    """An id as text, equal for 1, "1" and 1.0; None for what is no id."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    text = str(value).strip()
    return text.partition(".")[0] if WHOLE.fullmatch(text) else text or None


def _contributor(info: Any) -> Any:
    return info.get("contributor") if isinstance(info, dict) else None


def _check_label_studios(name: str, info: Any, clean: bool) -> None:
    """Raise `InputRefused` for what Label Studio's COCO exports cannot say."""
    contributor = _contributor(info)
    if contributor == "Label Studio Converter":
        raise InputRefused(
            f"{name} is Label Studio's export of brush labels as COCO, whose outlines lose holes and the "
            "outermost pixels; export JSON there"
        )
    if clean and contributor == LABEL_STUDIO:
        raise InputRefused(
            f"{name} is Label Studio's COCO export, which leaves out brush strokes and ellipses, so an image "
            "without annotation may be marked; export JSON there for --clean"
        )


def _categories(payload: list[Any], options: ImportOptions, refused: list[Refusal]) -> dict[str, int | str]:
    """The dataset's category id → our class value, or the reason why it has none."""
    classes: dict[str, int | str] = {}
    for one in payload:
        key = _key(one.get("id")) if isinstance(one, dict) else None
        if key is None or not isinstance(one.get("name"), str):
            refused.append(Refusal(f"category {one!r:.80}", "needs an id and a name"))
            continue
        try:
            found: int | str = options.class_value(one["name"])
        except InputRefused as error:
            found = str(error)
        if classes.setdefault(key, found) != found:
            classes[key] = f"its category id {key} comes twice, with different names"
            refused.append(Refusal(f"category {key}", "its id comes twice, with different names"))
    return classes


def _images(payload: list[Any], refused: list[Refusal]) -> dict[str, list[dict[str, Any]]]:
    """The images by id: more than one where files were joined whose ids begin at 1 each."""
    known: dict[str, list[dict[str, Any]]] = {}
    for one in payload:
        key = _key(one.get("id")) if isinstance(one, dict) else None
        if key is None:
            refused.append(Refusal(f"image {one!r:.80}", "needs an id"))
        elif not isinstance(one.get("file_name"), str):
            refused.append(Refusal(f"image {one['id']}", "names no file_name"))
        elif all(one["file_name"] != other["file_name"] for other in known.get(key, [])):
            known.setdefault(key, []).append(one)
    return known


def _by_image(
    annotations: list[Any],
    classes: dict[str, int | str],
    images: Collection[str],
    refused: list[Refusal],
) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """Each image's annotations, with our class or the reason why there is none, and how many are nobody's."""
    found: dict[str, list[dict[str, Any]]] = {}
    lost = 0
    for one in annotations:
        key = _key(one.get("image_id")) if isinstance(one, dict) else None
        if key is None:
            refused.append(Refusal(f"annotation {one!r:.80}", "needs the id of its image"))
        elif key not in images:
            reason = f"refers to image {one['image_id']!r}, which is not in the file"
            refused.append(Refusal(f"annotation {one.get('id')}", reason))
        else:
            category = _key(one.get("category_id"))
            number = classes.get(category or "", "its category is not in the file")
            found.setdefault(key, []).append(one | {"number": number})
            continue
        lost += 1
    return found, lost


def _rows(
    known: dict[str, list[dict[str, Any]]],
    by_image: dict[str, list[dict[str, Any]]],
    options: ImportOptions,
    found: dict[str, FoundImage | str],
    notes: _Notes,
    values: dict[int, int],
) -> Iterator[Row]:
    for key, images in known.items():
        mine = by_image.get(key, [])
        for image in images:
            name = image["file_name"]
            answers: Answers | None = None
            if len(images) > 1:
                answers = partial(_ambiguous, key)
            elif mine or image.get("clean_by") or options.clean:
                answers = partial(_answers, mine, image, options, values)
            yield Row(
                name=displayable_name(name), load=partial(_load, found[name], image, notes), answers=answers
            )


def _load(found: FoundImage | str, image: dict[str, Any], notes: _Notes) -> tuple[bytes, Note]:
    if isinstance(found, str):
        raise InputRefused(found)
    return read_plain(found.path, IMAGE_BYTES), notes.of(image, found.path)


def _author(options: ImportOptions) -> str:
    return options.author or "import:coco"


def _ambiguous(key: str, height: int, width: int) -> list[ImportedAnnotation]:
    raise MaskRefused(f"image id {key} comes twice, for different files; which annotations are its own?")


def _answers(
    annotations: list[dict[str, Any]],
    image: dict[str, Any],
    options: ImportOptions,
    values: dict[int, int],
    height: int,
    width: int,
) -> Iterator[ImportedAnnotation]:
    # Some tools write 0 or null for a size that they do not know.
    declared = (image.get("height") or height, image.get("width") or width)
    if declared != (height, width):
        raise MaskRefused(f"the file declares {declared} (height, width), its image is {(height, width)}")
    check_drawn(len(annotations), height, width)
    by_author: dict[str, list[dict[str, Any]]] = {}
    for one in annotations:
        by_author.setdefault(str(one.get("author") or _author(options)), []).append(one)
    given_regions = image.get("regions")
    said = given_regions if isinstance(given_regions, dict) else {}
    for author, mine in by_author.items():
        yield with_regions(_answer(author, mine, height, width), said.get(author), values)
    given = image.get("clean_by")
    clean_by = [one for one in given if isinstance(one, str)] if isinstance(given, list) else []
    for author in clean_by:
        if author not in by_author:
            yield ImportedAnnotation(author=author, label_map=None)
    if not by_author and not clean_by and options.clean:
        yield ImportedAnnotation(author=_author(options), label_map=None, implied=True)


def _answer(author: str, annotations: list[dict[str, Any]], height: int, width: int) -> ImportedAnnotation:
    """One author's label map, with what could not be used of it."""
    label_map = np.zeros((height, width), dtype=np.uint8)
    refused, left_out, remark = [], [], ""
    for one in annotations:
        where = f"annotation {one.get('id')}"
        if isinstance(one["number"], str):
            refused.append(f"{where}: {one['number']}")
            continue
        try:
            mask, odd = mask_of(one, height, width)
        except InputRefused as error:
            refused.append(f"{where}: {error}")
            continue
        left_out += [f"{where}: {reason}" for reason in odd]
        label_map[mask] = one["number"]
        remark = remark if one.get("segmentation") else BOXES
    if not label_map.any():
        # Annotations that mark nothing are no evidence that nothing is wrong.
        return ImportedAnnotation(author=author, label_map=None, refused=(*refused, *left_out))
    return ImportedAnnotation(
        author=author,
        label_map=label_map,
        refused=tuple(refused),
        left_out=tuple(left_out),
        remark=remark,
    )


def mask_of(annotation: dict[str, Any], height: int, width: int) -> tuple[Mask, list[str]]:
    """Bool `HW` of one annotation's polygons, RLE, or box, and what is wrong with shapes that mark nothing.

    Raises `MaskRefused` if it has none.
    """
    payload = annotation.get("segmentation")
    odd: list[str] = []
    if isinstance(payload, list) and any(isinstance(one, dict) for one in payload):
        return _parts(annotation, payload, height, width), odd
    if isinstance(payload, dict):
        if not isinstance(payload.get("counts"), str | list) or not _numbers(payload.get("size")):
            raise MaskRefused('an RLE is {"size": [height, width], "counts": …}')
        size = payload["size"]
        if size != [height, width]:
            raise MaskRefused(
                f"its mask is {tuple(size)!r:.40} (height, width), its image is {height, width}"
            )
        mask = decode_coco(payload)
    elif payload:
        mask, odd = _polygons(payload, height, width)
    else:
        mask = box_mask(annotation.get("bbox"), height, width)
    if not mask.any() and not odd:
        odd = ["it marks no pixel of its image"]
    return mask, odd


def _parts(annotation: dict[str, Any], parts: list[Any], height: int, width: int) -> Mask:
    """Bool `HW` of RLEs in a list, and polygons among them, together."""
    check_drawn(len(parts), height, width)
    mask = np.zeros((height, width), dtype=bool)
    for part in parts:
        drawn, odd = mask_of(
            annotation | {"segmentation": part if isinstance(part, dict) else [part]}, height, width
        )
        if odd:
            raise MaskRefused(odd[0])
        mask |= drawn
    return mask


def box_mask(box: Any, height: int, width: int) -> Mask:
    """Bool `HW` of a box `[x, y, width, height]`, clipped to the image. Raises `MaskRefused` if malformed."""
    if not _numbers(box) or len(box) != 4 or min(box[2:]) < 0:
        raise MaskRefused("it has neither a segmentation nor a box [x, y, width, height]")
    x, y, w, h = (max(-(2.0**31), min(2.0**31, float(value))) for value in box)
    mask = np.zeros((height, width), dtype=bool)
    mask[max(0, round(y)) : max(0, round(y + h)), max(0, round(x)) : max(0, round(x + w))] = True
    return mask


def _polygons(payload: Any, height: int, width: int) -> tuple[Mask, list[str]]:
    """Bool `HW` of all polygons that have an inside, and what is wrong with the others."""
    if not isinstance(payload, list):
        raise MaskRefused(EXPECTED)
    if sum(len(p) if isinstance(p, list) else 1 for p in payload) > 2 * MAX_VERTICES:
        raise MaskRefused(f"its polygons have more than {MAX_VERTICES} vertices")
    if height * width > MAX_PIXELS:
        raise MaskRefused(f"its image has more than {MAX_PIXELS} pixels")
    sound = [p for p in payload if _numbers(p) and len(p) >= 6 and len(p) % 2 == 0]
    odd = [EXPECTED] * (len(sound) < len(payload))
    if not sound:
        return np.zeros((height, width), dtype=bool), odd
    return fill_polygons(sound, height, width), odd


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        for value in values
    )
