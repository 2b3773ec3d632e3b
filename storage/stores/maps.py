"""Artifact maps in packs: many zstd-compressed 8-bit maps in one blob, each with its own reference.

A reference is `sha256:offset:length:HEIGHTxWIDTH`. Every compressed map has zstd's checksum, so that one map
is read and verified without the rest of its pack.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataengine.bounds import MAX_PIXELS
from dataengine.errors import Corrupt, MaskRefused, NotFound
from dataengine.masks import LabelMap, pack_label_map, unpack_label_map
from dataengine.records import Label
from storage.stores.blobs import Blobs

LEVEL = 3
REFERENCE = re.compile(r"([0-9a-f]{64}):(\d{1,12}):(\d{1,12}):(\d{1,6})x(\d{1,6})")


@dataclass(frozen=True, slots=True)
class MapRef:
    """The location of a map: pack blob, byte range, size."""

    pack: str
    offset: int
    length: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.pack}:{self.offset}:{self.length}:{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> "MapRef":
        """Parse a written reference; `NotFound` if it is invalid."""
        if not (match := REFERENCE.fullmatch(text)):
            raise NotFound(f"{text!r} is not a map reference (sha256:offset:length:HEIGHTxWIDTH)")
        pack, *numbers = match.groups()
        return cls(pack, *map(int, numbers))


class Maps:
    """The maps in a blob store."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs

    def put_many(self, maps: Sequence[NDArray[np.uint8]]) -> list[str]:
        """Store uint8 `HW` maps in one pack; returns their references, in order. `MaskRefused` for anything
        else."""
        import zstandard

        for one in maps:
            if one.dtype != np.uint8 or one.ndim != 2 or not 0 < one.size <= MAX_PIXELS:
                raise MaskRefused(f"maps are stored as uint8 HW, got {one.dtype} {one.shape}: quantise it")
        if not maps:
            return []
        press = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        parts = [press.compress(np.ascontiguousarray(one).tobytes()) for one in maps]
        offsets = np.cumsum([0, *map(len, parts)])
        pack = self.blobs.put(b"".join(parts))
        return [
            str(MapRef(pack, int(offset), len(part), *one.shape))
            for offset, part, one in zip(offsets, parts, maps, strict=False)
        ]

    def get(self, reference: str) -> NDArray[np.uint8]:
        """The uint8 `HW` map; `NotFound` or `Corrupt`."""
        where = MapRef.parse(reference)
        return _unpress(self.blobs.get_range(where.pack, where.offset, where.length), where)

    def get_many(self, references: Sequence[str]) -> list[NDArray[np.uint8]]:
        """The maps of all references, in order; a pack with many requested maps is read once."""
        wheres = [MapRef.parse(reference) for reference in references]
        asked: dict[str, int] = {}
        for where in wheres:
            asked[where.pack] = asked.get(where.pack, 0) + where.length
        whole = {
            pack: self.blobs.get(pack) for pack, size in asked.items() if 2 * size > self.blobs.size(pack)
        }
        return [
            _unpress(whole[where.pack][where.offset : where.offset + where.length], where)
            if where.pack in whole
            else self.get(str(where))
            for where in wheres
        ]


def _unpress(part: bytes, where: MapRef) -> NDArray[np.uint8]:
    import zstandard

    pixels = where.height * where.width
    if not 0 < pixels <= MAX_PIXELS:
        raise NotFound(f"map reference {where} names {pixels} pixels")
    try:
        if zstandard.frame_content_size(part) != pixels:
            raise Corrupt(f"map {where} does not hold {pixels} pixels")
        raw = zstandard.ZstdDecompressor().decompress(part, max_output_size=pixels)
    except zstandard.ZstdError as error:
        raise Corrupt(f"map {where} can no longer be read ({error}); predict this image again") from None
    if len(raw) != pixels:
        raise Corrupt(f"map {where} holds {len(raw)} pixels")
    return np.frombuffer(raw, dtype=np.uint8).reshape(where.height, where.width)


def packed_label_map(blobs: Blobs, label: Label) -> bytes:
    """A label's packed map, as by `masks.pack_label_map`; for a clean image an empty one."""
    if label.label_map is None:
        return pack_label_map(np.zeros((label.height, label.width), np.uint8))
    return blobs.get(label.label_map)


def label_map(blobs: Blobs, label: Label) -> LabelMap:
    """A label's map, uint8 HW; all zero for a clean image."""
    if label.label_map is None:
        return np.zeros((label.height, label.width), np.uint8)
    return unpack_label_map(blobs.get(label.label_map), label.height, label.width)
