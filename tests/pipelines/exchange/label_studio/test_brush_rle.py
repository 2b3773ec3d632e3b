"""Label Studio's brush code: exact against its SDK both ways, and bounded on bytes that lie."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_studio_sdk.converter import brush as sdk

from dataengine.errors import MaskRefused
from pipelines.exchange.label_studio import brush_rle
from pipelines.exchange.label_studio.brush_rle import (
    decode_alpha,
    decode_mask,
    decode_values,
    encode_mask,
    encode_values,
)
from tests.pipelines.exchange.rle_pack import pack

SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))


def holes(height: int = 300, width: int = 400) -> np.ndarray:
    """A mask with holes and a run over 65,536 values between its rings, uint8 0/255."""
    rows, columns = np.mgrid[:height, :width]
    distance = (rows - 60) ** 2 + (columns - 90) ** 2
    return (((distance < 40**2) & (distance > 20**2)) * 255).astype(np.uint8)


def masks() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "holes": holes(),
        "empty": np.zeros((257, 129), np.uint8),
        "full": np.full((257, 300), 255, np.uint8),
        "exactly 65,536 values": np.zeros((128, 128), np.uint8),
        "noise": (rng.random((80, 90)) < 0.5).astype(np.uint8) * 255,
        "one pixel": np.array([[255]], np.uint8),
    }


@pytest.mark.parametrize("name", masks())
def test_what_we_write_is_what_the_sdk_writes(name: str) -> None:
    mask = masks()[name]
    assert list(encode_mask(mask)) == sdk.mask2rle(mask)
    assert np.array_equal(decode_mask(sdk.mask2rle(mask), *mask.shape), mask > 0)


@given(st.binary(min_size=1, max_size=300), st.integers(1, 40))
def test_values_both_ways(values: bytes, repeat: int) -> None:
    array = np.repeat(np.frombuffer(values, dtype=np.uint8), repeat)
    code = encode_values(array)
    assert list(code) == sdk.encode_rle(array)
    assert np.array_equal(decode_values(code, len(array)), array)
    assert np.array_equal(sdk.decode_rle(list(code)), array)


@given(SIZES, st.lists(st.sampled_from([0, 0, 1, 7, 255]), min_size=1, max_size=24), st.integers(1, 20))
def test_masks_of_any_values_and_patterns(size: tuple[int, int], pattern: list[int], wide: int) -> None:
    """Pixels are compared eight at a time, so patterns that repeat every eight must not hide."""
    mask = np.resize(np.repeat(np.array(pattern, np.uint8), wide), size)
    expected = sdk.mask2rle(np.where(mask > 0, 255, 0).astype(np.uint8))
    assert list(encode_mask(mask)) == expected
    assert list(encode_mask(mask > 0)) == expected
    assert list(encode_mask(np.asfortranarray(mask.astype(np.float32)))) == expected


def test_codes_longer_than_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = masks()["noise"]
    code = encode_mask(mask)
    for window in (1, 3, 1000):
        monkeypatch.setattr(brush_rle, "WINDOW", window)
        assert np.array_equal(decode_alpha(code, *mask.shape), mask)


@given(SIZES, st.integers(0, 2**32), st.sampled_from([(3, 4, 8, 16), (1, 2, 5, 9), (16, 1, 1, 1)]))
def test_a_browsers_brush_with_literals(size: tuple[int, int], seed: int, fields: tuple[int, ...]) -> None:
    """The editor's own writer puts alpha that changes by the pixel into literal records."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((*size, 4), np.uint8)
    picture[..., 3] = np.clip(rng.normal(100, 120, size), 0, 255)
    picture[..., :3][picture[..., 3] > 0] = (255, 10, 20)
    code = pack(picture.ravel(), fields)
    assert np.array_equal(decode_values(code, picture.size), picture.ravel())
    assert np.array_equal(sdk.decode_rle(list(code)), picture.ravel())
    assert np.array_equal(decode_alpha(list(code), *size), picture[..., 3])
    assert np.array_equal(decode_mask(code, *size), picture[..., 3] >= 128)


def test_alpha_is_a_channel_of_its_own_in_runs_too() -> None:
    picture = np.zeros((40, 50, 4), np.uint8)
    picture[5:20, 10:30] = (255, 255, 255, 130)
    picture[25:30, 10:30] = (255, 255, 255, 120)
    code = encode_values(picture.ravel())
    assert np.array_equal(decode_alpha(code, 40, 50), picture[..., 3])
    assert decode_mask(code, 40, 50).sum() == 15 * 20


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda code: b"", "header"),
        (lambda code: code[:6], "header"),
        (lambda code: code[: len(code) // 2], "ends"),
        (lambda code: (2**32 - 1).to_bytes(4, "big") + code[4:], "values, its mask has"),
        (lambda code: (4).to_bytes(4, "big") + code[4:], "values, its mask has"),
        (lambda code: code[:4] + b"\xff" + code[5:], "words of"),
        (lambda code: [*code, 256], "0 to 255"),
        (lambda code: [*code, None], "0 to 255"),
        (lambda code: code + bytes(10_000_000), "longer than"),
    ],
)
def test_lies_are_refused(change, says: str) -> None:  # type: ignore[no-untyped-def]
    mask = holes(100, 130)
    with pytest.raises(MaskRefused, match=says):
        decode_mask(change(encode_mask(mask)), *mask.shape)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_mask_or_refused(junk: bytes) -> None:
    code = (4 * 30 * 40).to_bytes(4, "big") + encode_mask(np.zeros((30, 40)))[4:7] + junk
    try:
        alpha = decode_alpha(code, 30, 40)
    except MaskRefused:
        return
    assert alpha.shape == (30, 40)
    assert np.array_equal(decode_values(code, 4800).reshape(30, 40, 4)[..., 3], alpha)


def test_memory_stays_with_the_mask_and_not_with_the_lie() -> None:
    giant = (2**32 - 1).to_bytes(4, "big") + encode_mask(np.zeros((100, 100)))[4:]
    mask = holes(1024, 1024)
    code = encode_mask(mask)
    tracemalloc.start()
    with pytest.raises(MaskRefused):
        decode_alpha(giant, 100, 100)
    refused = tracemalloc.get_traced_memory()[1]
    decode_alpha(code, 1024, 1024)
    decoded = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused < 1_000_000
    assert decoded < 12_000_000


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, -1), (100_000, 100_000)])
def test_sizes_outside_all_bounds(height: int, width: int) -> None:
    with pytest.raises(MaskRefused, match="outside"):
        decode_alpha(b"12345678", height, width)


def test_an_empty_mask_has_no_code() -> None:
    with pytest.raises(MaskRefused, match="empty"):
        encode_mask(np.zeros((0, 3)))
