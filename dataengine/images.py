"""Decoding and encoding of images."""

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import ImageOps

from dataengine.bounds import IMAGE_BYTES, LARGE_PIXELS, MAX_PIXELS, check_bytes
from dataengine.errors import ImageRefused, reason_of

THUMBNAIL = 256
THUMBNAIL_QUALITY = 80
ORIENTATION = 0x0112
OPAQUE = 255
PLAIN_MODES = ("1", "L", "P", "RGB", "I;16", "I")
PNG_MARKS = (b"eXIf", b"Raw profile type", b"tiff:Orientation", b"XML:com.adobe.xmp")
"""Where a PNG may say how it is to be turned."""
MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "GIF": "image/gif",
}
"""Supported formats; browsers show all of them. An MPO is a JPEG with a second one appended by the camera."""

STRIP_PIXELS = 1_000_000
_LARGE = Lock()
"""Held while a large image is decoded: the threads of an import would multiply its memory."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


def recompress(
    pixels: NDArray[np.uint8], format_: Literal["JPEG", "WEBP"], quality: int
) -> NDArray[np.uint8]:
    """uint8 `HWC` RGB pixels saved with loss at `quality` (1 to 100) and decoded again."""
    file = io.BytesIO()
    PilImage.fromarray(pixels).save(file, format_, quality=quality)
    return decode(file.getvalue())


def thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG thumbnail, at most 256 px, of uint8 `HWC` RGB pixels."""
    return _jpeg(_shrunk(PilImage.fromarray(pixels)))


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFile:
    """An image file: hash, height and width as displayed, kind, a JPEG thumbnail of at most 256 px, 64-bit
    dHash."""

    sha256: str
    height: int
    width: int
    media_type: str
    thumbnail: bytes
    fingerprint: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLayers:
    """An image's colours and opacity, not yet laid on any ground."""

    values: NDArray[Any]
    """Grey levels (uint8 or uint16 `HW`), colours (uint8 `HWC` RGB), or `palette`'s indices (uint8 `HW`)."""
    palette: NDArray[np.uint8] | None
    """The colours of the indices, `(256, 3)`."""
    alpha: NDArray[np.uint8] | None
    """Opacity, `HW`; None where everything is opaque."""
    lossy: bool
    """Whether its compression changes values."""


IMAGE_DESCRIPTION, MAKE, MODEL, EXIF_IFD, USER_COMMENT = 0x010E, 0x010F, 0x0110, 0x8769, 0x9286
UNICODE = b"UNICODE\0"


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The file's pixels, uint8 `HWC` RGB at native size. Raises `ImageRefused` with the reason."""
    with _opened(data, max_pixels) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return _in_strips(image, _shown)


def as_shown(data: bytes, media_type: str) -> tuple[bytes, str]:
    """The file and its media type if every viewer shows it as `decode` does, else a PNG of its pixels.

    Viewers turn some formats by EXIF and leave others, lay transparency on whatever lies behind, and convert
    print colours each in its own way. A file that cannot be decoded is returned as it is.
    """
    try:
        return (data, media_type) if _is_plain(data) else (encode_png(decode(data)), MEDIA_TYPES["PNG"])
    except ImageRefused:
        return data, media_type


def _is_plain(data: bytes) -> bool:
    """Whether every viewer shows the file alike: upright as stored, opaque, and no print colours."""
    with _opened(data, MAX_PIXELS) as image:
        opaque = image.mode in PLAIN_MODES and not image.has_transparency_data
        # A PNG is decoded to look for EXIF, so its chunks are looked at first.
        if opaque and image.format == "PNG" and not any(mark in data for mark in PNG_MARKS):
            return True
        if image.mode == "CMYK" or image.getexif().get(ORIENTATION, 1) in range(2, 9):
            return False
        return opaque or all(_alpha(strip).getextrema()[0] == OPAQUE for strip, _ in _strips(image))


def stored_size(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width as the file states them, before EXIF turns it; nothing is decoded. Raises
    `ImageRefused`."""
    with _opened(data, max_pixels) as image:
        return image.height, image.width


def texts_in(data: bytes) -> dict[str, str]:
    """The texts in a file by name: PNG's text chunks; elsewhere EXIF's UserComment as "parameters", and
    "name:text" in EXIF's Make, Model and ImageDescription. {} for a file that cannot be opened.
    """
    found: dict[str, str] = {}
    try:
        with _opened(data, MAX_PIXELS) as image:
            found |= {str(name): text for name, text in image.info.items() if isinstance(text, str)}
            exif = image.getexif()
            for tag in (IMAGE_DESCRIPTION, MAKE, MODEL):
                name, colon, text = str(exif.get(tag, "")).partition(":")
                if colon and name.isidentifier():
                    found.setdefault(name.lower(), text.strip("\0 "))
            comment = exif.get_ifd(EXIF_IFD).get(USER_COMMENT)
            if isinstance(comment, bytes) and len(comment) > len(UNICODE):
                found.setdefault("parameters", _commented(comment))
    except ImageRefused:
        return {}
    return found


def _commented(comment: bytes) -> str:
    """EXIF's UserComment: eight bytes name the encoding, UTF-16 of either order, or ASCII."""
    text = comment[len(UNICODE) :]
    if not comment.startswith(UNICODE):
        return text.decode("utf-8", "replace").strip("\0 ")
    # The order of bytes is not stated: in that of the text, the zeros of plain letters come first or second.
    order = "utf-16-be" if text[::2].count(0) >= text[1::2].count(0) else "utf-16-le"
    return text.decode(order, "replace").strip("\0 \ufeff")


def decode_layers(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageLayers:
    """The file's colours and opacity apart, as displayed, for masks. Raises `ImageRefused` as `decode`."""
    with _opened(data, max_pixels) as image:
        lossy = image.format in ("JPEG", "MPO") or (image.format == "WEBP" and b"VP8 " in data)
        ImageOps.exif_transpose(image, in_place=True)
        alpha = _in_strips(image, _alpha) if image.has_transparency_data else None
        if alpha is not None and alpha.min() == OPAQUE:
            alpha = None
        if image.mode in ("P", "PA"):
            palette = np.zeros((256, 3), dtype=np.uint8)
            colours = np.array(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
            palette[: len(colours)] = colours
            indices = np.array(image.getchannel(0) if image.mode == "PA" else image)
            return ImageLayers(values=indices, palette=palette, alpha=alpha, lossy=lossy)
        values: NDArray[Any]
        if image.mode.startswith("I"):
            values = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
        elif image.mode in ("1", "L", "LA", "La"):
            values = np.array(image.convert("L") if image.mode != "LA" else image.getchannel("L"))
        else:
            values = _in_strips(image, _coloured)
        return ImageLayers(values=values, palette=None, alpha=alpha, lossy=lossy)


def measure(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageFile:
    """Everything that ingest needs of a file; a JPEG is decoded only as finely as its thumbnail needs."""
    with _opened(data, max_pixels) as image:
        width, height = image.size
        if image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8):
            width, height = height, width
        media_type = MEDIA_TYPES[str(image.format)]
        image.draft("RGB", (THUMBNAIL, THUMBNAIL))
        ImageOps.exif_transpose(image, in_place=True)
        small = _shrunk(_shown(image))
        return ImageFile(
            sha256=hashlib.sha256(data).hexdigest(),
            height=height,
            width=width,
            media_type=media_type,
            thumbnail=_jpeg(small),
            fingerprint=_difference_hash(small),
        )


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[PilImage.Image]:
    """The opened file, within limits; any failure of the decoder inside the block becomes `ImageRefused`."""
    if not data:
        raise ImageRefused("the file is empty")
    check_bytes(len(data), IMAGE_BYTES, "the file", "downscale the image", ImageRefused)
    try:
        with PilImage.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageRefused(f"{width}×{height} pixels exceed the limit of {max_pixels}; downscale it")
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise ImageRefused("animated; export one frame as an image of its own")
            with _LARGE if width * height > LARGE_PIXELS else nullcontext():
                yield image
    except ImageRefused:
        raise
    except PilImage.DecompressionBombError:
        raise ImageRefused(f"more pixels than the limit of {max_pixels}; downscale it") from None
    except PilImage.UnidentifiedImageError:
        raise ImageRefused("not a PNG, JPEG, WebP, BMP or GIF image; convert it to PNG") from None
    except Exception as error:  # on hostile bytes decoders raise any kind of error
        raise ImageRefused(f"damaged: {reason_of(error)}") from None


def _shown(image: PilImage.Image) -> PilImage.Image:
    """8-bit RGB of an upright image as a viewer displays it."""
    if image.mode.startswith("I"):
        return PilImage.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        return _over_white(image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(layers: PilImage.Image) -> PilImage.Image:
    """An RGBA image over white."""
    shown = PilImage.new("RGB", layers.size)
    for strip, top in _strips(layers):
        flat = PilImage.alpha_composite(PilImage.new("RGBA", strip.size, "white"), strip)
        shown.paste(flat.convert("RGB"), (0, top))
    return shown


def _alpha(image: PilImage.Image) -> PilImage.Image:
    return image.convert("RGBA").getchannel("A")


def _coloured(image: PilImage.Image) -> PilImage.Image:
    return image.convert("RGB")


def _in_strips(
    image: PilImage.Image, convert: Callable[[PilImage.Image], PilImage.Image]
) -> NDArray[np.uint8]:
    """The converted image's values, uint8 `HW` or `HWC`."""
    values: NDArray[np.uint8] | None = None
    for strip, top in _strips(image):
        converted = np.asarray(convert(strip))
        if values is None:
            values = np.empty((image.height, *converted.shape[1:]), dtype=np.uint8)
        values[top : top + strip.height] = converted
    assert values is not None
    return values


def _strips(image: PilImage.Image) -> Iterator[tuple[PilImage.Image, int]]:
    """The image in strips, each with its first row: what is converted whole takes a copy for every step."""
    rows = max(1, STRIP_PIXELS // image.width)
    if rows >= image.height:
        yield image, 0
        return
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height))), top


def _eight_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """The upper byte of 16-bit grey values, rounded."""
    shown = np.empty(values.shape, dtype=np.uint8)
    for row, line in enumerate(values):
        shown[row] = np.rint(np.clip(line.astype(np.float32), 0, 65535) / 257)
    return shown


def _shrunk(image: PilImage.Image) -> PilImage.Image:
    """The image, which is changed itself, as its thumbnail."""
    image.thumbnail((THUMBNAIL, THUMBNAIL), PilImage.Resampling.BOX, reducing_gap=2.0)
    return image


def _jpeg(image: PilImage.Image) -> bytes:
    body = io.BytesIO()
    image.save(body, format="JPEG", quality=THUMBNAIL_QUALITY)
    return body.getvalue()


def _difference_hash(image: PilImage.Image) -> int:
    """64 bits: whether brightness falls from a cell of a 9×8 grid to its right neighbour (dHash)."""
    cells = np.asarray(image.convert("L").resize((9, 8), PilImage.Resampling.BOX), dtype=np.int16)
    bits = np.packbits(cells[:, 1:] < cells[:, :-1])
    return int.from_bytes(bits.tobytes(), "big")


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG bytes of a uint8 HWC RGB image; equal pixels always give equal bytes."""
    body = io.BytesIO()
    PilImage.fromarray(pixels).save(body, format="PNG", compress_level=4)
    return body.getvalue()


Pixels = NDArray[np.uint8]
