"""Masks and maps as arrays: label maps, masks, connected regions, COCO RLE, 8-bit confidence, overlays.

A label map is uint8 `HW`: 0 for no artifact, 1…127 for the workspace's classes. A mask is bool `HW`. A
confidence map is float32 `HW` in [0, 1] and is stored as uint8. Invalid data from outside raises
`MaskRefused`.
"""

import base64
import binascii
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataengine.bounds import MAX_PIXELS, PIECE_BYTES
from dataengine.errors import MaskRefused

LabelMap = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Confidence = NDArray[np.float32]

MAX_CLASS = 127
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.uint8)
MAX_VARINT_BYTES = 5

PALETTE = ((213, 94, 0), (86, 180, 233), (240, 228, 66), (204, 121, 167), (0, 158, 115), (0, 114, 178))
"""After Okabe and Ito, distinguishable with every kind of colour vision; the annotation page uses the
same."""


def palette_color(value: int) -> str:
    """The palette's colour of a class as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*PALETTE[(value - 1) % len(PALETTE)])


def check_label_map(
    label_map: ArrayLike, size: tuple[int, int] | None = None, classes: int = MAX_CLASS
) -> LabelMap:
    """Return the array if it is a label map of `size` (height, width) with classes up to `classes`.

    Raises `MaskRefused` otherwise.
    """
    array = np.asarray(label_map)
    if array.dtype != np.uint8 or array.ndim != 2 or 0 in array.shape:
        raise MaskRefused(f"a label map must be uint8 HW and not empty, got {array.dtype} {array.shape}")
    if size is not None and array.shape != tuple(size):
        raise MaskRefused(f"label map is {array.shape} (height, width), but its image is {tuple(size)}")
    if (highest := int(array.max())) > classes:
        raise MaskRefused(f"label map holds class {highest}, but the highest known class is {classes}")
    return array


def by_class(label_map: LabelMap) -> dict[int, Mask]:
    """One bool mask per class that occurs, in ascending order."""
    return {int(number): label_map == number for number in np.unique(label_map) if number}


def components(mask: NDArray[Any]) -> tuple[NDArray[np.int32], int]:
    """8-connected regions of `mask > 0`: int32 `HW` numbered from 1 in scan order, and their count."""
    from scipy import ndimage

    numbers, count = ndimage.label(np.asarray(mask) > 0, structure=EIGHT_NEIGHBOURS)
    return numbers.astype(np.int32, copy=False), int(count)


def feather_inwards(mask: Mask, width: float) -> NDArray[np.float32]:
    """Opacity float32 `HW` in [0, 1]: 0 outside the mask, rising to 1 over `width` pixels within it."""
    from scipy.ndimage import distance_transform_edt

    # A border pixel of the image is no edge of the mask: what lies beyond it cannot be seen.
    inside = distance_transform_edt(np.pad(mask, 1, mode="edge"))[1:-1, 1:-1]
    return np.clip(inside / max(1.0, width), 0, 1).astype(np.float32)


def quantise(confidence: ArrayLike) -> NDArray[np.uint8]:
    """Confidences in [0, 1] as 8 bits, with an error of at most 1/510; `MaskRefused` outside [0, 1]."""
    values = np.asarray(confidence, dtype=np.float32)
    if values.size and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise MaskRefused("confidence must be finite and in [0, 1]; apply the sigmoid before storing a map")
    return np.rint(values * np.float32(255)).astype(np.uint8)


def dequantise(stored: NDArray[np.uint8]) -> Confidence:
    """Float32 confidences in [0, 1] from 8 bits."""
    return np.asarray(stored, dtype=np.float32) / np.float32(255)


def pack_label_map(label_map: LabelMap) -> bytes:
    """The label map as bytes: zlib ("deflate" in a browser's CompressionStream) over runs in row order.

    A run is its length as a LEB128 varint (7 bits a byte, lowest first, high bit = more follow) and then one
    byte of class. Neighbouring runs differ in class, so the runs of a label map are unique.
    """
    return _packed(_runs_of(check_label_map(label_map)))[0]


def _packed(pieces: Iterable["Runs"]) -> tuple[bytes, dict[int, int]]:
    """The compressed bytes of runs, and the pixels of each class that occurs."""
    press, parts = zlib.compressobj(6), []
    totals = np.zeros(MAX_CLASS + 1, dtype=np.int64)
    for runs in pieces:
        parts.append(press.compress(_write_runs(runs.lengths, runs.values)))
        # As float64, in which the pixels of any image are exact.
        totals += np.bincount(runs.values, runs.lengths, minlength=totals.size).astype(np.int64)
    areas = {number: int(totals[number]) for number in range(1, totals.size) if totals[number]}
    return b"".join([*parts, press.flush()]), areas


class Runs(NamedTuple):
    """Runs of a label map, one after the other: int64 length in pixels, uint8 class."""

    lengths: NDArray[np.int64]
    values: NDArray[np.uint8]


def _runs_of(label_map: LabelMap) -> Iterator[Runs]:
    """The runs of a label map in pieces: the arrays of all of them would be many times its size."""
    flat = label_map.ravel()
    length, value = 0, flat[0]
    for start in range(0, flat.size, PIECE_BYTES):
        part = flat[start : start + PIECE_BYTES]
        ends = np.append(np.flatnonzero(part[1:] != part[:-1]) + 1, part.size)
        lengths, values = np.diff(ends, prepend=0), part[ends - 1]
        if values[0] == value:
            lengths[0] += length
        else:
            lengths, values = np.append(length, lengths), np.append(value, values)
        length, value = int(lengths[-1]), values[-1]
        yield Runs(lengths[:-1], values[:-1])
    yield Runs(np.array([length]), np.array([value]))


def _write_runs(lengths: NDArray[np.integer[Any]], values: NDArray[np.uint8]) -> bytes:
    limits = np.array([1 << 7 * digit for digit in range(1, MAX_VARINT_BYTES)])
    sizes = 1 + np.searchsorted(limits, lengths, side="right")
    value_at = np.cumsum(sizes + 1) - 1
    starts = value_at - sizes
    raw = np.zeros(int((sizes + 1).sum()), dtype=np.uint8)
    raw[value_at] = values
    for digit in range(MAX_VARINT_BYTES):
        longer = sizes > digit
        more = np.where(sizes[longer] > digit + 1, 128, 0)
        raw[starts[longer] + digit] = (lengths[longer] >> 7 * digit & 127) | more
    return raw.tobytes()


def unpack_label_map(packed: bytes, height: int, width: int, classes: int = MAX_CLASS) -> LabelMap:
    """The label map of `pack_label_map`, uint8 `HW`. Raises `MaskRefused` as `read_label_runs`."""
    pieces = _read_pieces(packed, height, width, classes)
    flat, at = np.zeros(height * width if _is_size(height, width) else 0, dtype=np.uint8), 0
    for runs in pieces:
        drawn = np.repeat(runs.values, runs.lengths)
        flat[at : at + drawn.size] = drawn
        at += drawn.size
    return flat.reshape(height, width)


@dataclass(frozen=True, slots=True)
class StoredMap:
    """A label map's stored bytes and its size, not validated until unpacked."""

    data: bytes
    height: int
    width: int

    def unpack(self) -> LabelMap:
        """Its pixels, uint8 `HW`; raises as `unpack_label_map`."""
        return unpack_label_map(self.data, self.height, self.width)


@dataclass(frozen=True, slots=True)
class PackedMap:
    """A validated label map, with the bytes to store and its statistics.

    Its class methods validate their input, so a `PackedMap` needs no further checks.
    """

    data: bytes
    """As `pack_label_map` writes it, whichever compressor wrote the input: equal maps have equal bytes."""
    height: int
    width: int
    areas: dict[int, int]
    """Pixels of each class that occurs, in ascending order; empty for a clean image."""

    @classmethod
    def of(cls, label_map: ArrayLike, size: tuple[int, int] | None = None, classes: int = MAX_CLASS) -> Self:
        """From a uint8 `HW` array. Raises `MaskRefused` as `check_label_map`."""
        checked = check_label_map(label_map, size, classes)
        data, areas = _packed(_runs_of(checked))
        return cls(data, checked.shape[0], checked.shape[1], areas)

    @classmethod
    def from_bytes(cls, data: bytes, height: int, width: int, classes: int = MAX_CLASS) -> Self:
        """From untrusted packed bytes. Raises `MaskRefused` as `read_label_runs`."""
        packed, areas = _packed(_read_pieces(data, height, width, classes))
        return cls(packed, height, width, areas)

    @classmethod
    def from_base64(cls, text: str, height: int, width: int, classes: int = MAX_CLASS) -> Self:
        """As `from_bytes`, from base64. Raises `MaskRefused`."""
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise MaskRefused(f"the label map is not valid base64 ({error})") from None
        return cls.from_bytes(data, height, width, classes)

    @property
    def share(self) -> float:
        """Share of the image that is marked with any class."""
        return sum(self.areas.values()) / (self.height * self.width)

    def unpack(self) -> LabelMap:
        """Its pixels, uint8 `HW`."""
        return unpack_label_map(self.data, self.height, self.width)


class LabelRuns(NamedTuple):
    """The runs of label maps one after the other: int64 length in pixels and uint8 class of each, and how
    many each map has.
    """

    lengths: NDArray[np.int64]
    values: NDArray[np.uint8]
    counts: NDArray[np.int64]


def read_label_runs(packed: Sequence[bytes], height: int, width: int, classes: int = MAX_CLASS) -> LabelRuns:
    """The runs of several packed label maps of one size, in row order.

    The bytes are untrusted: at most two bytes per pixel are inflated. Truncated streams, trailing bytes, and
    runs that are empty, repeat their class, do not cover the image exactly, or hold a class above `classes`
    raise `MaskRefused`.
    """
    pieces = [list(_read_pieces(one, height, width, classes)) for one in packed]
    whole = [runs for one in pieces for runs in one]
    return LabelRuns(
        np.concatenate([runs.lengths for runs in whole]),
        np.concatenate([runs.values for runs in whole]),
        np.array([sum(runs.values.size for runs in one) for one in pieces]),
    )


def _is_size(height: int, width: int) -> bool:
    return height >= 1 and width >= 1 and height * width <= MAX_PIXELS


def _read_pieces(packed: bytes, height: int, width: int, classes: int) -> Iterator[Runs]:
    """The runs of one untrusted map in pieces, each checked: a small map may hold a run for every pixel."""
    pixels = height * width
    if not _is_size(height, width):
        raise MaskRefused(f"a label map of {height}×{width} is outside the range 1…{MAX_PIXELS} pixels")
    covered, before, rest = 0, -1, b""
    for piece in _inflate(packed, limit=2 * pixels):
        runs, rest = _read_runs(rest + piece)
        if not runs.values.size:
            continue
        covered += int(runs.lengths.sum())
        if covered > pixels:
            raise MaskRefused(f"label map covers {covered} pixels, but its image has {pixels}")
        if (
            (runs.lengths == 0).any()
            or (runs.values[1:] == runs.values[:-1]).any()
            or runs.values[0] == before
        ):
            raise MaskRefused("label map holds an empty run or two neighbouring runs of one class")
        if (highest := int(runs.values.max())) > classes:
            raise MaskRefused(f"label map holds class {highest}, but the highest known class is {classes}")
        before = int(runs.values[-1])
        yield runs
    if rest or before < 0:
        raise MaskRefused("label map ends within a run")
    if covered != pixels:
        raise MaskRefused(f"label map covers {covered} pixels, but its image has {pixels}")


def _inflate(packed: bytes, limit: int) -> Iterator[bytes]:
    """The inflated bytes, at most `limit`, in pieces."""
    stream, given, size = zlib.decompressobj(), packed, 0
    while not stream.eof:
        try:
            piece = stream.decompress(given, PIECE_BYTES)
        except zlib.error as error:
            raise MaskRefused(f"label map is not a zlib stream ({error})") from None
        size += len(piece)
        if size > limit:
            raise MaskRefused(f"label map inflates to more than {limit} bytes, the limit for its image")
        given = stream.unconsumed_tail
        if not piece and not given and not stream.eof:
            break
        yield piece
    if not stream.eof or stream.unused_data:
        raise MaskRefused("label map is truncated or has bytes after its end")


def _read_runs(data: bytes) -> tuple[Runs, bytes]:
    """The runs that are complete in `data`, and the bytes after them."""
    raw = np.frombuffer(data, dtype=np.uint8)
    # Bytes below 128 alternate: last byte of a length, class. Everything else belongs to a length.
    last = np.flatnonzero(raw < 128)
    count = last.size // 2
    length_at, value_at = last[0 : 2 * count : 2], last[1 : 2 * count : 2]
    rest = data[value_at[-1] + 1 if count else 0 :]
    starts = np.append(0, value_at[:-1] + 1)[:count]
    sizes = length_at - starts + 1
    if (value_at != length_at + 1).any() or max(sizes.max(initial=0), len(rest) - 1) > MAX_VARINT_BYTES:
        raise MaskRefused(f"label map holds a class above {MAX_CLASS} or a run length beyond the limit")
    if (raw[length_at[sizes > 1]] == 0).any():
        raise MaskRefused("label map holds a run length that is padded with zero digits")
    lengths = raw[length_at].astype(np.int64)
    for digit in range(1, int(sizes.max(initial=0))):
        longer = np.flatnonzero(sizes > digit)
        lengths[longer] = lengths[longer] << 7 | raw[length_at[longer] - digit] & 127
    return Runs(lengths, raw[value_at]), rest


def decode_coco(encoded: Mapping[str, Any]) -> Mask:
    """Bool `HW` of COCO RLE, compressed (str or bytes) or plain (list of counts).

    Not read by pycocotools, whose C code trusts the counts; raises `MaskRefused` unless they cover the size
    exactly.
    """
    try:
        height, width = (int(side) for side in encoded["size"])
        counts = encoded["counts"]
    except (KeyError, TypeError, ValueError):
        raise MaskRefused('a COCO RLE must be {"size": [height, width], "counts": …}') from None
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise MaskRefused(f"a COCO mask of {height}×{width} is outside the range 1…{MAX_PIXELS} pixels")
    pixels, at, value = height * width, 0, False
    columns = np.zeros(pixels, dtype=bool)
    for runs in _coco_counts(counts, most=8 * (pixels + 1)):
        total = int(runs.sum()) if runs.min(initial=0) >= 0 and runs.max(initial=0) <= pixels else pixels + 1
        if at + total > pixels:
            raise MaskRefused(f"COCO counts do not cover {height}×{width} pixels exactly")
        drawn = np.repeat((np.arange(runs.size) % 2 == 1) ^ value, runs)
        columns[at : at + total] = drawn
        at, value = at + total, value ^ (runs.size % 2 == 1)
    if at != pixels:
        raise MaskRefused(f"COCO counts do not cover {height}×{width} pixels exactly")
    return columns.reshape(width, height).T


def _coco_counts(counts: str | bytes | Sequence[int], most: int) -> Iterator[NDArray[np.int64]]:
    """Decoded counts in pieces; compressed, they hold 5 bits per character, from the fourth on as difference
    to two before.
    """
    if len(counts) > most:
        raise MaskRefused("COCO counts are longer than their mask allows")
    if not isinstance(counts, (str, bytes)):
        for start in range(0, len(counts), PIECE_BYTES):
            part = counts[start : start + PIECE_BYTES]
            if not all(isinstance(count, int) and abs(count) <= MAX_PIXELS for count in part):
                raise MaskRefused(f"plain COCO counts must be integers up to {MAX_PIXELS}")
            yield np.array(part, dtype=np.int64)
        return
    two, one, number = 0, 0, 0
    value = shift = 0
    text = counts.encode("utf-8", "replace") if isinstance(counts, str) else counts
    for start in range(0, len(text), PIECE_BYTES):
        runs: list[int] = []
        for character in text[start : start + PIECE_BYTES]:
            digit = character - 48
            if not 0 <= digit < 64 or shift > 30:
                raise MaskRefused("COCO counts hold an invalid character or number")
            value |= (digit & 31) << shift
            shift += 5
            if digit & 32:
                continue
            if digit & 16:
                value -= 1 << shift
            two, one = one, value + two if number > 2 else value
            if abs(one) > MAX_PIXELS:
                raise MaskRefused("COCO counts hold an invalid character or number")
            runs.append(one)
            number += 1
            value = shift = 0
        yield np.array(runs, dtype=np.int64)
    if shift:
        raise MaskRefused("COCO counts end within a number")


def overlay_confidence(
    image: NDArray[np.uint8],
    confidence: NDArray[Any],
    colour: tuple[int, int, int] = PALETTE[0],
    strength: float = 0.7,
) -> NDArray[np.uint8]:
    """The uint8 `HWC` image tinted where confidence (float in [0, 1] or its 8-bit form, `HW`) is high."""
    from PIL import Image

    stored = confidence if confidence.dtype == np.uint8 else quantise(confidence)
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[:2] != stored.shape:
        raise MaskRefused(f"image {image.shape} and map {stored.shape} differ in size")
    opacity = Image.fromarray(stored).point([round(strength * value) for value in range(256)])
    ground = Image.fromarray(image)
    return np.array(Image.composite(Image.new("RGB", ground.size, colour), ground, opacity))


def overlay_labels(
    image: NDArray[np.uint8], label_map: LabelMap, strength: float = 0.55
) -> NDArray[np.uint8]:
    """The uint8 `HWC` image tinted with one palette colour per class."""
    colours = np.array([PALETTE[(number - 1) % len(PALETTE)] for number in range(256)], dtype=np.float32)
    weight = (label_map > 0).astype(np.float32)[..., None] * np.float32(strength)
    return _tint(image, weight, colours[label_map])


def _tint(image: NDArray[np.uint8], weight: Confidence, colour: Confidence) -> NDArray[np.uint8]:
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[:2] != weight.shape[:2]:
        raise MaskRefused(f"image {image.shape} and map {weight.shape[:2]} differ in size")
    return np.rint(image * (1 - weight) + colour * weight).astype(np.uint8)
