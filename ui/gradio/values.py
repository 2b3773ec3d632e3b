"""Values of the mask editor between Python and files: images, label maps, confidence maps.

Images are uint8 `HWC` RGB, label maps uint8 `HW` (0 is nothing, i the i-th class), confidence maps float32
`HW` in [0, 1]. Whatever cannot be used raises an `InputRefused` of one sentence.
"""

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from dataengine.bounds import MAX_PIXELS
from dataengine.errors import ImageRefused, InputRefused, MaskRefused
from dataengine.images import as_shown, decode, decode_layers, stored_size
from dataengine.masks import MAX_CLASS, Confidence, LabelMap, PackedMap, check_label_map, dequantise, quantise

Size = tuple[int, int]
"""Height and width in pixels."""
ImageLike = str | bytes | NDArray[Any] | PilImage.Image
"""An image as an array, a Pillow image, the bytes of a file, or the path of one."""

PARTS = ("image", "label_map", "classes", "confidence", "threshold")
SUFFIXES = {b"\x89PNG": "png", b"\xff\xd8": "jpg", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}
WRITABLE = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


class MaskEditorValue(Mapping[str, Any]):
    """What an event handler is given: a mapping with the keys `PARTS`.

    `image` is uint8 `HWC` RGB; `label_map` uint8 `HW`, 0 is nothing, i the i-th class; `classes` their names;
    `confidence` float32 `HW` in [0, 1] or None; `threshold` the confidence from which a region is suggested.
    Parts in `later` are decoded when they are first asked for: most handlers read the label map alone.
    """

    def __init__(self, parts: Mapping[str, Any], later: Mapping[str, Callable[[], Any]]) -> None:
        self._parts = dict(parts)
        self._later = dict(later)

    def __getitem__(self, name: str) -> Any:
        if name not in self._parts:
            self._parts[name] = self._later[name]()
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(PARTS)

    def __len__(self) -> int:
        return len(PARTS)


def parts_of(value: Any) -> dict[str, Any]:
    """The value as a dict; an image alone is one without labels. Raises `InputRefused` for other keys."""
    if not isinstance(value, Mapping):
        return {"image": value}
    if unknown := sorted(set(map(str, value)) - set(PARTS)):
        raise InputRefused(f"a value has the keys {', '.join(PARTS)}; got {', '.join(unknown)}")
    if value.get("image") is None:
        raise InputRefused("a value needs an image; set the editor to None to clear it")
    return dict(value)


def check_classes(classes: Sequence[str]) -> list[str]:
    """The names as a list. Raises `InputRefused` unless they are one to 127 distinct texts."""
    names = [] if isinstance(classes, str) else list(classes)
    if not 1 <= len(names) <= MAX_CLASS or not all(isinstance(name, str) and name.strip() for name in names):
        raise InputRefused(f"classes must be a list of 1 to {MAX_CLASS} names, got {classes!r:.80}")
    if len(set(names)) < len(names):
        raise InputRefused(f"classes must be distinct, got {', '.join(names):.200}")
    return names


def check_threshold(threshold: float) -> float:
    """The threshold. Raises `InputRefused` outside [0, 1]."""
    if not isinstance(threshold, int | float | np.number) or not 0 <= threshold <= 1:
        raise InputRefused(f"threshold must be a number from 0 to 1, got {threshold!r:.40}")
    return float(threshold)


def image_file(image: bytes | NDArray[Any] | PilImage.Image) -> tuple[bytes, Size]:
    """An image as a file that every browser shows alike, and its size as shown.

    Arrays are uint8 `HW`, `HWC` RGB or RGBA. Raises `ImageRefused`.
    """
    data, _ = as_shown(image if isinstance(image, bytes) else _png(image), "")
    return data, stored_size(data)


def label_file(label_map: bytes | NDArray[Any] | PilImage.Image, size: Size, classes: int) -> PackedMap:
    """A label map of that size with classes up to `classes`, packed; a file holds the indices as grey levels
    or as those of a palette. Raises `InputRefused`."""
    if isinstance(label_map, bytes | PilImage.Image):
        label_map = _levels(label_map, "label map")
    return PackedMap.of(label_map, size, classes)


def confidence_file(confidence: bytes | NDArray[Any] | PilImage.Image, size: Size) -> bytes:
    """A confidence map of that size as a grey PNG of 8 bits. Arrays are float `HW` in [0, 1]; a file's grey
    levels are 255 times the confidence. Raises `InputRefused`."""
    if isinstance(confidence, bytes | PilImage.Image):
        levels = _levels(confidence, "confidence map")
    elif not isinstance(confidence, np.ndarray) or confidence.dtype.kind != "f":
        kind = getattr(confidence, "dtype", type(confidence).__name__)
        raise MaskRefused(f"a confidence map must be a float array with values from 0 to 1, got {kind}")
    else:
        levels = quantise(confidence)
    if levels.shape != size:
        raise MaskRefused(f"confidence map is {levels.shape} (height, width), but its image is {size}")
    return _png(PilImage.fromarray(levels))


def read_image(data: bytes) -> NDArray[np.uint8]:
    """The pixels of an image file. Raises `ImageRefused`."""
    return decode(data)


def read_labels(label_map: str | bytes | None, size: Size, classes: int) -> LabelMap:
    """The label map from base64 of its packed form or from a file; None is empty. Raises `InputRefused`."""
    if not label_map:
        return np.zeros(size, dtype=np.uint8)
    if isinstance(label_map, str):
        return PackedMap.from_base64(label_map, *size, classes).unpack()
    return check_label_map(_levels(label_map, "label map"), size, classes)


def read_confidence(data: bytes, size: Size) -> Confidence:
    """The confidence map from its grey file. Raises `InputRefused`."""
    levels = _levels(data, "confidence map")
    if levels.shape != size:
        raise MaskRefused(f"confidence map is {levels.shape} (height, width), but its image is {size}")
    return dequantise(levels)


def base64_of(packed: PackedMap) -> str:
    """The packed label map as the page reads it."""
    return base64.b64encode(packed.data).decode()


def suffix_of(data: bytes) -> str:
    """The usual suffix of an image file."""
    return next((suffix for mark, suffix in SUFFIXES.items() if data.startswith(mark)), "png")


def _png(image: NDArray[Any] | PilImage.Image) -> bytes:
    """A PNG of these pixels."""
    if isinstance(image, PilImage.Image):
        _check_pixels(*image.size)
        body = io.BytesIO()
        (image if image.mode in WRITABLE else image.convert("RGB")).save(body, "PNG", compress_level=1)
        return body.getvalue()
    if not isinstance(image, np.ndarray):
        raise ImageRefused(
            "an image is an array, a Pillow image, the bytes of a file or its path, "
            f"got {type(image).__name__}"
        )
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
        raise ImageRefused(f"an image array must be uint8 HWC RGB, got {image.dtype} {image.shape}")
    if not image.size:
        raise ImageRefused(f"the image is empty: {image.shape}")
    _check_pixels(image.shape[1], image.shape[0])
    return _png(PilImage.fromarray(image))


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageRefused(f"{width}×{height} pixels exceed the limit of {MAX_PIXELS}; downscale it")


def _levels(source: bytes | PilImage.Image, what: str) -> NDArray[np.uint8]:
    """The grey levels or palette indices of a file, uint8 `HW`."""
    layers = decode_layers(source if isinstance(source, bytes) else _png(source))
    if layers.lossy:
        raise MaskRefused(
            f"the {what} is a file with lossy compression, which changes values; save it as PNG"
        )
    values = layers.values
    if values.ndim == 3 and (values == values[:, :, :1]).all():
        values = values[:, :, 0]
    if values.ndim != 2 or values.dtype != np.uint8:
        raise MaskRefused(f"the {what} must be a grey image of 8 bits, got {values.dtype} {values.shape}")
    return values
