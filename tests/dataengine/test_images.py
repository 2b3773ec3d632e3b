"""Decoding: what a viewer shows, at native size, within bounds; the rest is refused with its reason."""

import io
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture
from PIL.PngImagePlugin import PngInfo

from dataengine import images
from dataengine.errors import ImageRefused
from tests.pipelines.exchange import pictures

GOOD, BAD = pictures.good_files(), pictures.bad_files()


@pytest.mark.parametrize("name", GOOD)
def test_unusual_pictures_are_taken(name: str) -> None:
    pixels = images.decode(GOOD[name])
    measured = images.measure(GOOD[name])
    assert pixels.dtype == np.uint8 and pixels.shape == (measured.height, measured.width, 3)
    assert pixels.flags.writeable
    with Picture.open(io.BytesIO(measured.thumbnail)) as small:
        assert small.format == "JPEG" and small.mode == "RGB" and max(small.size) <= 256
        longest = max(pixels.shape[:2])
        assert max(small.size) == min(256, longest)


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_their_reason(name: str) -> None:
    data, reason = BAD[name]
    for read in (images.decode, images.measure):
        with pytest.raises(ImageRefused, match=reason):
            read(data)


def test_pixels_are_what_a_viewer_shows() -> None:
    assert np.array_equal(images.decode(GOOD["plain.png"]), pictures.scene(0))
    assert np.array_equal(images.decode(GOOD["old.bmp"]), pictures.scene(4))
    glass = images.decode(GOOD["glass.png"]).astype(int)
    assert np.abs(glass - (pictures.scene(9).astype(int) + 255) / 2).max() <= 2
    cmyk = images.decode(GOOD["cmyk.jpg"]).astype(int)
    assert np.abs(cmyk - pictures.scene(6)).mean() < 4
    deep, shown = pictures.sixteen_bit_grey()
    assert np.array_equal(images.decode(deep), np.repeat(shown[..., None], 3, axis=2))
    assert np.abs(images.decode(GOOD["deep_colour.png"])[0, 0].astype(int) - [255, 128, 0]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_pixels_size_and_thumbnail(orientation: int) -> None:
    upright, data = pictures.scene(1), pictures.turned(orientation)
    expected = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, -1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright),
    }[orientation]
    shown = images.decode(data)
    assert shown.shape == expected.shape and np.abs(shown.astype(int) - expected).mean() < 3
    measured = images.measure(data)
    assert (measured.height, measured.width) == expected.shape[:2]
    with Picture.open(io.BytesIO(measured.thumbnail)) as small:
        assert np.abs(np.asarray(small).astype(int) - expected).mean() < 5


def unturned(data: bytes) -> np.ndarray:
    """As a viewer that knows no EXIF and lays transparency on black."""
    with Picture.open(io.BytesIO(data)) as picture:
        layers = picture.convert("RGBA")
        return np.array(Picture.alpha_composite(Picture.new("RGBA", layers.size, "black"), layers))[..., :3]


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}
"""By EXIF orientation: how the stored pixels are to be turned."""


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("orientation", TURNS)
def test_what_is_sent_needs_no_turning(kind: str, orientation: int) -> None:
    exif = Picture.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = pictures.encoded(pictures.scene(1), kind, exif=exif, **options)
    sent, media_type = images.as_shown(data, f"image/{kind.lower()}")
    assert np.array_equal(unturned(sent), images.decode(data)), "one picture for all"
    assert np.array_equal(images.decode(sent), images.decode(data))
    expected = TURNS[orientation](unturned(data))
    assert np.array_equal(unturned(sent), expected)
    assert (sent == data) == (orientation == 1) and (media_type == "image/png") == (
        sent != data or kind == "PNG"
    )


def test_a_turn_in_xmp_is_taken_too() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    upright = pictures.scene(1)
    webp = pictures.encoded(upright, "WEBP", lossless=True, xmp=xmp)
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    for data in (webp, pictures.encoded(upright, pnginfo=text)):
        sent = images.as_shown(data, "image/webp")[0]
        assert np.array_equal(unturned(sent), images.decode(data))
        assert np.array_equal(images.decode(data), np.rot90(upright, -1))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_transparency_lies_on_one_ground(kind: str) -> None:
    layers = np.dstack([pictures.scene(9), np.full((96, 128), 255, np.uint8)])
    layers[20:40, 20:40, 3] = 0
    picture = Picture.fromarray(layers)
    data = pictures.saved(picture, kind, **({"lossless": True} if kind == "WEBP" else {}))
    sent, media_type = images.as_shown(data, "image/x")
    assert media_type == "image/png" and np.array_equal(unturned(sent), images.decode(data))
    assert (images.decode(data)[20:40, 20:40] == 255).all()


def test_what_every_viewer_shows_alike_is_sent_as_it_is() -> None:
    for name, data in GOOD.items():
        sent, _ = images.as_shown(data, "image/x")
        assert (sent == data) == (name not in ("glass.png", "turned.jpg", "cmyk.jpg")), name
    opaque = np.dstack([pictures.scene(9), np.full((96, 128), 255, np.uint8)])
    for data in (pictures.encoded(opaque), b"no picture", b""):
        assert images.as_shown(data, "image/x") == (data, "image/x")


def test_a_bomb_costs_nothing() -> None:
    data = pictures.bomb()
    tracemalloc.start()
    with pytest.raises(ImageRefused):
        images.measure(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_limits_are_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pictures.encoded(pictures.scene(0))
    assert images.decode(data, max_pixels=96 * 128).shape == (96, 128, 3)
    with pytest.raises(ImageRefused, match="128×96"):
        images.decode(data, max_pixels=96 * 128 - 1)
    monkeypatch.setattr(images, "IMAGE_BYTES", 100)
    with pytest.raises(ImageRefused, match="100 are allowed"):
        images.decode(data)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(GOOD)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6),
    cut=st.floats(0.2, 1),
)
def test_damage_is_refused_or_read_never_worse(name: str, flips: list[tuple[float, int]], cut: float) -> None:
    data = bytearray(GOOD[name])
    for where, flip in flips:
        data[int(where * len(data))] ^= flip
    damaged = bytes(data[: int(cut * len(data))])
    for read in (images.decode, images.measure):
        try:
            read(damaged, 1_000_000)
        except ImageRefused as error:
            assert str(error)


def test_copies_look_alike_and_others_do_not() -> None:
    def hash_of(pixels: np.ndarray, kind: str = "PNG", **options: int) -> int:
        return images.measure(pictures.encoded(pixels, kind, **options)).fingerprint

    scenes = [pictures.scene(n, 192, 256) for n in range(8)]
    prints = [hash_of(scene) for scene in scenes]
    for scene, print_ in zip(scenes, prints, strict=True):
        assert (hash_of(scene, "JPEG", quality=50) ^ print_).bit_count() <= 6
        assert (hash_of(scene[::2, ::2]) ^ print_).bit_count() <= 6
    distances = [(a ^ b).bit_count() for n, a in enumerate(prints) for b in prints[:n]]
    assert min(distances) > 8


def test_layers_of_masks_are_those_stored_and_within_the_same_bounds() -> None:
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = np.stack([255 - np.arange(256), np.arange(256), np.full(256, 7)], axis=1).astype(np.uint8)
    for mode in ("L", "P"):
        body = io.BytesIO()
        stored = Picture.fromarray(numbers)
        if mode == "P":
            stored = Picture.frombytes("P", (4, 3), numbers.tobytes())
            stored.putpalette(palette.ravel().tolist())
        stored.save(body, "PNG")
        layers = images.decode_layers(body.getvalue())
        assert np.array_equal(layers.values, numbers) and layers.alpha is None and not layers.lossy
        assert layers.palette is None if mode == "L" else np.array_equal(layers.palette[:12], palette[:12])
    for refused in (b"", b"no picture", body.getvalue()[:40]):
        with pytest.raises(ImageRefused):
            images.decode_layers(refused)
    with pytest.raises(ImageRefused, match="limit of 11"):
        images.decode_layers(body.getvalue(), max_pixels=11)


def test_thumbnail_of_pixels() -> None:
    with Picture.open(io.BytesIO(images.thumbnail(pictures.scene(0, 600, 300)))) as small:
        assert small.size == (128, 256)
    with Picture.open(io.BytesIO(images.thumbnail(pictures.scene(0)))) as small:
        assert small.size == (128, 96)


def test_real_pictures(shared_data: object) -> None:
    from pathlib import Path

    found = sorted(p for p in Path(str(shared_data)).rglob("*") if p.suffix in (".jpg", ".png", ".webp"))
    assert len(found) > 100
    for path in found[::12]:
        measured, pixels = images.measure(path.read_bytes()), images.decode(path.read_bytes())
        assert pixels.shape == (measured.height, measured.width, 3)
        assert re.fullmatch(r"[0-9a-f]{64}", measured.sha256)
