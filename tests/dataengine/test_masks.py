"""Masks: every encoding returns what went in, agrees with the library others use, and refuses lies."""

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco
from scipy import ndimage

from dataengine import masks
from dataengine.errors import MaskRefused

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
label_maps = arrays.arrays(np.uint8, sizes, elements=st.integers(0, 3))
any_class = arrays.arrays(np.uint8, sizes, elements=st.integers(0, masks.MAX_CLASS))


@given(any_class)
def test_packed_label_map_returns(label_map: np.ndarray) -> None:
    packed = masks.pack_label_map(label_map)
    assert np.array_equal(masks.unpack_label_map(packed, *label_map.shape), label_map)


@pytest.mark.parametrize("length", [1, 127, 128, 129, 16383, 16384, 16385, 2_097_151, 2_097_152, 2_097_153])
def test_run_lengths_at_the_edges_of_a_varint(length: int) -> None:
    label_map = np.zeros((1, length + 1), dtype=np.uint8)
    label_map[0, -1] = 2
    packed = masks.pack_label_map(label_map)
    assert np.array_equal(masks.unpack_label_map(packed, 1, length + 1), label_map)


def test_packed_form_is_fixed() -> None:
    """The annotation page writes the same bytes: lengths as varints, each followed by its class."""
    label_map = np.array([[0] * 200 + [3, 1]], dtype=np.uint8)
    assert zlib.decompress(masks.pack_label_map(label_map)) == bytes([0xC8, 0x01, 0, 1, 3, 1, 1])


@given(label_maps, st.binary(max_size=60))
def test_unpacking_noise_never_returns_a_wrong_map(label_map: np.ndarray, noise: bytes) -> None:
    for data in (noise, zlib.compress(noise)):
        try:
            unpacked = masks.unpack_label_map(data, *label_map.shape)
        except MaskRefused:
            continue
        raw = zlib.decompress(data)
        assert zlib.decompress(masks.pack_label_map(unpacked)) == raw


@given(any_class, st.integers(0, 9))
def test_a_packed_map_is_the_same_from_pixels_and_from_any_compressor(
    label_map: np.ndarray, level: int
) -> None:
    made = masks.PackedMap.of(label_map)
    foreign = zlib.compress(zlib.decompress(masks.pack_label_map(label_map)), level)
    read = masks.PackedMap.from_base64(base64.b64encode(foreign).decode(), *label_map.shape)
    assert read == made and made.data == masks.pack_label_map(label_map)
    assert np.array_equal(made.unpack(), label_map) and np.array_equal(read.unpack(), label_map)
    numbers, counts = np.unique(label_map[label_map > 0], return_counts=True)
    assert made.areas == dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    assert made.share == pytest.approx(np.mean(label_map > 0))


def test_a_packed_map_is_checked_when_it_is_made() -> None:
    label_map = np.full((2, 3), 3, np.uint8)
    packed = masks.pack_label_map(label_map)
    text = base64.b64encode(packed).decode()
    for refused in (
        lambda: masks.PackedMap.of(label_map, classes=2),
        lambda: masks.PackedMap.of(label_map, size=(3, 2)),
        lambda: masks.PackedMap.of(label_map.astype(np.int64)),
        lambda: masks.PackedMap.from_bytes(packed, 2, 3, classes=2),
        lambda: masks.PackedMap.from_bytes(packed, 3, 3),
        lambda: masks.PackedMap.from_bytes(packed[:-1], 2, 3),
        lambda: masks.PackedMap.from_bytes(packed, 10**6, 10**6),
        lambda: masks.PackedMap.from_base64(text[:-1] + "!", 2, 3),
    ):
        with pytest.raises(MaskRefused):
            refused()


def test_every_lie_of_a_packed_map_is_refused() -> None:
    def refuse(raw: bytes, height: int = 2, width: int = 3, reason: str = "") -> None:
        with pytest.raises(MaskRefused, match=reason):
            masks.unpack_label_map(raw, height, width)

    good = masks.pack_label_map(np.ones((2, 3), dtype=np.uint8))
    assert masks.unpack_label_map(good, 2, 3).all()
    refuse(good, 2, 4, "covers 6 pixels")
    refuse(good, 3, 1, "covers 6 pixels")
    refuse(good[:-2], reason="truncated")
    refuse(good + b"x", reason="after its end")
    refuse(b"", reason="truncated")
    refuse(b"not zlib", reason="not a zlib stream")
    refuse(zlib.compress(b""), reason="ends within")
    refuse(zlib.compress(bytes([6])), reason="ends within")
    refuse(zlib.compress(bytes([6, 1, 0x80])), reason="ends within")
    refuse(zlib.compress(bytes([6, 200])), reason="ends within")
    refuse(zlib.compress(bytes([6, 0x81, 1])), reason="class above")
    refuse(zlib.compress(bytes([3, 1, 3, 1])), reason="neighbouring")
    refuse(zlib.compress(bytes([0, 2, 6, 1])), reason="empty run")
    refuse(zlib.compress(bytes([0x86, 0x00, 1])), reason="padded")
    refuse(zlib.compress(bytes([0x86, 0x80, 0x80, 0x80, 0x80, 0x01, 1])), reason="beyond the limit")
    refuse(good, 0, 3, "outside")
    refuse(good, 100_000, 100_000, "outside")
    with pytest.raises(MaskRefused, match="class 9"):
        masks.unpack_label_map(masks.pack_label_map(np.full((2, 3), 9, dtype=np.uint8)), 2, 3, classes=3)


@pytest.mark.parametrize("side", [1, 700])
@pytest.mark.parametrize("piece", [1, 7, 1000, 2**18])
def test_pieces_of_any_size_give_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, side: int, piece: int
) -> None:
    side = min(side, 20 * piece)
    rng = np.random.default_rng(side)
    label_map = np.repeat(rng.integers(0, 3, (side, side), dtype=np.uint8), 2, axis=1)
    whole = masks.pack_label_map(label_map)
    reference = zlib.decompress(whole)
    monkeypatch.setattr(masks, "PIECE_BYTES", piece)
    read = masks.PackedMap.from_bytes(zlib.compress(reference, 1), *label_map.shape)
    assert read.data == masks.PackedMap.of(label_map).data == whole
    assert np.array_equal(masks.unpack_label_map(whole, *label_map.shape), label_map)
    runs = masks.read_label_runs([whole, whole], *label_map.shape)
    assert runs.counts.tolist() == [runs.values.size // 2] * 2
    mask = label_map == 1
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert np.array_equal(masks.decode_coco(encoded), mask)


def test_a_decompression_bomb_stays_small() -> None:
    bomb = zlib.compress(bytes(50_000_000))
    with pytest.raises(MaskRefused, match="inflates to more than"):
        masks.unpack_label_map(bomb, 100, 100)


@given(label_maps)
def test_components_equal_scipy(label_map: np.ndarray) -> None:
    numbers, count = masks.components(label_map)
    expected, expected_count = ndimage.label(label_map > 0, structure=np.ones((3, 3)))
    assert count == expected_count and np.array_equal(numbers, expected) and numbers.dtype == np.int32


def test_diagonal_neighbours_are_one_region() -> None:
    mask = np.eye(4, dtype=bool)
    mask[0, 3] = True
    numbers, count = masks.components(mask)
    assert count == 2 and np.bincount(numbers.ravel())[1:].tolist() == [4, 1]


@given(label_maps)
def test_every_class_has_its_mask(label_map: np.ndarray) -> None:
    parts = masks.by_class(label_map)
    assert list(parts) == sorted(set(np.unique(label_map)) - {0})
    assert all(np.array_equal(mask, label_map == number) for number, mask in parts.items())


@given(label_maps)
def test_coco_code_of_pycocotools_is_read(label_map: np.ndarray) -> None:
    mask = label_map == 1
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert np.array_equal(masks.decode_coco(encoded), mask)
    assert np.array_equal(masks.decode_coco({**encoded, "counts": encoded["counts"].decode()}), mask)
    flat = mask.ravel(order="F")
    edges = np.append(np.flatnonzero(np.diff(flat.astype(int))) + 1, flat.size)
    plain = np.diff(edges, prepend=0).tolist()
    assert np.array_equal(
        masks.decode_coco({"size": mask.shape, "counts": [0, *plain] if flat[0] else plain}), mask
    )


@settings(max_examples=200)
@given(st.text(max_size=20) | st.binary(max_size=20) | st.lists(st.integers(-9, 99), max_size=8))
def test_coco_lies_are_refused_or_decoded_exactly(counts: object) -> None:
    try:
        mask = masks.decode_coco({"size": [6, 7], "counts": counts})
    except MaskRefused:
        return
    assert mask.shape == (6, 7) and mask.dtype == bool


@pytest.mark.parametrize(
    "lie",
    [
        {},
        {"size": [3], "counts": "0"},
        {"size": ["a", 2], "counts": "0"},
        {"size": [0, 5], "counts": ""},
        {"size": [100_000, 100_000], "counts": "0"},
        {"size": [2, 2], "counts": [4, 0, 0.5]},
        {"size": [2, 2], "counts": [9, -5]},
        {"size": [2, 2], "counts": [3]},
        {"size": [2, 2], "counts": "P"},
        {"size": [2, 2], "counts": "ooooooooo0"},
    ],
)
def test_coco_refuses(lie: dict) -> None:
    with pytest.raises(MaskRefused):
        masks.decode_coco(lie)


@given(arrays.arrays(np.float32, sizes, elements=st.floats(0, 1, width=32)))
def test_confidence_in_eight_bits(confidence: np.ndarray) -> None:
    stored = masks.quantise(confidence)
    assert stored.dtype == np.uint8
    assert np.abs(masks.dequantise(stored) - confidence).max() <= 1 / 510 + 1e-6
    assert np.array_equal(masks.quantise(masks.dequantise(stored)), stored)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -0.01, 1.01])
def test_confidence_outside_its_range_is_refused(wrong: float) -> None:
    with pytest.raises(MaskRefused):
        masks.quantise(np.array([[0.5, wrong]], dtype=np.float32))


def test_label_map_checks() -> None:
    good = np.zeros((2, 3), dtype=np.uint8)
    assert masks.check_label_map(good, size=(2, 3)) is good
    for wrong in (
        good.astype(np.int32),
        good[0],
        np.zeros((0, 3), dtype=np.uint8),
        np.full((2, 3), 200, np.uint8),
    ):
        with pytest.raises(MaskRefused):
            masks.check_label_map(wrong)
    with pytest.raises(MaskRefused, match="its image"):
        masks.check_label_map(good, size=(3, 2))


def test_overlays_tint_where_they_should() -> None:
    image = np.full((2, 2, 3), 100, dtype=np.uint8)
    confidence = np.array([[0, 255], [128, 0]], dtype=np.uint8)
    tinted = masks.overlay_confidence(image, confidence, colour=(255, 0, 0), strength=1.0)
    assert tinted[0, 0].tolist() == [100, 100, 100] and tinted[0, 1].tolist() == [255, 0, 0]
    assert 100 < tinted[1, 0, 0] < 255
    assert np.array_equal(
        masks.overlay_confidence(image, masks.dequantise(confidence), (255, 0, 0), 1.0), tinted
    )
    labelled = masks.overlay_labels(image, np.array([[0, 1], [2, 3]], dtype=np.uint8), strength=1.0)
    assert [tuple(labelled[y, x]) for y, x in ((0, 1), (1, 0), (1, 1))] == list(masks.PALETTE[:3])
    assert labelled[0, 0].tolist() == [100, 100, 100]
    with pytest.raises(MaskRefused):
        masks.overlay_labels(image, np.zeros((3, 2), dtype=np.uint8))
