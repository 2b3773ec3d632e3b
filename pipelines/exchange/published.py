"""Published artifact datasets in their own layouts: RichHF-18K and the Human Artifact Dataset (HADM).

RichHF-18K: https://github.com/google-research-datasets/richhf-18k (Liang et al. 2024); its pictures are
joined from a local Pick-a-Pic folder. HADM: https://github.com/wangkaihong/HADM (Wang et al. 2024, arXiv
2411.13842).
"""

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.errors import InputRefused, MaskRefused
from dataengine.masks import components
from pipelines.exchange.bounds import MAX_JSON, inside, read_inside, read_json
from pipelines.exchange.coco import box_mask
from pipelines.exchange.folders import find_pictures
from pipelines.exchange.images import MAX_BYTES, decode
from pipelines.exchange.intake import Answer, Reading, Row
from pipelines.exchange.notes import Note, Refusal, parse, read_plain, readable
from pipelines.exchange.tfrecord import Example, example, records
from pipelines.exchange.wanted import Wanted

HEAT_THRESHOLD = 128
"""Of 255: where at least half of the raters' circles lie."""
SIDE = 512
SCORES = ("aesthetics_score", "artifact_score", "misalignment_score", "overall_score")


# ---- RichHF-18K --------------------------------------------------------------------------------------


def read_richhf(wanted: Wanted) -> Reading:
    """The rows of its TFRecord files whose pictures lie in `wanted.images`, by path or else by file name.

    The heat map (mean of fixed-radius circles about the points that raters marked) becomes a label where it
    reaches half; the points, as the centres of its regions, and the scores go into the label's note.
    """
    files = [wanted.path] if wanted.path.is_file() else sorted(wanted.path.glob("*.tfrecord"))
    if not files:
        raise InputRefused(f"{wanted.path} holds no .tfrecord file; RichHF-18K has train, dev and test")
    if wanted.images is None or not wanted.images.is_dir():
        raise InputRefused("RichHF-18K holds no pictures; give your Pick-a-Pic folder with --images")
    refused: list[Refusal] = []
    by_name: dict[str, str] = {}
    for found in find_pictures(wanted.images)[0]:
        by_name.setdefault(found.path.name, found.name)
        by_name[found.name] = found.name
    losses = ("misalignment maps and token labels are not kept",)
    return Reading(rows=_rows(files, by_name, wanted, refused), total=0, refused=refused, losses=losses)


def _rows(
    files: list[Path], by_name: dict[str, str], wanted: Wanted, refused: list[Refusal]
) -> Iterator[Row]:
    assert wanted.images
    seen = set()
    for file in files:
        try:
            for number, record in enumerate(records(file)):
                where = f"{file.name}#{number}"
                try:
                    said = example(record)
                    name = _text(said, "filename")
                    here = by_name.get(name) or by_name.get(name.rpartition("/")[2])
                    if here is None:
                        raise InputRefused(f"no picture {readable(name)!r} lies in {wanted.images.name}/")
                    if name in seen:
                        raise InputRefused(f"the file name {readable(name)!r} comes twice")
                    seen.add(name)
                    yield Row(
                        name=where,
                        load=partial(read_inside, wanted.images, here),
                        answers=partial(_heat_answer, said, wanted),
                    )
                except InputRefused as error:
                    refused.append(Refusal(where, str(error)))
        except InputRefused as error:
            refused.append(Refusal(file.name, f"{error}; what follows in this file was not read"))


def _text(said: Example, name: str) -> str:
    values = said.get(name)
    if not values or not isinstance(values[0], bytes):
        raise InputRefused(f"the record has no {name}")
    try:
        return values[0].decode()
    except UnicodeDecodeError:
        raise InputRefused(f"its {name} is no UTF-8 text") from None


def _heat_answer(said: Example, wanted: Wanted, height: int, width: int) -> list[Answer]:
    heat = _heat(said)
    regions, count = components(heat >= HEAT_THRESHOLD)
    points = [_centre(regions == number, heat.shape, height, width) for number in range(1, count + 1)]
    scores = {name: round(float(said[name][0]), 6) for name in SCORES if said.get(name)}
    note = {"dataset": "richhf-18k", "points": points, **scores}
    rows = np.arange(height) * heat.shape[0] // height
    columns = np.arange(width) * heat.shape[1] // width
    broken = (heat >= HEAT_THRESHOLD)[np.ix_(rows, columns)]
    label_map = np.where(broken, wanted.only, 0).astype(np.uint8)
    return [
        Answer(
            author=wanted.author or "import:richhf",
            label_map=label_map if broken.any() else None,
            note=json.dumps(note, sort_keys=True),
        )
    ]


def _heat(said: Example) -> np.ndarray:
    values = said.get("artifact_map")
    if not values or not isinstance(values[0], bytes) or len(values[0]) > MAX_BYTES:
        raise MaskRefused("the record has no artifact_map")
    try:
        return decode(values[0], max_pixels=16 * SIDE * SIDE)[..., 0]
    except InputRefused as error:
        raise MaskRefused(f"its artifact_map is {error}") from None


def _centre(region: np.ndarray, shape: tuple[int, ...], height: int, width: int) -> tuple[float, float]:
    """A region's centre as (x, y) in the picture's pixels."""
    rows, columns = np.nonzero(region)
    x, y = (columns.mean() + 0.5) * width / shape[1], (rows.mean() + 0.5) * height / shape[0]
    return round(float(x), 1), round(float(y), 1)


# ---- the Human Artifact Dataset ----------------------------------------------------------------------


def read_hadm(wanted: Wanted) -> Reading:
    """`annotations/SPLIT/*.json` with `images/SPLIT/`: boxes about broken body parts fill a label.

    A box over a person who misses or has too many of something ("human missing arm") is of the class
    `unreasonable content` where the workspace has it. Pictures without boxes are labelled clean.
    """
    homes = sorted(path for path in (wanted.path / "annotations").glob("*") if path.is_dir())
    if not homes:
        raise InputRefused(f"{wanted.path} has no folders annotations/SPLIT and images/SPLIT as HADM has")
    files = [file for home in homes for file in sorted(home.glob("*.json"))]
    refused: list[Refusal] = []
    losses = ("boxes become filled boxes; parts, levels and tags go into the note",)
    return Reading(rows=_had_rows(files, wanted, refused), total=len(files), refused=refused, losses=losses)


def _had_rows(files: list[Path], wanted: Wanted, refused: list[Refusal]) -> Iterator[Row]:
    for file in files:
        where = f"{file.parent.name}/{readable(file.name)}"
        root = wanted.images or wanted.path / "images" / file.parent.name
        try:
            said = read_json(file, MAX_JSON // 1024)
            about = said.get("image") if isinstance(said, dict) else None
            if not isinstance(about, dict) or not isinstance(about.get("file_name"), str):
                raise InputRefused('has no {"image": {"file_name": …}}')
            inside(root, about["file_name"])
            note = parse({"prompt": about.get("prompt")})
        except InputRefused as error:
            refused.append(Refusal(where, str(error)))
            continue
        yield Row(
            name=where,
            load=partial(_had_load, root, about["file_name"], note),
            answers=partial(_boxes_answer, said, wanted),
        )


def _had_load(root: Path, name: str, note: Note) -> tuple[bytes, Note]:
    return read_plain(inside(root, name), MAX_BYTES), note


def _boxes_answer(said: dict[str, Any], wanted: Wanted, height: int, width: int) -> list[Answer]:
    other = next((n for n, c in enumerate(wanted.classes, 1) if c == "unreasonable content"), wanted.only)
    label_map = np.zeros((height, width), dtype=np.uint8)
    noted = []
    for kind, number in (("human", other), ("annotation", wanted.only)):
        for one in said.get(kind) or []:
            if not isinstance(one, dict):
                raise MaskRefused(f"{kind} must be a list of objects with a bbox")
            words = one.get("tag") or one.get("tags") if kind == "human" else one.get("body_parts")
            if words:
                label_map[_corners_mask(one.get("bbox"), height, width)] = number
                noted.append({"box": one["bbox"], "what": words, "level": one.get("level")})
    note = json.dumps({"dataset": "hadm", "boxes": noted}, sort_keys=True)
    answer = Answer(
        author=wanted.author or "import:hadm", label_map=label_map if label_map.any() else None, note=note
    )
    return [answer]


def _corners_mask(box: Any, height: int, width: int) -> np.ndarray:
    """Bool `HW` of a box `[x1, y1, x2, y2]`, corners in any order."""
    if not (isinstance(box, list) and len(box) == 4 and all(_finite(value) for value in box)):
        raise MaskRefused("a box is [x1, y1, x2, y2]")
    (left, right), (top, bottom) = sorted((box[0], box[2])), sorted((box[1], box[3]))
    return box_mask([left, top, right - left, bottom - top], height, width)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
