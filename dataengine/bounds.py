"""Bounds of everything that is decoded from outside, checked before the memory is taken.

A small body stays small: what decoding may take is `allowance(size)`, a multiple of the body's own size above
a fixed amount, so that kilobytes never become gigabytes, while large honest files are read.
"""

import json
from pathlib import Path
from typing import Any

from dataengine.errors import InputRefused, MaskRefused, ModelRefused

MAX_PIXELS = 64_000_000
"""Of an image or a mask; 8000×8000."""
LARGE_PIXELS = 8_000_000
"""Images above this are decoded one at a time, whatever the number of threads."""
IMAGE_BYTES = 128 * 2**20
"""Of an image file."""
PIECE_BYTES = 2**18
"""Runs of masks are decoded this many bytes at a time."""
DRAWN_PIXELS = 10_000_000_000
"""Of one image's annotations together, each counted as large as the image: 38,000 of 512², 150 of 8000²."""
BRUSH_BYTES = 4 * 2**20
"""Of one brush stroke's code in Label Studio's JSON."""
JSON_BYTES = 2**30
"""Of a JSON file of a dataset."""
JSON_MEMORY = 4 * 2**30
"""Of the objects that it becomes."""
BODY_MEMORY = 64 * 2**20
"""Of the objects that a request's JSON becomes."""
CONFIG_BYTES = 16 * 2**20
"""Of a JSON file in a model's folder."""
HEADER_BYTES = 16 * 2**20
"""Of the header of a safetensors file; those of the largest published models are below 1 MiB."""
TABLE_BYTES = 2**30
"""Of a CSV file."""
TABLE_ROWS = 500_000
"""Of a CSV file."""
RECORD_BYTES = 32 * 2**20
"""Of one TFRecord."""
RECORD_VALUES = 100_000
"""Of one TFRecord, all features together."""
ARCHIVE_MEMBERS = 500_000
"""Of a zip archive."""
ARCHIVE_RATIO = 200
"""Images hardly compress; JSON and single-colour masks may shrink by a factor of a hundred."""
ARCHIVE_ALWAYS = 256 * 2**20
"""Archives that unpack to less than this are accepted regardless of their ratio."""
UPLOAD_FILES = 20_000
"""Of one upload by a browser."""
UPLOAD_BYTES = 64 * 2**30
"""Of the files of one upload together."""
UPLOAD_ARCHIVE = 16 * 2**30
"""Of a .zip in an upload; any other file is an image or a table, at most `IMAGE_BYTES`."""
UPLOAD_PIECE = 4 * 2**20
"""Of one request of an upload; larger files come in several."""
UPLOAD_NAME = 240
"""Bytes of each part of an uploaded file's path, below what file systems allow."""
UPLOAD_DEPTH = 16
"""Folders in an uploaded file's path."""
ALWAYS = 128 * 2**20
RATIO = 12
LENGTH_BYTES = 8


def allowance(size: int, most: int | None = None) -> int:
    """Bytes of memory that decoding `size` bytes may take: `ALWAYS`, or `RATIO` times their number, at most
    `most`."""
    allowed = max(ALWAYS, RATIO * size)
    return allowed if most is None else min(allowed, most)


def check_bytes(
    needed: int, bound: int, what: str, instead: str, refused: type[InputRefused] = InputRefused
) -> None:
    """Raise `refused` if `needed` exceeds `bound`; the sentence says what would be needed, what is allowed,
    and what to do `instead`."""
    if needed > bound:
        raise refused(f"{what} would take {needed} bytes, {bound} are allowed; {instead}")


def check_json(data: bytes, allowed: int, what: str, refused: type[InputRefused] = InputRefused) -> None:
    """Raise `refused` if the objects of this JSON text would take more than `allowed` bytes.

    Estimated from its punctuation, which is counted without decoding anything: about 240 bytes for an object,
    96 for a list, 32 for a value after a comma, 56 for a text, and the text itself twice.
    """
    weights = {b"{": 240, b"[": 96, b",": 32, b'"': 28}
    needed = 2 * len(data) + sum(weight * data.count(mark) for mark, weight in weights.items())
    check_bytes(needed, allowed, what, "split it, or leave out what is not needed", refused)


def config_bytes(file: Path) -> bytes:
    """The bytes of a JSON file in a model's folder. Raises `OSError`, or `ModelRefused` above
    `CONFIG_BYTES`."""
    check_bytes(
        file.stat().st_size, CONFIG_BYTES, str(file), "it is no configuration; save it again", ModelRefused
    )
    data = file.read_bytes()
    check_json(data, allowance(len(data)), str(file), ModelRefused)
    return data


def check_drawn(count: int, height: int, width: int) -> None:
    """Raise `MaskRefused` for more annotations of one image than can be drawn in reasonable time."""
    if count * height * width > DRAWN_PIXELS:
        most = DRAWN_PIXELS // (height * width)
        raise MaskRefused(f"{count} annotations of one image of {height}×{width}; at most {most} are drawn")


def read_config(file: Path) -> Any:
    """A JSON file in a model's folder. Raises `OSError`, `ValueError` if it is no JSON, and as
    `config_bytes`."""
    try:
        return json.loads(config_bytes(file))
    except RecursionError:
        raise ValueError(f"{file} is nested too deeply") from None


def check_header(file: Path) -> None:
    """Raise `ModelRefused` if a safetensors file claims a header above `HEADER_BYTES`; `OSError`."""
    with file.open("rb") as start:
        claimed = int.from_bytes(start.read(LENGTH_BYTES), "little")
    check_bytes(
        claimed,
        HEADER_BYTES,
        f"the header of {file}",
        "it is not a safetensors file, or it is damaged; save it again",
        ModelRefused,
    )
