"""Pixels in and out: exact, repeatable, batched by size."""

import numpy as np

from dataengine.images import decode, encode_png
from dataengine.records import Image
from pipelines.runtime.images import batches_of_equal_size


def image(number: int, height: int, width: int) -> Image:
    return Image(id=str(number), sha256="", height=height, width=width)


def test_png_keeps_every_pixel_and_is_the_same_again() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    assert np.array_equal(decode(encode_png(pixels)), pixels)
    assert encode_png(pixels) == encode_png(pixels.copy())


def test_batches_hold_one_size_and_lose_nothing() -> None:
    images = [image(n, *((64, 64) if n % 3 else (32, 48))) for n in range(20)]
    batches = list(batches_of_equal_size(images, 4))
    assert sorted(each.id for batch in batches for each in batch) == sorted(each.id for each in images)
    assert all(len({(each.height, each.width) for each in batch}) == 1 for batch in batches)
    assert max(map(len, batches)) == 4


def test_large_images_come_one_at_a_time() -> None:
    assert [len(batch) for batch in batches_of_equal_size([image(n, 2048, 2048) for n in range(3)], 16)] == [
        1,
        1,
        1,
    ]
