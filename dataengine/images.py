"""Decode and encode images."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageOps

from dataengine.errors import ImageRefused
from dataengine.masks import MAX_PIXELS

MAX_BYTES = 128 * 1024 * 1024
THUMBNAIL = 256
THUMBNAIL_QUALITY = 80
ORIENTATION = 0x0112
MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "GIF": "image/gif",
}
"""What is read; browsers show all of it. An MPO is a JPEG behind which a camera hid a second one."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


def thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG of at most 256 px of uint8 `HWC` RGB pixels."""
    return _jpeg(_shrunk(Picture.fromarray(pixels)))


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFile:
    """A picture file: hash, height and width as shown, kind, a JPEG of at most 256 px, 64-bit dHash."""

    sha256: str
    height: int
    width: int
    media_type: str
    thumbnail: bytes
    fingerprint: int


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The file's pixels, uint8 `HWC` RGB at native size. `ImageRefused` with the reason otherwise."""
    with _opened(data, max_pixels) as picture:
        return np.array(_shown(picture))


def decode_values(
    data: bytes, formats: tuple[str, ...] = FORMATS, max_pixels: int = MAX_PIXELS
) -> NDArray[Any]:
    """The file's stored values, `HW` or `HWC`, as masks hold them: palette indices, grey levels as they are.

    Transparency of grey images is dropped. Raises `ImageRefused` as `decode`.
    """
    with _opened(data, max_pixels, formats) as picture:
        return np.array(picture.convert("L") if picture.mode in ("1", "LA") else picture)


def measure(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageFile:
    """Everything that ingest needs of a file, decoding a JPEG only as finely as its thumbnail needs."""
    with _opened(data, max_pixels) as picture:
        width, height = picture.size
        if picture.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8):
            width, height = height, width
        media_type = MEDIA_TYPES[str(picture.format)]
        picture.draft("RGB", (THUMBNAIL, THUMBNAIL))
        small = _shrunk(_shown(picture))
        return ImageFile(
            sha256=hashlib.sha256(data).hexdigest(),
            height=height,
            width=width,
            media_type=media_type,
            thumbnail=_jpeg(small),
            fingerprint=_difference_hash(small),
        )


@contextmanager
def _opened(data: bytes, max_pixels: int, formats: tuple[str, ...] = FORMATS) -> Iterator[Picture.Image]:
    """The opened file, within limits; any failure of the decoder inside the block becomes `ImageRefused`."""
    if not data:
        raise ImageRefused("the file is empty")
    if len(data) > MAX_BYTES:
        raise ImageRefused(f"the file has {len(data)} bytes, at most {MAX_BYTES} are read")
    try:
        with Picture.open(io.BytesIO(data), formats=formats) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise ImageRefused(f"{width}×{height} pixels, at most {max_pixels} are read; make it smaller")
            if picture.format != "MPO" and getattr(picture, "is_animated", False):
                raise ImageRefused("animated; export the frame that you mean as a picture of its own")
            yield picture
    except ImageRefused:
        raise
    except Picture.DecompressionBombError:
        raise ImageRefused(f"more pixels than the {max_pixels} that are read; make it smaller") from None
    except Picture.UnidentifiedImageError:
        raise ImageRefused("not a PNG, JPEG, WebP, BMP or GIF picture; convert it to PNG") from None
    except Exception as error:  # decoders fail on hostile bytes in every way that there is
        raise ImageRefused(f"damaged: {error or type(error).__name__}") from None


def _shown(picture: Picture.Image) -> Picture.Image:
    """8-bit RGB as a viewer shows it."""
    ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith("I"):
        return Picture.fromarray(_eight_bits(np.asarray(picture))).convert("RGB")
    if picture.has_transparency_data:
        layers = picture.convert("RGBA")
        return Picture.alpha_composite(Picture.new("RGBA", layers.size, "white"), layers).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """The upper half of 16-bit grey values, rounded."""
    return np.rint(np.clip(values.astype(np.float32), 0, 65535) / 257).astype(np.uint8)


def _shrunk(picture: Picture.Image) -> Picture.Image:
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Picture.Resampling.BOX, reducing_gap=2.0)
    return small


def _jpeg(picture: Picture.Image) -> bytes:
    body = io.BytesIO()
    picture.save(body, format="JPEG", quality=THUMBNAIL_QUALITY)
    return body.getvalue()


def _difference_hash(picture: Picture.Image) -> int:
    """64 bits: whether brightness falls from a cell of a 9×8 grid to its right neighbour (dHash)."""
    cells = np.asarray(picture.convert("L").resize((9, 8), Picture.Resampling.BOX), dtype=np.int16)
    bits = np.packbits(cells[:, 1:] < cells[:, :-1])
    return int.from_bytes(bits.tobytes(), "big")


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG bytes of a uint8 HWC RGB image; the same pixels always give the same bytes."""
    body = io.BytesIO()
    Picture.fromarray(pixels).save(body, format="PNG", compress_level=4)
    return body.getvalue()


Pixels = NDArray[np.uint8]
