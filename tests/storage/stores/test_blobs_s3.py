"""Blobs on an S3 store, through s3fs, against a small server that keeps objects in memory."""

from collections.abc import Iterator

import pytest

from dataengine.errors import Corrupt, NotFound
from storage.stores.blobs import Blobs
from tests.object_store import URL, object_store

pytest.importorskip("s3fs", reason="the extra `s3` is not installed")


@pytest.fixture
def blobs() -> Iterator[Blobs]:
    """A store with the environment of compose.yaml."""
    with object_store():
        made = Blobs(URL)
        made.fs.invalidate_cache()
        yield made


def test_blobs_on_s3(blobs: Blobs) -> None:
    one, two = blobs.put_many([b"one", b"another one"])
    assert blobs.put(b"one") == one, "what is there is kept"
    assert (blobs.get(one), blobs.get_range(two, 2, 5), blobs.size(two)) == (b"one", b"other", 11)
    assert blobs.has(one) and not blobs.has("0" * 64) and blobs.path_or_none(one) is None
    blobs.fs.invalidate_cache()
    assert {each.sha256: each.size for each in blobs.stored()} == {one: 3, two: 11}
    assert blobs.delete(two)
    with pytest.raises(NotFound):
        blobs.get(two)
    blobs.fs.pipe_file(blobs._key(one), b"0ne")
    with pytest.raises(Corrupt):
        blobs.get(one)
