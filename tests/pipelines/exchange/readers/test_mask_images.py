"""Masks as people see them, in every encoding that programs write; the truth is drawn here, not read back."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Picture
from PIL import ImageFilter
from scipy import ndimage

from dataengine.errors import MaskRefused
from pipelines.exchange.readers.mask_images import NUMBERED, SOFT, read_mask
from tests.pipelines.exchange.pictures import encoded, saved, scene, sixteen_bit_colour

Drawn = np.ndarray
Encoding = Callable[[Drawn], bytes]
SIZE = (48, 64)


def square() -> Drawn:
    """A 20 × 20 square, bool HW."""
    drawn = np.zeros(SIZE, dtype=bool)
    drawn[10:30, 10:30] = True
    return drawn


@st.composite
def shapes(draw: st.DrawFn) -> Drawn:
    """Boxes and discs of at least 5 pixels, away from the corners."""
    drawn = np.zeros(SIZE, dtype=bool)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    for _ in range(draw(st.integers(1, 4))):
        y, x, r = draw(st.integers(8, 39)), draw(st.integers(8, 55)), draw(st.integers(3, 7))
        if draw(st.booleans()):
            drawn |= (rows - y) ** 2 + (columns - x) ** 2 <= r * r
        else:
            drawn[y - r : y + r, x - r : x + r] = True
    return drawn


def grey(drawn: Drawn, value: int = 255) -> Picture.Image:
    return Picture.fromarray(np.where(drawn, value, 0).astype(np.uint8))


def palette(
    drawn: Drawn, ground: tuple[int, int, int], ink: tuple[int, int, int], first: int
) -> Picture.Image:
    """A palette image whose ink has index `first` and whose ground has the other of 0 and 1."""
    indices = np.where(drawn, first, 1 - first).astype(np.uint8)
    picture = Picture.frombytes("P", (SIZE[1], SIZE[0]), indices.tobytes())
    picture.putpalette([*(ink if first == 0 else ground), *(ground if first == 0 else ink)])
    return picture


def layers(drawn: Drawn, ink: tuple[int, ...], ground: tuple[int, ...], mode: str) -> Picture.Image:
    values = np.where(drawn[..., None], np.array(ink, np.uint8), np.array(ground, np.uint8))
    return Picture.fromarray(values.astype(np.uint8), mode)


def transparent_palette(drawn: Drawn) -> bytes:
    picture = palette(drawn, (255, 255, 255), (255, 255, 255), 1)
    return saved(picture, transparency=0)


def turned(drawn: Drawn) -> bytes:
    """Stored lying on its side, with EXIF that turns it."""
    exif = Picture.Exif()
    exif[0x0112] = 6
    return saved(grey(np.rot90(drawn)), exif=exif)


EXACT: dict[str, Encoding] = {
    "0 and 255": lambda d: saved(grey(d)),
    "0 and 1": lambda d: saved(grey(d, 1)),
    "0 and 254": lambda d: saved(grey(d, 254)),
    "0 and 200": lambda d: saved(grey(d, 200)),
    "0 and 128": lambda d: saved(grey(d, 128)),
    "one bit": lambda d: saved(Picture.fromarray(d)),
    "one bit BMP": lambda d: saved(Picture.fromarray(d), "BMP"),
    "grey BMP": lambda d: saved(grey(d), "BMP"),
    "colour PNG": lambda d: saved(grey(d).convert("RGB")),
    "lossless WebP": lambda d: saved(grey(d).convert("RGB"), "WEBP", lossless=True),
    "opaque RGBA": lambda d: saved(grey(d).convert("RGBA")),
    "16 bit": lambda d: saved(Picture.fromarray(np.where(d, 65535, 0).astype(np.uint16))),
    "16 bit, 0 and 1": lambda d: saved(Picture.fromarray(np.where(d, 1, 0).astype(np.uint16))),
    "16 bit, 0 and 255": lambda d: saved(Picture.fromarray(np.where(d, 255, 0).astype(np.uint16))),
    "16 bit, 0 and 65000": lambda d: saved(Picture.fromarray(np.where(d, 65000, 0).astype(np.uint16))),
    "palette, white first": lambda d: saved(palette(d, (0, 0, 0), (255, 255, 255), 0)),
    "palette, black first": lambda d: saved(palette(d, (0, 0, 0), (255, 255, 255), 1)),
    "palette, red first": lambda d: saved(palette(d, (0, 0, 0), (255, 0, 0), 0)),
    "palette, red second": lambda d: saved(palette(d, (0, 0, 0), (255, 0, 0), 1)),
    "palette, transparent ground": transparent_palette,
    "quantised": lambda d: saved(grey(d).convert("RGB").quantize(2)),
    "quantised to 16": lambda d: saved(grey(d).convert("RGB").quantize(16)),
    "quantised by octree": lambda d: saved(grey(d).convert("RGB").quantize(4, method=2)),
    "quantised with alpha": lambda d: saved(
        layers(d, (9, 9, 9, 255), (9, 9, 9, 0), "RGBA").quantize(4, method=2)
    ),
    "adaptive": lambda d: saved(grey(d).convert("RGB").convert("P", palette=Picture.Palette.ADAPTIVE)),
    "web palette": lambda d: saved(grey(d).convert("RGB").convert("P", dither=Picture.Dither.NONE)),
    "GIF": lambda d: saved(grey(d), "GIF"),
    "GIF, white first": lambda d: saved(palette(d, (0, 0, 0), (255, 255, 255), 0), "GIF"),
    "black ink": lambda d: saved(layers(d, (0, 0, 0, 255), (0, 0, 0, 0), "RGBA")),
    "red ink": lambda d: saved(layers(d, (200, 10, 10, 255), (0, 0, 0, 0), "RGBA")),
    "white everywhere": lambda d: saved(layers(d, (255, 255, 255, 255), (255, 255, 255, 0), "RGBA")),
    "white ink, black hidden": lambda d: saved(layers(d, (255, 255, 255, 255), (0, 0, 0, 0), "RGBA")),
    "black ink, white hidden": lambda d: saved(layers(d, (0, 0, 0, 255), (255, 255, 255, 0), "RGBA")),
    "grey with alpha": lambda d: saved(layers(d, (0, 255), (0, 0), "LA")),
    "white grey with alpha": lambda d: saved(layers(d, (255, 255), (255, 0), "LA")),
    "WebP with alpha": lambda d: saved(
        layers(d, (0, 0, 0, 255), (0, 0, 0, 0), "RGBA"), "WEBP", lossless=True
    ),
    "white on a nearly transparent ground": lambda d: saved(
        layers(d, (255, 255, 255, 255), (0, 0, 0, 10), "RGBA")
    ),
    "turned by EXIF": turned,
}
"""Encodings that lose nothing."""

SOFTENED: dict[str, Encoding] = {
    "palette, nearly black and white": lambda d: saved(palette(d, (4, 4, 4), (251, 251, 251), 0)),
    "JPEG": lambda d: saved(grey(d), "JPEG"),
    "JPEG 95": lambda d: saved(grey(d), "JPEG", quality=95),
    "JPEG 30": lambda d: saved(grey(d), "JPEG", quality=30),
    "colour JPEG": lambda d: saved(grey(d).convert("RGB"), "JPEG", quality=80),
    "lossy WebP": lambda d: saved(grey(d).convert("RGB"), "WEBP", quality=80),
    "lossy WebP with alpha": lambda d: saved(
        layers(d, (250, 250, 250, 255), (0, 0, 0, 0), "RGBA"), "WEBP", quality=80
    ),
    "blurred": lambda d: saved(grey(d).filter(ImageFilter.GaussianBlur(0.7))),
    "enlarged": lambda d: saved(grey(d).resize((128, 96)).resize((64, 48), Picture.Resampling.BILINEAR)),
    "soft ink": lambda d: saved(_soft_ink(d)),
    "quantised soft red": lambda d: saved(_soft_red(d).quantize(8)),
    "quantised soft white": lambda d: saved(
        grey(d).filter(ImageFilter.GaussianBlur(0.7)).convert("RGB").quantize(16)
    ),
    "16 bit soft": lambda d: saved(
        Picture.fromarray(np.asarray(grey(d).filter(ImageFilter.GaussianBlur(0.7)), np.uint16) * 257)
    ),
}
"""Encodings that change edges."""


def _soft_ink(drawn: Drawn) -> Picture.Image:
    picture = layers(drawn, (0, 0, 0, 255), (0, 0, 0, 0), "RGBA")
    picture.putalpha(grey(drawn).filter(ImageFilter.GaussianBlur(0.7)))
    return picture


def _soft_red(drawn: Drawn) -> Picture.Image:
    soft = np.asarray(grey(drawn).filter(ImageFilter.GaussianBlur(0.7)))
    return Picture.fromarray(np.dstack([soft, np.zeros_like(soft), np.zeros_like(soft)]))


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=shapes())
def test_exact_encodings_give_what_is_drawn(name: str, drawn: Drawn) -> None:
    for one in (drawn, square()):
        read = read_mask(EXACT[name](one), 2, SIZE)
        assert np.array_equal(read.label_map, np.where(one, 2, 0)) and not read.remark, name


@pytest.mark.parametrize("name", SOFTENED)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=shapes())
def test_soft_encodings_are_read_from_the_middle_on_with_a_remark(name: str, drawn: Drawn) -> None:
    read = read_mask(SOFTENED[name](drawn), 1, SIZE)
    certain = ndimage.binary_erosion(drawn, np.ones((5, 5)), border_value=1)
    possible = ndimage.binary_dilation(drawn, np.ones((5, 5)))
    found = read.label_map > 0
    assert not (certain & ~found).any() and not (found & ~possible).any(), name
    assert found.sum() == pytest.approx(drawn.sum(), rel=0.25)
    assert read.remark == SOFT or np.array_equal(found, drawn)


@pytest.mark.parametrize("name", [*EXACT, *SOFTENED])
def test_nothing_drawn_is_nothing(name: str) -> None:
    try:
        read = read_mask({**EXACT, **SOFTENED}[name](np.zeros(SIZE, dtype=bool)), 1, SIZE)
    except MaskRefused:
        return
    assert not read.label_map.any()


VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128),
       (128, 128, 128), (64, 0, 0), (192, 0, 0)]  # fmt: skip


def classes(colours: list[tuple[int, int, int]], used: tuple[int, ...], **how: Any) -> tuple[bytes, Drawn]:
    """A palette image of class numbers in stripes, and the numbers."""
    numbers = np.zeros(SIZE, dtype=np.uint8)
    for at, number in enumerate(used):
        numbers[10:30, 8 + 9 * at : 14 + 9 * at] = number
    picture = Picture.frombytes("P", (SIZE[1], SIZE[0]), numbers.tobytes())
    picture.putpalette([value for colour in colours for value in colour])
    return saved(picture, **how), numbers


@pytest.mark.parametrize("used", [(1,), (2,), (1, 2), (1, 2, 3), (3, 1), (1, 9), (1, 8, 9)])
def test_palettes_of_voc_are_class_numbers(used: tuple[int, ...]) -> None:
    data, numbers = classes(VOC, used)
    read = read_mask(data, 1, SIZE)
    assert np.array_equal(read.label_map, numbers) and not read.remark


def test_other_palettes_of_classes_are_numbers_too_and_said_to_be() -> None:
    bright = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    data, numbers = classes(bright, (1, 3))
    read = read_mask(data, 1, SIZE)
    assert np.array_equal(read.label_map, numbers) and read.remark == NUMBERED
    data, numbers = classes([(255, 255, 255), *bright[1:]], (1, 2), transparency=0)
    assert np.array_equal(read_mask(data, 1, SIZE).label_map, numbers)


def test_class_numbers_in_grey_and_without_one_class() -> None:
    numbers = np.zeros(SIZE, dtype=np.uint8)
    numbers[5:9], numbers[20:30] = 1, 3
    for data in (encoded(numbers), saved(Picture.fromarray(numbers).convert("RGB"))):
        for one_class in (None, 2):
            assert np.array_equal(read_mask(data, one_class, SIZE).label_map, numbers)
    identity = Picture.frombytes("P", (SIZE[1], SIZE[0]), numbers.tobytes())
    identity.putpalette([value for level in range(256) for value in (level, level, level)])
    assert np.array_equal(read_mask(saved(identity), 2, SIZE).label_map, numbers)
    assert np.array_equal(
        read_mask(encoded((numbers > 0).astype(np.uint8)), None, SIZE).label_map, numbers > 0
    )
    with pytest.raises(MaskRefused, match="class numbers"):
        read_mask(encoded(numbers * 85), None, SIZE)


def test_class_numbers_are_not_looked_for_in_transparency() -> None:
    for data in (
        saved(layers(square(), (0, 0, 0, 255), (0, 0, 0, 0), "RGBA")),
        transparent_palette(square()),
    ):
        with pytest.raises(MaskRefused, match="opaque"):
            read_mask(data, None, SIZE)


def void(border: int, inside: int = 1) -> bytes:
    values = np.where(square(), inside, 0).astype(np.uint8)
    values[ndimage.binary_dilation(square(), iterations=3) & ~square()] = border
    return encoded(values)


def photo() -> bytes:
    return saved(Picture.fromarray(scene(3, *SIZE)).convert("L"))


def hollow() -> bytes:
    return saved(layers(~square(), (0, 0, 0, 255), (0, 0, 0, 0), "RGBA"))


def faint() -> bytes:
    return saved(layers(square(), (255, 255, 255, 60), (255, 255, 255, 0), "RGBA"))


def hidden() -> bytes:
    return saved(layers(square(), (255, 255, 255, 0), (0, 0, 0, 0), "RGBA"))


def two_inks() -> bytes:
    values = np.zeros((*SIZE, 4), dtype=np.uint8)
    values[5:15, 5:15], values[5:15, 30:40] = (255, 0, 0, 255), (0, 0, 255, 255)
    return saved(Picture.fromarray(values))


def three_greys() -> bytes:
    values = np.zeros(SIZE, dtype=np.uint8)
    values[2:12, 2:12], values[2:12, 20:30], values[2:12, 40:50] = 85, 170, 255
    return encoded(values)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "class 1 with a void border": (lambda: void(255), "class numbers"),
    "class 20 with a void border": (lambda: void(255, 20), "areas of grey"),
    "a grey border": (lambda: void(128, 255), "areas of grey"),
    "a photograph": (photo, "areas of grey"),
    "greys for classes": (three_greys, "areas of grey"),
    "greys for classes, JPEG": (
        lambda: saved(Picture.open(io.BytesIO(three_greys())), "JPEG"),
        "areas of grey",
    ),
    "class numbers, JPEG": (lambda: saved(grey(square(), 3), "JPEG"), "no white"),
    "dark, 16 bit": (lambda: saved(Picture.fromarray(square().astype(np.uint16) * 1000)), "no white"),
    "colours": (lambda: encoded(scene(2, *SIZE)), "colours"),
    "red on black, in RGB": (lambda: saved(layers(square(), (255, 0, 0), (0, 0, 0), "RGB")), "colours"),
    "quantised photograph": (lambda: saved(Picture.fromarray(scene(2, *SIZE)).quantize(32)), "colours"),
    "two inks": (two_inks, "colours"),
    "a hole in one colour": (hollow, "holes"),
    "faint": (faint, "transparent everywhere"),
    "hidden": (hidden, "transparent everywhere"),
    "void of VOC": (lambda: classes([*VOC, *[(224, 224, 192)] * 246], (1, 255))[0], "class number 255"),
    "another size": (lambda: encoded(np.zeros((9, 9), np.uint8)), "its image is"),
    "no picture": (lambda: b"no picture", "cannot be read"),
    "nothing": (lambda: b"", "cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_clear_is_refused_with_one_sentence(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(MaskRefused, match=words) as refused:
        read_mask(make(), 1, SIZE)
    assert "\n" not in str(refused.value)


def test_sixteen_bit_colours_are_read_or_refused() -> None:
    with pytest.raises(MaskRefused, match="colours"):
        read_mask(sixteen_bit_colour(*SIZE), 1, SIZE)


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(max_size=200), head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF", b"BM"])
)
def test_hostile_bytes_are_refused(data: bytes, head: bytes) -> None:
    with pytest.raises(MaskRefused):
        read_mask(head + data, 1, SIZE)
