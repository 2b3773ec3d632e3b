"""Picture files that a folder may hold, good and bad, made on the spot."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image as Picture


def scene(number: int = 0, height: int = 96, width: int = 128) -> np.ndarray:
    """Smooth random shapes, uint8 HWC: scenes of different numbers do not look alike."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.array(Picture.fromarray(coarse).resize((width, height), Picture.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    return saved(Picture.fromarray(pixels), kind, **options)


def saved(picture: Picture.Image, kind: str = "PNG", **options: Any) -> bytes:
    body = io.BytesIO()
    picture.save(body, kind, **options)
    return body.getvalue()


def turned(orientation: int) -> bytes:
    """A JPEG that EXIF says to turn."""
    exif = Picture.Exif()
    exif[0x0112] = orientation
    return encoded(scene(1), "JPEG", quality=95, exif=exif)


def animated(kind: str) -> bytes:
    frames = [Picture.fromarray(scene(n)) for n in range(3)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


def bomb(side: int = 60_000) -> bytes:
    """A small PNG file that says, and nearly holds, side × side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 + side // 8) * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def sixteen_bit_grey() -> tuple[bytes, np.ndarray]:
    """A PNG with a ramp over all 65,536 values, and what it shows in 8 bits."""
    ramp = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    return saved(Picture.fromarray(ramp)), np.rint(ramp / 257).astype(np.uint8)


def sixteen_bit_colour(height: int = 8, width: int = 8) -> bytes:
    """A 16-bit RGB PNG, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + struct.pack(">HHH", 65535, 32896, 0) * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def good_files() -> dict[str, bytes]:
    """Unusual pictures that are taken."""
    rgba = np.dstack([scene(9), np.full((96, 128), 128, np.uint8)])
    return {
        "plain.png": encoded(scene(0)),
        "photo.jpg": encoded(scene(2), "JPEG", quality=90),
        "new.webp": encoded(scene(3), "WEBP"),
        "old.bmp": encoded(scene(4), "BMP"),
        "still.gif": encoded(scene(5), "GIF"),
        "cmyk.jpg": saved(Picture.fromarray(scene(6)).convert("CMYK"), "JPEG", quality=95),
        "palette.png": saved(Picture.fromarray(scene(7)).convert("P", palette=Picture.Palette.ADAPTIVE)),
        "grey.png": saved(Picture.fromarray(scene(8)).convert("L")),
        "deep_grey.png": sixteen_bit_grey()[0],
        "deep_colour.png": sixteen_bit_colour(),
        "glass.png": saved(Picture.fromarray(rgba)),
        "turned.jpg": turned(6),
        "tiny.png": encoded(scene(10, 1, 1)),
    }


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Files that are refused, each with words of its reason."""
    whole = encoded(scene(11), "JPEG", quality=95)
    png = bytearray(encoded(scene(12)))
    png[len(png) // 2] ^= 0xFF
    return {
        "empty.png": (b"", "empty"),
        "cut.jpg": (whole[: len(whole) // 2], "damaged"),
        "cut.png": (encoded(scene(13))[:-40], "damaged"),
        "flipped.png": (bytes(png), "damaged"),
        "header_only.jpg": (whole[:3], "not a PNG"),
        "huge.png": (bomb(), "more pixels|at most"),
        "large.png": (bomb(9_000), "exceed the limit"),
        "dancing.gif": (animated("GIF"), "animated"),
        "dancing.webp": (animated("WEBP"), "animated"),
        "dancing.png": (animated("PNG"), "animated"),
        "notes.doc": (b"\xd0\xcf\x11\xe0 not a picture", "not a PNG"),
        "page.png": (b"<html><script>alert(1)</script></html>", "not a PNG"),
        "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG"),
        "scan.tiff": (encoded(scene(14), "TIFF"), "not a PNG"),
        "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a PNG"),
    }
