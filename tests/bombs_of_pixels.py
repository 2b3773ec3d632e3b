"""The files of `tests.bombs` that hold images or label maps."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image as Picture

from dataengine.masks import pack_label_map

SIDE = 64
MEGABYTE = 2**20


class File(NamedTuple):
    """A file of the table: its name, the reader that gets it, what has to come of it, its bytes."""

    name: str
    kind: str
    expected: Literal["taken", "refused", "either"]
    make: Callable[[], bytes]


# ---- images ------------------------------------------------------------------------------------------------


@cache
def pixels() -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.stack([rows * 3, columns * 3, (rows + columns) % 256], axis=2).astype(np.uint8)


@cache
def sound_png() -> bytes:
    return written("PNG")


@cache
def written(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    body = io.BytesIO()
    Picture.fromarray(pixels()).convert(mode).save(body, kind, **options)
    return body.getvalue()


@cache
def sound_mask() -> bytes:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[10:20, 10:30] = 1
    body = io.BytesIO()
    Picture.fromarray(mask).save(body, "PNG")
    return body.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, data: bytes, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def even_png(side: int, depth: int, colour: int, *more: bytes) -> bytes:
    """A PNG of one value."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    line = 1 + (side * depth * channels + 7) // 8
    press = zlib.compressobj(9)
    parts = [press.compress(bytes(line)) for _ in range(side)]
    return png(side, side, depth, colour, b"".join(parts) + press.flush(), *more)


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def jpeg_of_lies() -> bytes:
    data = written("JPEG")
    return patched(data, data.index(b"\xff\xc0") + 5, b"\xff\xff\xff\xff")


def webp_of_lies() -> bytes:
    data = written("WEBP", lossless=True)
    return patched(data, data.index(b"VP8L") + 9, struct.pack("<I", 16383 | 16383 << 14))


def animation(kind: str, frames: int) -> bytes:
    body = io.BytesIO()
    first, *rest = (Picture.new("L", (8, 8), number % 256) for number in range(frames))
    first.save(body, kind, save_all=True, append_images=rest)
    return body.getvalue()


def text_png(name: bytes, size: int, count: int = 1) -> bytes:
    """A PNG with compressed texts or profiles of `size` bytes."""
    data = sound_png()
    press = zlib.compressobj(9)
    body = b"".join(press.compress(bytes(MEGABYTE)) for _ in range(size // MEGABYTE)) + press.flush()
    start = data.index(b"IDAT") - 4
    return data[:start] + chunk(name, b"a\0\0" + body) * count + data[start:]


def long_exif() -> bytes:
    """A JPEG whose metadata has a directory of 20,000 entries that claim 4 GB each."""
    entries = b"".join(struct.pack("<HHII", number % 65536, 2, 2**32 - 1, 8) for number in range(5000))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 5000) + entries + b"\0\0\0\0"
    return written("JPEG", exif=exif[:65000])


IMAGES = [
    File("a PNG", "image", "taken", sound_png),
    File("a JPEG", "image", "taken", partial(written, "JPEG")),
    File("a WebP", "image", "taken", partial(written, "WEBP")),
    File("a BMP", "image", "taken", partial(written, "BMP")),
    File("a GIF", "image", "taken", partial(written, "GIF", "P")),
    File("a grey PNG", "image", "taken", partial(written, "PNG", "L")),
    File("a transparent PNG", "image", "taken", partial(written, "PNG", "RGBA")),
    File("a mask", "mask image", "taken", sound_mask),
    File("8000² of one bit", "image", "taken", partial(even_png, 8000, 1, 0)),
    File("8000² of a palette with transparency", "image", "taken",
         partial(even_png, 8000, 1, 3, chunk(b"PLTE", bytes(6)), chunk(b"tRNS", b"\0\x80"))),
    File("8000² of 16 bits", "image", "taken", partial(even_png, 8000, 16, 0)),
    File("8000² with transparency", "image", "taken", partial(even_png, 8000, 8, 6)),
    File("8001 pixels too wide", "image", "refused", partial(even_png, 8001, 1, 0)),
    File("a PNG that claims 60000²", "image", "refused",
         lambda: png(60000, 60000, 8, 2, zlib.compress(b"0"))),
    File("a PNG that claims 2³¹²", "image", "refused", lambda: png(2**31 - 1, 2**31 - 1, 8, 2, b"")),
    File("a JPEG that claims 65535²", "image", "refused", jpeg_of_lies),
    File("a WebP that claims 16384²", "image", "refused", webp_of_lies),
    File("a BMP that claims 60000²", "image", "refused",
         lambda: patched(written("BMP"), 18, struct.pack("<ii", 60000, 60000))),
    File("a GIF that claims 65535²", "image", "refused",
         lambda: patched(written("GIF", "P"), 6, b"\xff\xff\xff\xff")),
    File("a GIF of 1000 frames", "image", "refused", partial(animation, "GIF", 1000)),
    File("a WebP of 200 frames", "image", "refused", partial(animation, "WEBP", 200)),
    File("an animated PNG", "image", "refused", partial(animation, "PNG", 200)),
    File("a profile of 100 MB", "image", "either", partial(text_png, b"iCCP", 100 * MEGABYTE)),
    File("a text of 100 MB", "image", "refused", partial(text_png, b"zTXt", 100 * MEGABYTE)),
    File("200 texts of 1 MB", "image", "refused", partial(text_png, b"zTXt", MEGABYTE, 200)),
    File("metadata that claims 20 TB", "image", "either", long_exif),
    File("a TIFF", "image", "refused", partial(written, "TIFF")),
    File("a PPM that claims 60000²", "image", "refused", lambda: b"P6 60000 60000 255\n0"),
    File("an EPS", "image", "refused", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60000 60000\n"),
    File("nothing", "image", "refused", bytes),
    File("a mask of 8000² for an image of 64²", "mask image", "refused", partial(even_png, 8000, 8, 0)),
    File("a mask of 8000² with colours", "mask image", "refused", partial(even_png, 8000, 8, 6)),
    File("a mask of 8000² in 16 bits", "mask image", "refused", partial(even_png, 8000, 16, 0)),
]  # fmt: skip

# ---- label maps --------------------------------------------------------------------------------------------


def sized(height: int, width: int, data: bytes) -> bytes:
    return struct.pack(">II", height, width) + data


def alternating(side: int) -> bytes:
    """A run for every pixel."""
    press = zlib.compressobj(9)
    parts = [press.compress(bytes([1, 0, 1, 1]) * (side // 2)) for _ in range(side)]
    return sized(side, side, b"".join(parts) + press.flush())


def zeros(size: int) -> bytes:
    press = zlib.compressobj(9)
    return b"".join(press.compress(bytes(MEGABYTE)) for _ in range(size // MEGABYTE)) + press.flush()


def sound_map() -> bytes:
    return sized(SIDE, SIDE, pack_label_map((pixels()[..., 0] > 90).astype(np.uint8)))


def zstd(data: bytes, declared: int | None = None) -> bytes:
    import zstandard

    packed = zstandard.ZstdCompressor(write_checksum=True).compress(data)
    return packed if declared is None else packed[:5] + struct.pack("<I", declared) + packed[9:]


def coco_code(height: int, width: int, counts: object) -> bytes:
    return json.dumps({"size": [height, width], "counts": counts}).encode()


LABEL_MAPS = [
    File("a label map", "label map", "taken", sound_map),
    File("a label map in a pack", "map pack", "taken", lambda: sized(SIDE, SIDE, zstd(bytes(SIDE * SIDE)))),
    File("a COCO code", "coco code", "taken", lambda: coco_code(4, 4, [3, 5, 8])),
    File("4096² of alternating runs", "label map", "taken", partial(alternating, 4096)),
    File("8000² of alternating runs", "label map", "taken", partial(alternating, 8000)),
    File("8000² in one run", "label map", "taken",
         lambda: sized(8000, 8000, pack_label_map(np.zeros((8000, 8000), np.uint8)))),
    File("100 MB of zeros as runs", "label map", "refused", lambda: sized(64, 64, zeros(100 * MEGABYTE))),
    File("a map of 100000²", "label map", "refused", lambda: sized(100_000, 100_000, zlib.compress(b"\1\1"))),
    File("a map of 0 rows", "label map", "refused", lambda: sized(0, 64, zlib.compress(b"\1\1"))),
    File("a run of 2³⁵", "label map", "refused",
         lambda: sized(64, 64, zlib.compress(b"\xff\xff\xff\xff\x7f\1"))),
    File("a length of 300 MB of digits", "label map", "refused",
         lambda: sized(8000, 8000, zlib.compress(b"\xff" * 100_000_000, 9))),
    File("a compressed map in a compressed map", "label map", "refused",
         lambda: sized(64, 64, zlib.compress(zlib.compress(b"\1\1")))),
    File("a pack that claims 4 GB", "map pack", "refused",
         lambda: sized(8000, 8000, zstd(bytes(2**17), 2**32 - 1))),
    File("a pack of more than it claims", "map pack", "refused", lambda: sized(8, 8, zstd(bytes(2**24)))),
    File("a pack of 999999²", "map pack", "refused", lambda: sized(999_999, 999_999, zstd(bytes(64)))),
    File("a code of 20 MB", "coco code", "refused", lambda: coco_code(64, 64, "1" * 20_000_000)),
    File("ten million runs as a code", "coco code", "taken",
         lambda: coco_code(2500, 4000, "111" + "0" * 9_999_997)),
    File("a code with huge counts", "coco code", "refused", lambda: coco_code(64, 64, [2**62, 2**62])),
    File("a code with negative counts", "coco code", "refused", lambda: coco_code(4, 4, [20, -4])),
    File("a code of 3 million zeros", "coco code", "refused",
         lambda: coco_code(8000, 8000, [0] * 3_000_000)),
    File("a code of 2³¹ rows", "coco code", "refused", lambda: coco_code(2**31, 2**31, "1")),
]  # fmt: skip
