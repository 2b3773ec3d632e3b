"""Read COCO instances: polygons, RLE (compressed and plain, with holes) and boxes become label maps.

The optional `annotation["author"]` is the annotator, and `image["clean_by"]` lists annotators who found
nothing; our export writes both. Later annotations overwrite earlier ones.
"""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.bounds import MAX_PIXELS, check_drawn
from dataengine.errors import InputRefused, MaskRefused
from dataengine.masks import Mask, decode_coco
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import ImportedAnnotation, Reading, Row
from pipelines.exchange.metadata import Refusal, displayable_name
from pipelines.exchange.safe_files import read_inside, read_json

FILES = ("coco.json", "labels.json", "annotations.json", "_annotations.coco.json")
FOLDERS = ("images", "data")
MAX_VERTICES = 100_000
LOSSES = ("keypoints, captions, attributes and crowd flags are not kept",)


def read_coco(options: ImportOptions) -> Reading:
    """The images of a COCO file with their annotations. Raises `InputRefused` if it is not a COCO file."""
    path = _file(options.path)
    payload = read_json(path)
    lists = [
        payload.get(name, []) if isinstance(payload, dict) else None for name in ("images", "annotations")
    ]
    if not all(isinstance(each, list) for each in lists) or not isinstance(
        payload.get("categories", []), list
    ):
        raise InputRefused(
            f"{path.name} is not a COCO file: it needs lists of images, annotations, categories"
        )
    images, annotations = lists
    refused: list[Refusal] = []
    names = _categories(payload.get("categories", []), options, refused)
    by_image = _by_image(annotations or [], names, refused)
    known = _images(images or [], refused)
    refused += [
        Refusal(f"annotation {one.get('id')}", f"refers to image {key!r}, which is not in the file")
        for key in by_image.keys() - known.keys()
        for one in by_image[key]
    ]
    rows = list(_rows(known, by_image, options, _root(options, path)))
    return Reading(rows=rows, total=len(rows), refused=refused, losses=LOSSES)


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    found = sorted(path.glob("*.json")) + sorted(path.glob("annotations/*.json"))
    if len(found) != 1:
        raise InputRefused(f"{path} contains {len(found)} JSON files; name the COCO file itself")
    return found[0]


def _root(options: ImportOptions, file: Path) -> Path:
    if options.images:
        return options.images
    return next(
        (file.parent / name for name in FOLDERS if (file.parent / name).is_dir()),
        file.parent,
    )


def _categories(payload: list[Any], options: ImportOptions, refused: list[Refusal]) -> dict[Any, int | str]:
    """The dataset's category id → our class value, or the reason why it has none."""
    names: dict[Any, int | str] = {}
    for one in payload:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str) or "id" not in one:
            refused.append(Refusal(f"category {one!r:.80}", "needs an id and a name"))
        elif one["id"] in names:
            refused.append(Refusal(f"category {one['id']!r}", "its id comes twice; the first one is used"))
        else:
            try:
                names[one["id"]] = options.class_value(one["name"])
            except InputRefused as error:
                names[one["id"]] = str(error)
    return names


def _by_image(
    annotations: list[Any], names: dict[Any, int | str], refused: list[Refusal]
) -> dict[Any, list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = {}
    ids = set()
    for one in annotations:
        if not isinstance(one, dict) or not isinstance(one.get("image_id"), int | str):
            refused.append(Refusal(f"annotation {one!r:.80}", "needs the id of its image"))
            continue
        key, number = one.get("id"), names.get(one.get("category_id"), "its category is not in the file")
        if key is not None and str(key) in ids:
            refused.append(Refusal(f"annotation {key}", "its id comes twice; the first one is used"))
        elif isinstance(number, str):
            refused.append(Refusal(f"annotation {key}", number))
        else:
            ids.add(str(key))
            found.setdefault(one["image_id"], []).append(one | {"number": number})
    return found


def _images(payload: list[Any], refused: list[Refusal]) -> dict[Any, dict[str, Any]]:
    known: dict[Any, dict[str, Any]] = {}
    for one in payload:
        if not isinstance(one, dict) or not isinstance(one.get("id"), int | str):
            refused.append(Refusal(f"image {one!r:.80}", "needs an id"))
        elif not isinstance(one.get("file_name"), str):
            refused.append(Refusal(f"image {one['id']}", "names no file_name"))
        elif one["id"] in known:
            refused.append(Refusal(displayable_name(one["file_name"]), f"image id {one['id']!r} comes twice"))
        else:
            known[one["id"]] = one
    return known


def _rows(
    known: dict[Any, dict[str, Any]],
    by_image: dict[Any, list[dict[str, Any]]],
    options: ImportOptions,
    root: Path,
) -> Iterator[Row]:
    for key, image in known.items():
        mine, clean = by_image.get(key, []), image.get("clean_by", [])
        name = image["file_name"]
        clean_by = [one for one in clean if isinstance(one, str)] if isinstance(clean, list) else []
        if not mine and not clean_by and options.clean:
            clean_by = [_author(options)]
        yield Row(
            name=displayable_name(name),
            load=partial(read_inside, root, name),
            answers=partial(_answers, mine, clean_by, image, options) if mine or clean_by else None,
        )


def _author(options: ImportOptions) -> str:
    return options.author or "import:coco"


def _answers(
    annotations: list[dict[str, Any]],
    clean_by: list[str],
    image: dict[str, Any],
    options: ImportOptions,
    height: int,
    width: int,
) -> Iterator[ImportedAnnotation]:
    declared = (image.get("height", height), image.get("width", width))
    if declared != (height, width):
        raise MaskRefused(f"the file declares {declared} (height, width), its image is {(height, width)}")
    check_drawn(len(annotations), height, width)
    by_author: dict[str, list[dict[str, Any]]] = {}
    for one in annotations:
        by_author.setdefault(str(one.get("author") or _author(options)), []).append(one)
    for author, own in by_author.items():
        label_map = np.zeros((height, width), dtype=np.uint8)
        for one in own:
            try:
                label_map[mask_of(one, height, width)] = one["number"]
            except InputRefused as error:
                raise MaskRefused(f"annotation {one.get('id')}: {error}") from None
        yield ImportedAnnotation(author=author, label_map=label_map)
    for author in clean_by:
        if author not in by_author:
            yield ImportedAnnotation(author=author, label_map=None)


def mask_of(annotation: dict[str, Any], height: int, width: int) -> Mask:
    """Bool `HW` of one annotation's polygons, RLE, or box. Raises `MaskRefused` if it has none."""
    payload = annotation.get("segmentation")
    if isinstance(payload, dict):
        size = payload.get("size")
        if size != [height, width]:
            shown = tuple(size) if isinstance(size, list) else size
            raise MaskRefused(f"its mask is {shown!r:.40} (height, width), its image is {(height, width)}")
        return decode_coco(payload)
    if payload:
        return _polygons(payload, height, width)
    return box_mask(annotation.get("bbox"), height, width)


def box_mask(box: Any, height: int, width: int) -> Mask:
    """Bool `HW` of a box `[x, y, width, height]`, clipped to the image. Raises `MaskRefused` if malformed."""
    if not _numbers(box) or len(box) != 4 or min(box[2:]) < 0:
        raise MaskRefused("it has neither a segmentation nor a box [x, y, width, height]")
    x, y, w, h = (max(-(2.0**31), min(2.0**31, float(value))) for value in box)
    mask = np.zeros((height, width), dtype=bool)
    mask[max(0, round(y)) : max(0, round(y + h)), max(0, round(x)) : max(0, round(x + w))] = True
    return mask


def _polygons(payload: Any, height: int, width: int) -> Mask:
    from pycocotools import mask as coco

    if not isinstance(payload, list) or not all(
        _numbers(p) and len(p) >= 6 and len(p) % 2 == 0 for p in payload
    ):
        raise MaskRefused("a segmentation is RLE or a list of polygons [x, y, x, y, x, y, …]")
    if sum(map(len, payload)) > 2 * MAX_VERTICES or height * width > MAX_PIXELS:
        raise MaskRefused(f"its polygons have more than {MAX_VERTICES} vertices")
    # Rasterised by COCO's C code, so that areas agree; it trusts coordinates, so they are clipped first.
    kept = [
        np.clip(np.asarray(p, dtype=np.float64).reshape(-1, 2), -1, (width + 1, height + 1)).ravel().tolist()
        for p in payload
    ]
    drawn = coco.decode(coco.merge(coco.frPyObjects(kept, height, width)))
    return np.asarray(drawn, dtype=bool)


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        for value in values
    )
