"""Maps: what went into a pack comes out by its reference, and damage is named."""

import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dataengine.errors import Corrupt, MaskRefused, NotFound
from storage.stores.blobs import Blobs
from storage.stores.maps import MapRef, Maps


@pytest.fixture
def maps() -> Maps:
    return Maps(Blobs(f"memory://{uuid.uuid4().hex}"))


any_map = arrays.arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30)))


@settings(max_examples=30, deadline=None)
@given(pack=st.lists(any_map, max_size=6), seed=st.integers(0, 9))
def test_round_trip(pack: list[np.ndarray], seed: int) -> None:
    maps = Maps(Blobs(f"memory://{uuid.uuid4().hex}"))
    references = maps.put_many(pack)
    assert len(references) == len(pack) and len(list(maps.blobs.stored())) == bool(pack)
    order = np.random.default_rng(seed).permutation(len(pack))
    for found, index in zip(maps.get_many([references[i] for i in order]), order, strict=True):
        assert np.array_equal(found, pack[index])
    for reference, one in zip(references, pack, strict=True):
        assert np.array_equal(maps.get(reference), one)
        assert str(MapRef.parse(reference)) == reference


def test_a_confidence_map_becomes_small(maps: Maps) -> None:
    one = np.zeros((512, 512), dtype=np.uint8)
    one[100:200, 100:200] = 200
    reference = maps.put_many([one])[0]
    assert MapRef.parse(reference).length < 500


def test_few_of_a_big_pack_are_read_alone(maps: Maps, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pack = [rng.integers(0, 256, (20, 20), dtype=np.uint8) for _ in range(10)]
    references = maps.put_many(pack)
    whole: list[str] = []
    get = maps.blobs.get
    monkeypatch.setattr(maps.blobs, "get", lambda name: whole.append(name) or get(name))
    maps.get_many(references[:2])
    assert whole == []
    maps.get_many(references)
    assert len(whole) == 1


def test_damage_and_nonsense_are_named(maps: Maps) -> None:
    rng = np.random.default_rng(0)
    reference = maps.put_many([rng.integers(0, 256, (20, 20), dtype=np.uint8)])[0]
    where = MapRef.parse(reference)
    key = f"{maps.blobs.root}/{where.pack[:2]}/{where.pack}"
    good = bytearray(maps.blobs.fs.cat_file(key))
    for position in (5, len(good) // 2, len(good) - 1):
        bad = bytearray(good)
        bad[position] ^= 0xFF
        maps.blobs.fs.pipe_file(key, bytes(bad))
        with pytest.raises(Corrupt):
            maps.get(reference)
    maps.blobs.fs.pipe_file(key, bytes(good))
    for wrong in (reference.replace("20x20", "20x21"), f"{where.pack}:3:9:20x20"):
        with pytest.raises(Corrupt):
            maps.get(wrong)
    for wrong in ("", "abc", reference.replace("20x20", "0x20"), reference.replace(where.pack, "0" * 64)):
        with pytest.raises(NotFound):
            maps.get(wrong)
    for wrong in (np.zeros((2, 2), np.float32), np.zeros(4, np.uint8), np.zeros((0, 3), np.uint8)):
        with pytest.raises(MaskRefused):
            maps.put_many([wrong])
