"""Images of a blind pair, re-encoded identically and padded to one length, without metadata."""

import io
import struct
import zlib

import numpy as np
from PIL import Image as Picture

from dataengine.images import Pixels, decode
from storage.workspace import Workspace

TILES = 4
BLOCK = 4096
FILLER = b"paDd"
"""An ancillary private chunk, which every reader of PNG skips."""


def blind_bodies(workspace: Workspace, before: str, after: str, spoiled: bool) -> tuple[bytes, bytes]:
    """Both images, given by SHA-256, as PNG bodies of one length.

    With `spoiled`, the first is the second with its tiles shuffled: an attention check.
    Raises `ImageRefused` or `NotFound`.
    """
    second = decode(workspace.blobs.get(after))
    first = shuffle_tiles(second) if spoiled else decode(workspace.blobs.get(before))
    bodies = plain_png(first), plain_png(second)
    length = -(-(max(map(len, bodies)) + 12) // BLOCK) * BLOCK
    return padded(bodies[0], length), padded(bodies[1], length)


def shuffle_tiles(image: Pixels) -> Pixels:
    """The image with its sixteen tiles shuffled, which is obvious at a glance."""
    height, width = (side - side % TILES for side in image.shape[:2])
    rows, columns = height // TILES, width // TILES
    tiles = image[:height, :width].reshape(TILES, rows, TILES, columns, 3).swapaxes(1, 2)
    turned = tiles.reshape(TILES * TILES, rows, columns, 3)[np.arange(TILES * TILES) * 5 % 16 - 3]
    spoiled = image.copy()
    whole = turned.reshape(TILES, TILES, rows, columns, 3).swapaxes(1, 2)
    spoiled[:height, :width] = whole.reshape(height, width, 3)
    return spoiled


def plain_png(image: Pixels) -> bytes:
    """A PNG of the pixels alone."""
    body = io.BytesIO()
    Picture.fromarray(image).save(body, "PNG", compress_level=1)
    return body.getvalue()


def padded(png: bytes, length: int) -> bytes:
    """The PNG with a chunk of zeros before its last one, `length` bytes in all, at least 12 more."""
    filler = bytes(length - len(png) - 12)
    checksum = zlib.crc32(FILLER + filler)
    chunk = struct.pack(">I", len(filler)) + FILLER + filler + struct.pack(">I", checksum)
    return png[:-12] + chunk + png[-12:]
